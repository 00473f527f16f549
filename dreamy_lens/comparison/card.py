"""A feature's card: dreams, the text of a corpus that drives it most, and what it does to the logits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from dreamy_lens import _upcalls
from dreamy_lens._files import write_text
from dreamy_lens.comparison.comparison import Comparison
from dreamy_lens.errors import DreamyLensError
from dreamy_lens.results.attribution import Attribution
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.results.logit_effect import LogitEffect
from dreamy_lens.results.merged import Merged
from dreamy_lens.scan.feature_examples import FeatureExamples


@dataclass(frozen=True, eq=False, repr=False)
class Card:
    """A feature's page and what is on it. Made by :func:`dreamy_lens.card`; a notebook shows it.

    Attributes:
        comparison: of the dreams and the windows of the corpus: frontier, sentence, figure.
        merged: the runs.
        examples: of the feature in the corpus.
        logit_effect: the tokens that it promotes and suppresses; false, with the reason, where there is none.
        attributions: by index into the frontier, of prompts all along it.
        unattributed: why there are none, if so.
    """

    comparison: Comparison
    merged: Merged
    examples: FeatureExamples
    logit_effect: LogitEffect
    attributions: Mapping[int, Attribution] = field(default_factory=dict)
    unattributed: str = ""

    @property
    def title(self) -> str:
        """The feature in short."""
        return self.comparison.title

    @property
    def sentence(self) -> str:
        """How dreams and corpus compare."""
        return self.comparison.sentence

    def to_html(self, path: str | os.PathLike[str] | None = None, *, top: int = 16, static: bool = False) -> str:
        """The card as one self-contained page, which fetches nothing and reads without scripts.

        Args:
            path: a file to write it to as well.
            top: how many of the strongest windows it has.
            static: without any script, for mail and for print; otherwise the run's panel is on it too, which answers
                clicks with no kernel.

        Returns:
            The page.
        """
        text = _upcalls.card_page(self, top=top, static=static)
        if path is not None:
            write_text(path, text)
        return text

    def _repr_html_(self) -> str:
        return _upcalls.card_fragment(self)

    def __repr__(self) -> str:
        comparison = self.comparison
        effect = repr(self.logit_effect).partition(": ")[2].rstrip(")") or "none"
        return (
            f"Card({self.title} on {comparison.model}, {len(comparison.frontier)} dreams, "
            f"{self.examples.windows:,} windows of {comparison.scanned.corpus}, logit effect: {effect})"
        )

    def __str__(self) -> str:
        return f"{self.title} on {self.comparison.model}\n{self.comparison.summary}\n{self.logit_effect}"


def attribute_frontier(frontier: Frontier, strips: int, k: int) -> tuple[dict[int, Attribution], str]:
    """Attribute prompts from all along a frontier.

    Args:
        frontier: the prompts.
        strips: prompts that are attributed at most.
        k: substitutes tried at each position.

    Returns:
        Attributions by index into the frontier; and the reason why there are no more, if the feature has no gradient.
    """
    shown = set(frontier.spread(strips))
    attributions: dict[int, Attribution] = {}
    for i, prompt in enumerate(frontier):
        if prompt in shown:
            try:
                attributions[i] = prompt.attribution(k=k)
            except DreamyLensError as error:  # a feature without a gradient has a frontier all the same
                return attributions, str(error)
    return attributions, ""

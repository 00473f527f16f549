"""Card of a feature: its dreams, the windows of a corpus that activate it most, and its effect on the logits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from dreamy_lens import _upcalls
from dreamy_lens._files import check_page, write_text
from dreamy_lens._host import working
from dreamy_lens.comparison.comparison import Comparison
from dreamy_lens.errors import DreamyLensError
from dreamy_lens.results.attribution import Attribution
from dreamy_lens.results.baselines import Baselines
from dreamy_lens.results.continuation import Continuation
from dreamy_lens.results.explanation import Explanation
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.results.logit_effect import LogitEffect
from dreamy_lens.results.mechanisms import Mechanisms
from dreamy_lens.results.merged import Merged
from dreamy_lens.results.steering import Steering
from dreamy_lens.results.upstream import Upstream
from dreamy_lens.scan.feature_examples import FeatureExamples

PARTS = ("mechanisms", "upstream", "downstream", "words", "calibration")
"""Parts that say what the dreams mean."""


@dataclass(frozen=True, eq=False, repr=False)
class Card:
    """Card of a feature from :func:`dreamy_lens.card`: a page, and the results on it. A notebook displays the page.

    Attributes:
        comparison: Comparison of the dreams with the windows of the corpus.
        merged: Runs that made the dreams.
        examples: Examples of the feature in the corpus.
        logit_effect: Tokens that the feature promotes and suppresses; false, with the reason, without a direct path.
        attributions: Attributions of prompts all along the frontier, by index into the frontier.
        unattributed: Reason why there are no attributions; empty if there are.
        continuations: Continuations of prompts all along the frontier, by index into the frontier.
        not_continued: Reason why there are no continuations; empty if there are, or if none were asked for.
        mechanisms: Ways in which the dreams and the windows drive the feature.
        upstream: Contributions of components to the strongest dream's value.
        downstream: What the model predicts and writes after that dream with the feature changed, beside placebos.
        words: Explanation in words, or at least its prompt and the prediction scores.
        calibration: Values of random prompts.
        absent: Reason why one of the five of `PARTS` is None, by its name; those that were not asked for have none.
        code: Program that makes the card again, as Python; "" if it is unknown.
    """

    comparison: Comparison
    merged: Merged
    examples: FeatureExamples
    logit_effect: LogitEffect
    attributions: Mapping[int, Attribution] = field(default_factory=dict)
    unattributed: str = ""
    continuations: Mapping[int, Continuation] = field(default_factory=dict)
    not_continued: str = ""
    mechanisms: Mechanisms | None = None
    upstream: Upstream | None = None
    downstream: Steering | None = None
    words: Explanation | None = None
    calibration: Baselines | None = None
    absent: Mapping[str, str] = field(default_factory=dict)
    code: str = ""

    @property
    def title(self) -> str:
        """Short name of the feature."""
        return self.comparison.title

    @property
    def sentence(self) -> str:
        """Comparison of dreams and corpus in one sentence."""
        return self.comparison.sentence

    def to_html(self, path: str | os.PathLike[str] | None = None, *, top: int = 10, static: bool = False) -> str:
        """Return the card as one self-contained page, which fetches nothing and is readable without scripts.

        Args:
            path: File to which the page is also written; None writes no file.
            top: Number of strongest windows on the page; fewer if it would have more than 200 kB.
            static: Whether to leave out all scripts, for mail and print. Otherwise the page also has the panel of the
                run, which answers clicks without a kernel.
        """
        if path is not None:
            check_page(path)
        with working("Making the page"):
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


def attribute_prompts(frontier: Frontier, strips: int, k: int) -> tuple[dict[int, Attribution], str]:
    """Compute attributions of prompts all along a frontier.

    Args:
        frontier: Frontier with the prompts.
        strips: Most prompts that are attributed.
        k: Number of substitutes tried at each position.

    Returns:
        Attributions by index into the frontier, and the reason why some are missing; the reason is empty if none is
        missing.
    """
    selected = set(frontier.spread(strips))
    attributions: dict[int, Attribution] = {}
    for i, prompt in enumerate(frontier):
        if prompt in selected:
            try:
                attributions[i] = prompt.attribution(k=k)
            except DreamyLensError as error:  # a feature without a gradient has a frontier, but no attributions
                return attributions, str(error)
    return attributions, ""


def continue_prompts(frontier: Frontier, strips: int, n_tokens: int) -> tuple[dict[int, Continuation], str]:
    """Let the model continue prompts all along a frontier with its most probable tokens.

    Args:
        frontier: Frontier with the prompts.
        strips: Most prompts that are continued.
        n_tokens: Number of tokens that the model writes after each.

    Returns:
        Continuations by index into the frontier, and the reason why some are missing; the reason is empty if none is
        missing.
    """
    selected = set(frontier.spread(strips))
    continuations: dict[int, Continuation] = {}
    for i, prompt in enumerate(frontier):
        if prompt in selected and n_tokens:
            try:
                continuations[i] = prompt.generate(n_tokens)
            except DreamyLensError as error:  # such as a prompt that fills the context, or a model that is not causal
                return continuations, str(error)
    return continuations, ""

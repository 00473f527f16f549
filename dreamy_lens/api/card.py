"""`card()`: one feature on one page, with dreams, the text that drives it most, and what it does to the logits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamy_lens.errors import DreamyLensError, SettingsError

if TYPE_CHECKING:
    from dreamy_lens.comparison.comparison import Comparison
    from dreamy_lens.models.hooked_model import HookedModel
    from dreamy_lens.results.attribution import Attribution
    from dreamy_lens.results.logit_effect import LogitEffect
    from dreamy_lens.results.merged import Merged
    from dreamy_lens.runs.dream import Dream
    from dreamy_lens.scan.feature_examples import FeatureExamples

SCAN_SETTINGS = ("k", "length", "tokens", "stride", "context", "cross_entropy", "sample", "seed", "batch_size")
"""Settings of a scan that may be given as `scan=`, besides `out` and `cache`."""


@dataclass(frozen=True, eq=False, repr=False)
class Card:
    """A feature's page and what is on it. Made by :func:`card`; a notebook shows it.

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
        from dreamy_lens.panels.card_page import page

        text = page(self, top=top, static=static)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8", errors="replace")
        return text

    def _repr_html_(self) -> str:
        from dreamy_lens.panels.card_page import fragment

        return fragment(self)

    def __repr__(self) -> str:
        of = self.comparison
        effect = repr(self.logit_effect).partition(": ")[2].rstrip(")") or "none"
        return (
            f"Card({self.title} on {of.model}, {len(of.frontier)} dreams, {self.examples.windows:,} windows of "
            f"{of.scanned.corpus}, logit effect: {effect})"
        )

    def __str__(self) -> str:
        return f"{self.title} on {self.comparison.model}\n{self.comparison.summary}\n{self.logit_effect}"


def card(
    feature: Any,
    model: Any = None,
    corpus: Any = None,
    *,
    run: Any = None,
    examples: Any = None,
    scan: Mapping[str, Any] | None = None,
    path: str | os.PathLike[str] | None = None,
    strips: int = 8,
    k: int = 32,
    progress: bool | None = None,
    **settings: Any,
) -> Card:
    """A page about one feature: dreams with their attribution, the text that drives it most, and its logit effect.

    Args:
        feature: an expression or its text.
        model: a bridge, a Hugging Face id or folder; None is the embedded model, or that of `run`.
        corpus: as for :func:`dreamy_lens.max_activating`; None is the documentation of the installed Python packages.
        run: dreams to show: a Dream, several of the feature, or the folder of one. None dreams now.
        examples: of the feature in a corpus, from :func:`dreamy_lens.max_activating`: those of many features will do,
            and so does their folder. None scans the corpus now, or opens what was scanned before.
        scan: settings of that scan, such as ``{"tokens": 1_000_000}``; windows have as many tokens as dreams.
        path: a file for the page.
        strips: how many dreams, spread from fluent to strong, have their tokens' attribution shown.
        k: substitutes tried at each of their positions.
        progress: whether to show progress; None shows it in terminals and notebooks.
        **settings: as for :func:`dreamy_lens.dream`: ``iterations=100``, ``seeds=[0, 1]``, ``constraints=...``. With
            a `fluency_model` the corpus is scanned with it too.

    Returns:
        A Card: `.to_html(path)`, `.logit_effect`, `.comparison`, `.examples`, `.merged`.

    Raises:
        FeatureError: or one of its kinds, if the feature does not fit the model; nothing has been searched yet.
        CorpusError: there is no such corpus.
        SettingsError: the run is of another feature, or settings are given for what is not done.
        ExamplesError: the examples are of another model, fluency model, feature or BOS convention than the run.

    >>> import dreamy_lens as dl
    >>> from dreamy_lens.api.card import card
    >>> texts = ["Return a copy of the array, with axes transposed.", "Raise an error if the file is not found."]
    >>> of = card("L2.N17", corpus=texts, scan={"cache": False}, iterations=2, population=2, children=4, length=6)
    >>> of.title, len(of.logit_effect.promoted), "<script" in of.to_html(static=True)
    ('blocks.2.mlp.hook_post[-1, 17]', 10, False)
    """
    from dreamy_lens.analysis.logit_effects import logit_effect
    from dreamy_lens.api.compare import compare
    from dreamy_lens.api.dream import dream
    from dreamy_lens.api.max_activating import max_activating
    from dreamy_lens.comparison.compatibility import check_same_fluency, opened
    from dreamy_lens.corpus import Corpus, open_corpus
    from dreamy_lens.features.parser import parse

    asked = _scan_settings(scan, examples)
    if run is not None and settings:
        raise SettingsError(
            f"{', '.join(settings)} would be for dreams, and the run that is given is not dreamt again. Leave out "
            "either those or run=."
        )
    if examples is not None and corpus is not None:
        raise SettingsError("Both a corpus and examples are given, and examples have their corpus; keep one.")
    expression = parse(feature)
    merged = None if run is None else _merged(run, expression, model)
    hooked = _model(model, merged)
    if settings.get("fluency_model") is not None:
        settings["fluency_model"] = _fluency(settings["fluency_model"], hooked)
    if examples is not None:
        examples = opened(examples)
        if merged is None:  # before anything that takes long
            named = settings.get("fluency_model")
            check_same_fluency(None if named is None else named.name, examples.header)
    bos = settings.get("prepend_bos") if merged is None else merged.runs[0].provenance.prepend_bos
    effect = logit_effect(expression, hooked, prepend_bos=bos)
    if examples is None and not isinstance(corpus, Corpus):
        corpus = open_corpus(corpus)  # before anything that takes long
    if merged is None:
        merged = _merged(dream(expression, hooked, progress=progress, wait=True, **settings), expression, model)
    if examples is None:
        asked = {"length": _length(merged), "prepend_bos": merged.runs[0].provenance.prepend_bos, **asked}
        asked["fluency_model"] = _fluency_of(merged)
        examples = max_activating(expression, hooked, corpus, progress=progress, **asked)
    comparison = compare(merged, examples)
    found, why = _attributions(merged, strips, k)
    return _written(Card(comparison, merged, _examples(examples, merged), effect, found, why), path)


def _scan_settings(scan: Mapping[str, Any] | None, examples: Any) -> dict[str, Any]:
    found = dict(scan or {})
    if found and examples is not None:
        raise SettingsError("scan= has settings for a scan, and the examples that are given are not scanned again.")
    known = (*SCAN_SETTINGS, "out", "cache")
    if wrong := [name for name in found if name not in known]:
        raise SettingsError(f"scan= has {', '.join(map(repr, wrong))}; a card's scan takes {', '.join(known)}.")
    return found


def _merged(run: Any, feature: Any, model: Any) -> Merged:
    """The runs of the feature, as one."""
    from dreamy_lens.api.dream import load_run
    from dreamy_lens.results.merged import Merged, merge
    from dreamy_lens.runs.dreams import Dreams

    if isinstance(run, (str, os.PathLike)):
        run = load_run(run, model)
    if isinstance(run, Dreams):
        run = list(run)
    if not isinstance(run, Merged):
        run = list(run) if isinstance(run, (list, tuple)) else [run]
        same = {str(feature), str(feature.absolute())}
        ours = [one for one in run if one.provenance.feature in same]
        if run and not ours:
            there = ", ".join(dict.fromkeys(one.provenance.feature for one in run))
            raise SettingsError(f"The card is of {feature}, and the run is of {there}; give the run of this feature.")
        run = merge(ours)
    return run


def _length(merged: Merged) -> int:
    """Tokens of the dreams."""
    return len(merged.frontier[0]) if len(merged.frontier) else _dreams(merged)[0].config.length


def _model(model: Any, merged: Merged | None) -> HookedModel:
    """What everything is asked of: the run's own model, which may be in memory, if no other is given."""
    from dreamy_lens.models.load import as_hooked

    if model is not None or merged is None:
        return as_hooked(model)
    dreams = _dreams(merged)
    return dreams[0].session.scorer.model if dreams else as_hooked(merged.runs[0].provenance.model)


def _fluency(given: Any, model: HookedModel) -> HookedModel | None:
    """The model whose cross-entropy counts; None is the feature's own, under whichever name it is given."""
    from dreamy_lens.models.load import as_hooked

    found = as_hooked(given)
    return None if found is model else found


def _fluency_of(merged: Merged) -> HookedModel | None:
    """The fluency model of runs, if they have one: a scan that is made for them has the same."""
    named = next((run for run in _dreams(merged) if run._fluency_name), None)
    return None if named is None else named.session.scorer.fluency


def _dreams(merged: Merged) -> list[Dream]:
    from dreamy_lens.runs.dream import Dream

    return [run for run in merged.runs if isinstance(run, Dream)]


def _examples(given: Any, merged: Merged) -> FeatureExamples:
    from dreamy_lens.comparison.compatibility import examples_of

    return examples_of(given, merged)


def _attributions(merged: Merged, strips: int, k: int) -> tuple[dict[int, Attribution], str]:
    """Of prompts from all along the frontier; or why there are none."""
    shown = set(merged.frontier.spread(strips))
    found: dict[int, Attribution] = {}
    for i, prompt in enumerate(merged.frontier):
        if prompt in shown:
            try:
                found[i] = prompt.attribution(k=k)
            except DreamyLensError as error:  # a feature without a gradient has a frontier all the same
                return found, str(error)
    return found, ""


def _written(made: Card, path: str | os.PathLike[str] | None) -> Card:
    if path is not None:
        made.to_html(path)
    return made

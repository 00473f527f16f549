"""`card()`: one feature on one page, with dreams, the text that drives it most, and what it does to the logits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from dreamy_lens.analysis.logit_effects import logit_effect
from dreamy_lens.api.compare import compare
from dreamy_lens.api.dream import dream, load_run
from dreamy_lens.api.max_activating import max_activating
from dreamy_lens.comparison.card import Card, attribute_frontier
from dreamy_lens.comparison.compatibility import check_same_fluency, examples_of, opened
from dreamy_lens.comparison.merged_runs import fluency_model_of, merge_runs_of, model_of, prompt_length
from dreamy_lens.corpus import Corpus, open_corpus
from dreamy_lens.errors import SettingsError
from dreamy_lens.features.parser import parse
from dreamy_lens.models.load import as_hooked
from dreamy_lens.scan.config import ScanConfig

SCAN_SETTINGS = tuple(field.name for field in fields(ScanConfig) if field.name != "prepend_bos")
"""Settings of a scan that may be given as `scan=`, besides `out` and `cache`; the runs decide on the BOS."""


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
    >>> page = card("L2.N17", corpus=texts, scan={"cache": False}, iterations=2, population=2, children=4, length=6)
    >>> page.title, len(page.logit_effect.promoted), "<script" in page.to_html(static=True)
    ('blocks.2.mlp.hook_post[-1, 17]', 10, False)
    """
    asked = _scan_settings(scan, examples)
    if run is not None and settings:
        raise SettingsError(
            f"{', '.join(settings)} would be for dreams, and the run that is given is not dreamt again. Leave out "
            "either those or run=."
        )
    if examples is not None and corpus is not None:
        raise SettingsError("Both a corpus and examples are given, and examples have their corpus; keep one.")
    expression = parse(feature)
    if isinstance(run, (str, os.PathLike)):
        run = load_run(run, model)
    merged = None if run is None else merge_runs_of(expression, run)
    hooked = as_hooked(model) if model is not None or merged is None else model_of(merged)
    fluency = settings.get("fluency_model")
    if fluency is not None:  # the feature's own model is none, under whichever name it is given
        fluency = as_hooked(fluency)
        settings["fluency_model"] = fluency = None if fluency is hooked else fluency
    # Whatever may fail is tried before anything that takes long.
    if examples is not None:
        examples = opened(examples)
        if merged is None:
            check_same_fluency(None if fluency is None else fluency.name, examples.header)
    bos = settings.get("prepend_bos") if merged is None else merged.runs[0].provenance.prepend_bos
    effect = logit_effect(expression, hooked, prepend_bos=bos)
    if examples is None and not isinstance(corpus, Corpus):
        corpus = open_corpus(corpus)
    if merged is None:
        merged = merge_runs_of(expression, dream(expression, hooked, progress=progress, wait=True, **settings))
    if examples is None:
        asked = {"length": prompt_length(merged), "prepend_bos": merged.runs[0].provenance.prepend_bos, **asked}
        asked["fluency_model"] = fluency_model_of(merged)
        examples = max_activating(expression, hooked, corpus, progress=progress, **asked)
    comparison = compare(merged, examples)
    attributions, reason = attribute_frontier(merged.frontier, strips, k)
    made = Card(comparison, merged, examples_of(examples, merged), effect, attributions, reason)
    if path is not None:
        made.to_html(path)
    return made


def _scan_settings(scan: Mapping[str, Any] | None, examples: Any) -> dict[str, Any]:
    settings = dict(scan or {})
    if settings and examples is not None:
        raise SettingsError("scan= has settings for a scan, and the examples that are given are not scanned again.")
    known = (*SCAN_SETTINGS, "out", "cache")
    if wrong := [name for name in settings if name not in known]:
        raise SettingsError(f"scan= has {', '.join(map(repr, wrong))}; a card's scan takes {', '.join(known)}.")
    return settings

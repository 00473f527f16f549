"""Page about one feature, with dreams, the corpus text that drives it most, and its logit effect: `card()`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from dreamy_lens._files import check_page
from dreamy_lens._host import say, silenced, working
from dreamy_lens.analysis.logit_effects import find_logit_effect
from dreamy_lens.api.card_parts import card_parts, checked_parts
from dreamy_lens.api.compare import compare
from dreamy_lens.api.dream import dream, load_run
from dreamy_lens.api.max_activating import max_activating
from dreamy_lens.api.signatures import show_settings
from dreamy_lens.cluster.remote_scan import local_examples
from dreamy_lens.comparison.card import PARTS, Card, attribute_prompts, continue_prompts
from dreamy_lens.comparison.compatibility import check_same_fluency, examples_of, open_examples
from dreamy_lens.comparison.merged_runs import fluency_model_of, merge_runs_of, model_of, prompt_length
from dreamy_lens.corpus import Corpus, open_corpus
from dreamy_lens.corpus.documentation import notice_of_scan
from dreamy_lens.errors import FileWriteError, SettingsError, quoted, warn
from dreamy_lens.features.parser import parse
from dreamy_lens.models.load import as_hooked
from dreamy_lens.runs.call_code import call_code
from dreamy_lens.scan.config import ScanConfig
from dreamy_lens.scan.storage import check_out

SCAN_SETTINGS = tuple(field.name for field in fields(ScanConfig) if field.name != "prepend_bos")
"""Settings of a scan that `scan=` accepts, besides `out` and `cache`. The BOS is that of the runs."""


@silenced
def card(
    feature: Any,
    model: Any = None,
    corpus: Any = None,
    *,
    run: Any = None,
    examples: Any = None,
    scan: Mapping[str, Any] | None = None,
    path: str | os.PathLike[str] | None = None,
    strips: int = 6,
    k: int = 32,
    continue_tokens: int = 16,
    parts: Sequence[str] | str = PARTS,
    llm: Any = None,
    llm_model: str | None = None,
    held_out_model: Any = None,
    progress: bool | None = None,
    **settings: Any,
) -> Card:
    """Make one page about a feature: its dreams, text that drives it most, where it comes from, what it does.

    Args:
        feature: Expression, or its text such as ``"L2.N17"``.
        model: TransformerBridge, Hugging Face id, or folder of a model; None is the model of `run`, or without `run`
            the embedded model.
        corpus: Anything that :func:`dreamy_lens.corpus.open` takes; None is the documentation of the installed Python
            packages.
        run: Dreams to show: a :class:`Dream`, several of the feature, or the folder of one. None makes a new run.
        examples: Examples of the feature in a corpus, from :func:`dreamy_lens.max_activating`, or the folder or
            URL that holds them. They may be those of many features. None scans `corpus`, or opens a cached scan of it.
        scan: Settings of that scan, such as ``{"tokens": 1_000_000}``. By default, windows have as many tokens as the
            dreams.
        path: File to write the page to; None writes no file.
        strips: Number of dreams, spread from fluent to strong, whose attribution is shown.
        k: Number of substitutes that the attribution tries at each position.
        continue_tokens: Number of tokens that the model writes after each of these dreams, taking the most probable
            token at each step; 0 writes none.
        parts: Parts that say what the dreams mean: "mechanisms", the ways in which they drive the feature; "upstream",
            the components that make the strongest dream's value; "downstream", what the model predicts and writes with
            the feature changed, beside placebos; "words", an explanation with scores; "calibration", the dreams against
            1,024 random prompts and the windows. `parts=()` makes none of them.
        llm: Language model that is asked for the explanation, as in :func:`dreamy_lens.explain`; None asks none.
        llm_model: Name of the model at the address `llm`.
        held_out_model: Model whose cross-entropy of each dream is shown; it should not be one that the search used.
        progress: Whether to show progress; None shows it in terminals and notebooks.
        **settings: Settings of :func:`dreamy_lens.dream`, such as ``iterations=100``, ``seeds=[0, 1]`` or
            ``constraints=...``. A `fluency_model` also measures the cross-entropy of the corpus.

    Returns:
        A :class:`~dreamy_lens.comparison.Card`: `.to_html(path)`, `.logit_effect`, `.comparison`, `.examples`,
        `.merged`, and the parts by their names; `.absent` has the reason for one that cannot be computed. A notebook
        displays it.

    Raises:
        FeatureError: The feature does not fit the model. No search has begun.
        CorpusError: The corpus does not exist.
        FileWriteError: `path` cannot be written. No search has begun; later, when it has, a warning says so instead.
        SettingsError: The run is of another feature, or there are settings for a search or a scan that is not done.
        ExamplesError: The examples belong to another model, fluency model, feature or BOS convention than the run.

    >>> import dreamy_lens as dl
    >>> texts = ["Return a copy of the array, with axes transposed.", "Raise an error if the file is not found."]
    >>> page = dl.card("L2.N17", corpus=texts, scan={"cache": False}, iterations=2, population=2, children=4, length=6)
    >>> page.title, len(page.logit_effect.promoted), "<script" in page.to_html(static=True)
    ('L2.N17', 10, False)
    """
    code = call_code("card", card, locals(), ("path", "progress"))
    names = checked_parts(parts)
    scan_settings = _check_scan_settings(scan, examples)
    if isinstance(continue_tokens, bool) or not isinstance(continue_tokens, int) or continue_tokens < 0:
        raise SettingsError(
            f"continue_tokens is {quoted(continue_tokens)}; it is the number of tokens that the model writes after "
            "each dream, at least 0."
        )
    if path is not None:
        check_page(path)
    if scan_settings.get("out") is not None:
        check_out(scan_settings["out"])
    if run is not None and settings:
        raise SettingsError(
            f"With run= the card makes no new dreams, so {', '.join(settings)} would have no effect. Leave out either "
            "these settings or run=."
        )
    if examples is not None and corpus is not None:
        raise SettingsError(
            "Both corpus= and examples= are given, but examples come from a corpus already; keep one of them."
        )
    if examples is None and corpus is None:
        say(notice_of_scan(scan_settings.get("tokens"), 'scan={"tokens": "500k"}', "corpus=..."), progress)
    expression = parse(feature)
    if isinstance(run, (str, os.PathLike)):
        run = load_run(run, model)
    merged = None if run is None else merge_runs_of(expression, run)
    hooked = as_hooked(model) if model is not None or merged is None else model_of(merged)
    fluency = settings.get("fluency_model")
    if fluency is not None:  # the feature's own model, by any name, counts as no fluency model
        fluency = as_hooked(fluency)
        settings["fluency_model"] = fluency = None if fluency is hooked else fluency
    # Everything that may fail comes before everything that takes long.
    if examples is not None:
        examples = open_examples(local_examples(examples))
        if merged is None:
            check_same_fluency(None if fluency is None else fluency.name, examples.header)
    bos = settings.get("prepend_bos") if merged is None else merged.runs[0].provenance.prepend_bos
    with working("Computing the logit effect", progress):
        effect = find_logit_effect(expression, hooked, prepend_bos=bos)
    if examples is None and not isinstance(corpus, Corpus):
        corpus = open_corpus(corpus)
    if merged is None:
        merged = merge_runs_of(expression, dream(expression, hooked, progress=progress, wait=True, **settings))
    if examples is None:
        bos = merged.runs[0].provenance.prepend_bos
        scan_settings = {"length": prompt_length(merged), "prepend_bos": bos, **scan_settings}
        scan_settings["fluency_model"] = fluency_model_of(merged)
        examples = max_activating(expression, hooked, corpus, progress=progress, **scan_settings)
    comparison = compare(merged, examples, progress=progress)
    with working("Computing the attributions of the dreams", progress):
        attributions, reason = attribute_prompts(merged.frontier, strips, k)
    with working("Continuing the dreams", progress):
        continued, why_not = continue_prompts(merged.frontier, strips, continue_tokens)
    shown = examples_of(examples, merged)
    found, absent = card_parts(
        names, expression, hooked, merged, shown, llm, llm_model, held_out_model, progress=progress
    )
    result = Card(
        comparison, merged, shown, effect, attributions, reason, continued, why_not, **found, absent=absent, code=code
    )
    if path is not None:
        try:
            result.to_html(path)
        except FileWriteError as error:
            warn(f"{error} The card is complete: card.to_html(path) writes it.", RuntimeWarning)
    return result


def _check_scan_settings(scan: Mapping[str, Any] | None, examples: Any) -> dict[str, Any]:
    """Return the settings of the scan, or raise SettingsError."""
    settings = dict(scan or {})
    if settings and examples is not None:
        raise SettingsError(
            "scan= has settings of a scan, but with examples= the card scans nothing. Leave out scan= or examples=."
        )
    known = (*SCAN_SETTINGS, "out", "cache")
    if unknown := [name for name in settings if name not in known]:
        raise SettingsError(f"scan= has no setting {', '.join(map(repr, unknown))}; there are: {', '.join(known)}.")
    return settings


_OF_DREAM = {name: each.default for name, each in inspect.signature(dream).parameters.items()}
"""Keywords of `dream` with their defaults; the card takes those that it does not have itself as settings."""

show_settings(card, _OF_DREAM, without=("feature", "model", "progress", "wait"))

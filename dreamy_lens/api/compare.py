"""Comparison of dreams with the text of a corpus: `compare()`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from dreamy_lens._host import silenced, working
from dreamy_lens.api.noted_code import notes_code
from dreamy_lens.cluster.remote_scan import local_examples
from dreamy_lens.comparison.build import build_comparison
from dreamy_lens.comparison.comparison import Comparison
from dreamy_lens.comparison.merged_runs import merge_runs
from dreamy_lens.corpus import open_corpus
from dreamy_lens.errors import SettingsError, names_keywords, quoted
from dreamy_lens.scan.page import QUANTILES


@silenced
@names_keywords
@notes_code("comparison")
def compare(
    runs: Any,
    examples: Any,
    *,
    limits: float | Iterable[float] | None = None,
    quantiles: Sequence[float] = QUANTILES,
    corpus: Any = None,
    values: bool | None = None,
    progress: bool | None = None,
) -> Comparison:
    """Compare dreams with the windows of a corpus that drive the same feature most (Figure 3 of the paper).

    Args:
        runs: A :class:`Dream`, several of the same feature, or the result of :func:`dreamy_lens.results.merge`. If a
            run still goes on, the comparison waits for its end.
        examples: Examples of the same feature on the same model, from :func:`dreamy_lens.max_activating`, or the
            folder that holds them. They may be those of many features.
        limits: Largest cross-entropies, in nats per token, at which the best dream and the best window are compared;
            infinity is no limit. None chooses them; the first is the cross-entropy of the corpus' strongest window.
        quantiles: Quantiles of the corpus, from 0 to 1, whose windows are shown beside the strongest ones.
        corpus: Corpus that is read once more, from end to end, to find how much of each dream occurs in it word for
            word: a corpus, or anything that :func:`dreamy_lens.corpus.open` takes. None searches only the windows
            that the scan kept.
        values: Whether to compute the feature's value at every token of the dreams, which needs the model. None does
            so if the model is in memory.
        progress: Whether to show a progress bar while `corpus` is read; None shows it in terminals and notebooks.

    Returns:
        A :class:`~dreamy_lens.comparison.Comparison`: `.sentence`, `.summary`, `.figure()`, `.to_html(path)`,
        `.to_pandas()`. A notebook displays it.

    Raises:
        ExamplesError: The examples belong to another model, fluency model, tokenizer, feature or BOS convention.
        SettingsError: The runs are of several features, or a limit or quantile is outside its range.

    >>> import dreamy_lens as dl
    >>> run = dl.dream("L2.N17", iterations=2, population=2, children=4, length=6)
    >>> examples = dl.max_activating("L2.N17", corpus=["Return a copy of the array.", "Open the file."], length=6)
    >>> comparison = dl.compare(run, examples)
    >>> comparison.sentence == str(comparison.headline) and len(comparison.beyond) == len(run.frontier)
    True
    """
    merged = merge_runs(runs)
    corpus = None if corpus is None else open_corpus(corpus)
    chosen_limits = _parse_limits(limits)
    for q in quantiles:
        if not 0 <= q <= 1:
            raise SettingsError(f"A quantile is a share from 0 to 1, such as 0.99; got {quoted(q)}.")
    with working("Comparing the dreams with the windows of the corpus", progress):
        return build_comparison(merged, local_examples(examples), chosen_limits, quantiles, corpus, values, progress)


def _parse_limits(given: float | Iterable[float] | None) -> tuple[float, ...] | None:
    """Return the limits as a tuple, or raise SettingsError."""
    if given is None:
        return None
    try:
        limits = tuple(float(x) for x in (given if isinstance(given, Iterable) else [given]))
    except (TypeError, ValueError):
        limits = ()
    if not limits or any(math.isnan(x) or x <= 0 for x in limits):
        raise SettingsError(
            f"limits are cross-entropies in nats per token, such as 4 or [3, 4, 5]; got {quoted(given)}."
        )
    return limits

"""Dreams against data: `compare()` holds runs against the windows of a corpus."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from dreamy_lens.comparison.build import build_comparison
from dreamy_lens.comparison.comparison import Comparison
from dreamy_lens.comparison.merged_runs import merge_runs
from dreamy_lens.corpus import open_corpus
from dreamy_lens.errors import SettingsError
from dreamy_lens.scan.page import QUANTILES


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
    """Hold dreams against the text that drives the same feature most in a corpus (Figure 3 of the paper).

    Args:
        runs: a dream, several of one feature, or what :func:`dreamy_lens.merge` returns. Reading them waits for runs
            that still go on.
        examples: of the same feature on the same model, from :func:`dreamy_lens.max_activating`; those of many
            features will do, and so does the folder they are in.
        limits: cross-entropies, in nats per token, below which both are compared; infinity is no limit. None chooses:
            first the fluency of the corpus' strongest window.
        quantiles: shares of the corpus of whose strength windows are shown, beside the strongest.
        corpus: read once more, from end to end, to find out how much of each dream stands in it word for word; None
            looks only into the windows that were kept. Anything that :func:`dreamy_lens.corpus.open` takes.
        values: whether the feature's value at every token of the dreams is worked out, for which the model is needed;
            None does so if it is in memory.
        progress: whether to show a bar while `corpus` is read; None shows one in terminals and notebooks.

    Returns:
        A Comparison: `.sentence`, `.summary`, `.figure()`, `.to_html(path)`, `.to_pandas()`; a notebook shows it.

    Raises:
        ExamplesError: the examples are of another model, fluency model, tokenizer, feature or BOS convention.
        SettingsError: the runs are of several features, or a limit or quantile is outside its range.

    >>> import dreamy_lens as dl
    >>> run = dl.dream("L2.N17", iterations=2, population=2, children=4, length=6)
    >>> examples = dl.max_activating("L2.N17", corpus=["Return a copy of the array.", "Open the file."], length=6)
    >>> comparison = dl.compare(run, examples)
    >>> comparison.sentence == str(comparison.headline) and len(comparison.beyond) == len(run.frontier)
    True
    """
    merged = merge_runs(runs)
    corpus = None if corpus is None else open_corpus(corpus)
    chosen = _limits(limits)
    for q in quantiles:
        if not 0 <= q <= 1:
            raise SettingsError(f"A quantile is a share from 0 to 1, such as 0.99; got {q!r}.")
    return build_comparison(merged, examples, chosen, quantiles, corpus, values, progress)


def _limits(given: float | Iterable[float] | None) -> tuple[float, ...] | None:
    if given is None:
        return None
    try:
        limits = tuple(float(x) for x in (given if isinstance(given, Iterable) else [given]))
    except (TypeError, ValueError):
        limits = ()
    if not limits or any(math.isnan(x) or x <= 0 for x in limits):
        raise SettingsError(f"limits are cross-entropies in nats per token, such as 4 or [3, 4, 5]; got {given!r}.")
    return limits

"""Sentences and verdicts of claims."""

from __future__ import annotations

from typing import Any

import numpy as np

from dreamy_lens.html.numbers import decimals, number
from dreamy_lens.results.study import FAILS, HOLDS, NOT_MEASURED


def verdict(holds: bool | None) -> str:
    """Return the verdict of a condition; None is "not measured".

    >>> verdict(True), verdict(False), verdict(None)
    ('holds', 'does not hold', 'not measured')
    """
    return NOT_MEASURED if holds is None else HOLDS if holds else FAILS


def span_text(values: Any) -> str:
    """Return the lowest, the highest and the median of values, in words.

    >>> span_text([1.0, 3.0, 2.5]), span_text([2.0])
    ('from 1.000 to 3.000, median 2.500', '2.000')
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return "no finite values"
    places = decimals([float(known.min()), float(known.max())])
    low, high, middle = (number(float(x), places) for x in (known.min(), known.max(), np.median(known)))
    return f"from {low} to {high}, median {middle}" if len(known) > 1 else low


def mean_text(values: Any) -> str:
    """Return mean and standard deviation (N - 1) of values, in words.

    >>> mean_text([1.0, 3.0])
    '2.000 ± 1.414'
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return "no finite values"
    places = decimals([float(np.abs(known).max())])
    mean = number(float(known.mean()), places)
    return f"{mean} ± {number(float(known.std(ddof=1)), places)}" if len(known) > 1 else mean


def bootstrap(values: Any, seed: int = 0, draws: int = 2000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of values; NaN for fewer than two.

    >>> low, high = bootstrap([1.0, 2.0, 3.0])
    >>> 1.0 <= low < 2.0 < high <= 3.0
    True
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if len(known) < 2:
        return float("nan"), float("nan")
    means = np.random.default_rng(seed).choice(known, (draws, len(known))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    return low, high

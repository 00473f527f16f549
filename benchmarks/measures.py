"""Frontiers, areas and paired statistics for benchmarks, independent of the measured code.

A point is (value, cross-entropy). A higher value and a lower cross-entropy are better.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np


def arrivals(value: np.ndarray, cross_entropy: np.ndarray) -> np.ndarray:
    """Find the rows that no earlier row matches or beats in both numbers, in order.

    For every N, the frontier of the first N rows is the frontier of the arrivals among them. So the arrivals of a
    history are enough to follow its frontier.
    """
    ces: list[float] = []
    values: list[float] = []
    rows = []
    for row, (v, ce) in enumerate(zip(value.tolist(), cross_entropy.tolist(), strict=True)):
        before = bisect_right(ces, ce)
        if before and values[before - 1] >= v:
            continue
        start, stop = bisect_left(ces, ce), bisect_right(values, v)
        ces[start : max(start, stop)] = [ce]
        values[start : max(start, stop)] = [v]
        rows.append(row)
    return np.array(rows, dtype=np.int64)


def frontier(points: np.ndarray) -> np.ndarray:
    """Find the non-dominated points among `[N, 2]` points, from low to high cross-entropy."""
    points = points[np.lexsort((-points[:, 0], points[:, 1]))]
    best = np.maximum.accumulate(points[:, 0])
    return points[np.append(True, points[1:, 0] > best[:-1])] if len(points) else points.reshape(-1, 2)


def hull(points: np.ndarray) -> np.ndarray:
    """Find the points of the frontier that are best under some weight of cross-entropy: its upper convex hull."""
    kept: list[np.ndarray] = []
    for point in frontier(points):
        while len(kept) > 1:
            (v1, c1), (v2, c2) = kept[-2], kept[-1]
            if (v2 - v1) * (point[1] - c1) > (point[0] - v1) * (c2 - c1):
                break
            kept.pop()
        kept.append(point)
    return np.array(kept).reshape(-1, 2)


def hypervolume(points: np.ndarray, floor: float, ceiling: float) -> float:
    """Area that the points dominate, above the value `floor` and below the cross-entropy `ceiling`."""
    best = frontier(points[(points[:, 0] > floor) & (points[:, 1] < ceiling)])
    if not len(best):
        return 0.0
    widths = np.diff(np.append(best[:, 1], ceiling))
    return float(((best[:, 0] - floor) * widths).sum())


def log_ratio(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Natural logarithm of the ratio of means over seeds, `[features]`, from areas `[features, seeds]`."""
    return np.log(ours.mean(axis=-1)) - np.log(theirs.mean(axis=-1))


def bootstrap(ours: np.ndarray, theirs: np.ndarray, draws: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the geometric-mean ratio.

    Each draw resamples the features, and for each feature the seeds of either side. The seeds of the two sides are not
    paired, because equal seeds start different random prompts.
    """
    random = np.random.default_rng(seed)
    features, seeds = ours.shape
    chosen = random.integers(features, size=(draws, features, 1))
    a = ours[chosen, random.integers(seeds, size=(draws, features, seeds))]
    b = theirs[chosen, random.integers(seeds, size=(draws, features, seeds))]
    with np.errstate(divide="ignore", invalid="ignore"):
        means = log_ratio(a, b).mean(axis=-1)
    low, high = np.exp(np.quantile(means[~np.isnan(means)], [0.025, 0.975]))  # draws of only empty areas have none
    return float(low), float(high)


def sign_test(differences: np.ndarray) -> tuple[int, int, float]:
    """Count the positive differences and the differences that are not zero, and compute the exact two-sided p."""
    ahead, total = int((differences > 0).sum()), int((differences != 0).sum())
    tail = sum(math.comb(total, k) for k in range(min(ahead, total - ahead) + 1)) / 2**total
    return ahead, total, min(1.0, 2 * tail)


def wilcoxon(differences: np.ndarray) -> float:
    """Exact two-sided p of Wilcoxon's signed-rank test (zeros dropped, ties share the mean of their ranks)."""
    differences = differences[differences != 0]
    size = np.abs(differences)
    doubled = [round(2 * ((size < s).sum() + ((size == s).sum() + 1) / 2)) for s in size]  # twice the rank: an integer
    ways = np.zeros(sum(doubled) + 1)
    ways[0] = 1.0
    for rank in doubled:
        ways[rank:] = ways[rank:] + ways[: len(ways) - rank]
    positive = sum(rank for rank, d in zip(doubled, differences, strict=True) if d > 0)
    less = min(positive, sum(doubled) - positive)
    return min(1.0, 2 * float(ways[: less + 1].sum() / ways.sum()))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write rows of text under a header, with the first column aligned left and the others right."""
    width = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        return "  ".join([row[0].ljust(width[0]), *(c.rjust(w) for c, w in zip(row[1:], width[1:], strict=True))])

    return "\n".join([line(head), "  ".join("-" * w for w in width), *map(line, rows)])

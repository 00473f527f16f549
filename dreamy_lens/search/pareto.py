"""Pareto frontiers of value and cross-entropy: non-dominated rows, convex hull and hypervolume of arrays.

High values and low cross-entropies are good. A row whose value or cross-entropy is not finite is never on a frontier.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np
from numpy.typing import ArrayLike


def non_dominated(value: ArrayLike, cross_entropy: ArrayLike) -> np.ndarray:
    """Return the rows that no other row beats, from fluent to strong.

    A row beats another if it is at least as good in both scores and better in one. Of several equal rows, only the
    first is returned. Along the result, cross-entropy and value both rise strictly.

    Args:
        value: Value of each row, `[N]`.
        cross_entropy: Cross-entropy of each row in nats per token, `[N]`.

    Returns:
        Row numbers `[F]`.

    >>> non_dominated(value=[1, 5, 4, 5], cross_entropy=[2, 6, 7, 6])
    array([0, 1])
    """
    v, c = _columns(value, cross_entropy)
    # By cross-entropy, then by falling value. The sort is stable, so the first of several equal rows stays first.
    order = np.lexsort((-v, c))
    order = order[np.isfinite(v[order]) & np.isfinite(c[order])]
    best = np.maximum.accumulate(v[order])
    return order[np.concatenate([[True], v[order][1:] > best[:-1]])] if order.size else order


def hull_rows(value: ArrayLike, cross_entropy: ArrayLike) -> np.ndarray:
    """Return the rows that maximize value - λ · cross-entropy for some λ >= 0: the corners of the convex hull.

    These are the prompts that a line joins in the paper's figures. Concave parts of the frontier are left out.

    Args:
        value: Value of each row, `[N]`.
        cross_entropy: Cross-entropy of each row in nats per token, `[N]`.

    Returns:
        Row numbers from fluent to strong, a subset of :func:`non_dominated`.

    >>> hull_rows(value=[0, 1, 4], cross_entropy=[2, 3, 4])
    array([0, 2])
    """
    v, c = _columns(value, cross_entropy)
    corners: list[int] = []
    for row in non_dominated(v, c).tolist():
        while len(corners) > 1:
            a, b = corners[-2:]
            turn = (c[b] - c[a]) * (v[row] - v[a]) - (v[b] - v[a]) * (c[row] - c[a])
            if turn < 0:
                break
            corners.pop()
        corners.append(row)
    return np.array(corners, dtype=np.intp)


def hypervolume(value: ArrayLike, cross_entropy: ArrayLike, reference: tuple[float, float]) -> float:
    """Return the area between the frontier and a reference point. Larger is better.

    Two hypervolumes are comparable only if their references are equal.

    Args:
        value: Value of each row, `[N]`.
        cross_entropy: Cross-entropy of each row in nats per token, `[N]`.
        reference: (value, cross-entropy); only rows that are better in both add to the area.

    Returns:
        Area in units of value times nats per token.

    >>> hypervolume(value=[1, 3], cross_entropy=[2, 4], reference=(0, 5))
    5.0
    """
    v, c = _columns(value, cross_entropy)
    rows = non_dominated(v, c)
    v, c = v[rows], c[rows]
    inside = (v > reference[0]) & (c < reference[1])
    steps = np.diff(v[inside], prepend=reference[0])
    return float(np.sum(steps * (reference[1] - c[inside])))


class Staircase:
    """Frontier that grows one prompt at a time, so that a long run does not sort its history again.

    Attributes:
        rows: Rows of the frontier, from fluent to strong, equal to the result of :func:`non_dominated`.
        value: Value of each row of the frontier.
        cross_entropy: Cross-entropy of each row of the frontier in nats per token.
    """

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.value: list[float] = []
        self.cross_entropy: list[float] = []

    def add(self, row: int, value: float, cross_entropy: float) -> bool:
        """Add one prompt with finite scores, and return whether it is on the frontier now."""
        after = bisect_right(self.cross_entropy, cross_entropy)  # all rows before `after` are at least as fluent
        if after and self.value[after - 1] >= value:
            return False
        beaten = slice(bisect_left(self.cross_entropy, cross_entropy), bisect_right(self.value, value))
        self.rows[beaten], self.value[beaten], self.cross_entropy[beaten] = [row], [value], [cross_entropy]
        return True

    def hypervolume(self, reference: tuple[float, float]) -> float:
        """Return the hypervolume of all prompts that were added, as the function :func:`hypervolume` does."""
        area, below = 0.0, reference[0]
        for v, c in zip(self.value, self.cross_entropy, strict=True):
            if c >= reference[1]:
                break
            if v > below:
                area, below = area + (v - below) * (reference[1] - c), v
        return area


def _columns(value: ArrayLike, cross_entropy: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return both columns as float64 arrays, or raise an error if their shapes differ."""
    v, c = np.asarray(value, dtype=np.float64), np.asarray(cross_entropy, dtype=np.float64)
    if v.ndim != 1 or v.shape != c.shape:
        raise ValueError(f"value and cross_entropy must both be [N]; got {list(v.shape)} and {list(c.shape)}")
    return v, c

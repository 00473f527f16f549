"""Which prompts nothing beats: non-domination, its convex part, and the area it covers. Pure functions of arrays.

A prompt is better if its value is higher and its cross-entropy lower. Scores that are not finite are never on a
frontier.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np
from numpy.typing import ArrayLike


def non_dominated(value: ArrayLike, cross_entropy: ArrayLike) -> np.ndarray:
    """Rows that no other row beats, from fluent to strong.

    A row is beaten if another is at least as good in both and better in one; of equal rows the earliest stands for all.
    Along the result, cross-entropy and value both rise strictly.

    Args:
        value: `[N]`.
        cross_entropy: `[N]`, nats per token.

    Returns:
        Row numbers `[F]`.

    >>> non_dominated(value=[1, 5, 4, 5], cross_entropy=[2, 6, 7, 6])
    array([0, 1])
    """
    v, c = _columns(value, cross_entropy)
    order = np.lexsort(
        (-v, c)
    )  # by cross-entropy, then the higher value; stable, so the earliest of equals comes first
    order = order[np.isfinite(v[order]) & np.isfinite(c[order])]
    best = np.maximum.accumulate(v[order])
    return order[np.concatenate([[True], v[order][1:] > best[:-1]])] if order.size else order


def hull_rows(value: ArrayLike, cross_entropy: ArrayLike) -> np.ndarray:
    """Rows that are best under value - λ · cross-entropy for some λ >= 0: the corners of the frontier's convex hull.

    These are the prompts the paper's figures join; concave parts of the frontier are left out.

    Args:
        value: `[N]`.
        cross_entropy: `[N]`, nats per token.

    Returns:
        Row numbers, from fluent to strong, a subset of :func:`non_dominated`.

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
    """Area between the frontier and a reference point: larger is better, and only equal references compare.

    Args:
        value: `[N]`.
        cross_entropy: `[N]`, nats per token.
        reference: (value, cross-entropy); rows not better than it in both add nothing.

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
    """A frontier that grows one prompt at a time, so that a long run never sorts its history again.

    Attributes:
        rows: rows of the frontier, from fluent to strong, as :func:`non_dominated` would give them.
    """

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.value: list[float] = []
        self.cross_entropy: list[float] = []

    def add(self, row: int, value: float, cross_entropy: float) -> bool:
        """Take in one finite prompt; says whether it is on the frontier now."""
        after = bisect_right(self.cross_entropy, cross_entropy)  # what lies before is at least as fluent
        if after and self.value[after - 1] >= value:
            return False
        beaten = slice(bisect_left(self.cross_entropy, cross_entropy), bisect_right(self.value, value))
        self.rows[beaten], self.value[beaten], self.cross_entropy[beaten] = [row], [value], [cross_entropy]
        return True

    def hypervolume(self, reference: tuple[float, float]) -> float:
        """As the function :func:`hypervolume` of everything taken in."""
        area, below = 0.0, reference[0]
        for v, c in zip(self.value, self.cross_entropy, strict=True):
            if c >= reference[1]:
                break
            if v > below:
                area, below = area + (v - below) * (reference[1] - c), v
        return area


def _columns(value: ArrayLike, cross_entropy: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    v, c = np.asarray(value, dtype=np.float64), np.asarray(cross_entropy, dtype=np.float64)
    if v.ndim != 1 or v.shape != c.shape:
        raise ValueError(f"value and cross_entropy must both be [N]; got {list(v.shape)} and {list(c.shape)}")
    return v, c

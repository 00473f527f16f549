"""Prompts of several lengths in one array: shorter ones stand at the right, behind places that hold no token.

So the last tokens of all prompts are in one column, as are those at any distance from the end, where most features
read. The model never sees the empty places: prompts are taken out of the array, one length at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

EMPTY = -1
"""Id at a place that holds no token."""


def lengths_of(rows: Int64[np.ndarray, "B n"]) -> Int64[np.ndarray, " B"]:
    """Return the number of tokens of each prompt.

    >>> lengths_of(np.array([[EMPTY, 3, 4], [5, 6, 7]]))
    array([2, 3])
    """
    return (rows != EMPTY).sum(axis=1)


def without_empty(row: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
    """Return the tokens of one prompt.

    >>> without_empty(np.array([EMPTY, 3, 4]))
    array([3, 4])
    """
    return row[row != EMPTY]


def right_aligned(prompts: Iterable[Any], width: int) -> Int64[np.ndarray, "B n"]:
    """Return prompts, each a sequence of at most `width` ids, as one array.

    >>> right_aligned([[3, 4], [5, 6, 7]], width=3)
    array([[-1,  3,  4],
           [ 5,  6,  7]])
    """
    listed = list(prompts)
    rows = np.full((len(listed), width), EMPTY, dtype=np.int64)
    for row, prompt in zip(rows, listed, strict=True):
        row[width - len(prompt) :] = prompt
    return rows


def by_length(rows: Int64[np.ndarray, "B n"]) -> list[tuple[np.ndarray, Int64[np.ndarray, "K m"]]]:
    """Split prompts by their length.

    Returns:
        For each length, from short to long: the numbers of its prompts, `[K]`, and their tokens without empty places.

    >>> [(which.tolist(), ids.tolist()) for which, ids in by_length(np.array([[5, 6, 7], [EMPTY, 3, 4]]))]
    [([1], [[3, 4]]), ([0], [[5, 6, 7]])]
    """
    if not len(rows) or rows[:, 0].min() != EMPTY:  # the usual case: all places hold tokens
        return [(np.arange(len(rows)), rows)]
    lengths, width = lengths_of(rows), rows.shape[1]
    groups = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
    return [(which, rows[which, width - lengths[which[0]] :]) for which in groups]


def in_order(which: Sequence[np.ndarray], parts: Sequence[np.ndarray]) -> np.ndarray:
    """Put together what was computed for each part of :func:`by_length`, in the order of the prompts.

    >>> in_order([np.array([1]), np.array([0, 2])], [np.array([10.0]), np.array([20.0, 30.0])])
    array([20., 10., 30.])
    """
    if len(parts) == 1:
        return parts[0]
    joined = np.concatenate(parts)
    return joined[np.argsort(np.concatenate(which))]

"""Groups of prompts: clusters of their fingerprints, spread choices among them, and the diversity of their texts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Int64

from dreamy_lens.search.lengths import EMPTY

ORDER = 4
"""Longest runs of tokens that BLEU counts."""


def average_linkage(ways: Float[np.ndarray, "P U"], similar: float) -> Int64[np.ndarray, " P"]:
    """Cluster directions: join the two clusters with the highest mean cosine, as long as it is at least `similar`.

    Args:
        ways: Directions, each of length 1.
        similar: Least mean cosine between the members of two clusters that are joined.

    Returns:
        Number of the cluster of each direction; clusters are numbered by their first members.

    >>> average_linkage(np.eye(3)[[0, 1, 0, 2, 1]], 0.5)
    array([0, 1, 0, 2, 1])
    """
    cosine = (ways @ ways.T).astype(np.float64)
    np.fill_diagonal(cosine, -np.inf)
    size, label = np.ones(len(ways)), np.arange(len(ways))
    while len(ways) > 1:
        i, j = sorted(divmod(int(cosine.argmax()), len(ways)))
        if not cosine[i, j] >= similar:
            break
        mean = (size[i] * cosine[i] + size[j] * cosine[j]) / (size[i] + size[j])
        mean[[i, j]] = -np.inf
        cosine[i], cosine[:, i] = mean, mean
        cosine[j], cosine[:, j] = -np.inf, -np.inf
        size[i] += size[j]
        label[label == j] = i
    return np.unique(label, return_inverse=True)[1].reshape(-1).astype(np.int64)


def spread_rows(ids: Int64[np.ndarray, "N n"], first: int, count: int) -> Int64[np.ndarray, " K"]:
    """Choose prompts that differ in as many tokens as possible: each is the one furthest from those chosen so far.

    Args:
        ids: Token ids; shorter prompts stand at the right, behind -1.
        first: Row to begin with.
        count: Largest number of prompts to choose; prompts equal to a chosen one are left out.
    """
    chosen, distance = [first], (ids != ids[first]).sum(axis=1)
    while len(chosen) < count and len(ids):
        row = int(distance.argmax())
        if not distance[row]:
            break
        chosen.append(row)
        distance = np.minimum(distance, (ids != ids[row]).sum(axis=1))
    return np.array(chosen, dtype=np.int64)


def nearest_rows(ids: Int64[np.ndarray, "N n"], others: Int64[np.ndarray, "K n"]) -> Int64[np.ndarray, " N"]:
    """Return, for each prompt, the number of the other prompt with which it shares most tokens at their positions."""
    shared = np.full(len(ids), -1)
    nearest = np.zeros(len(ids), dtype=np.int64)
    for number, other in enumerate(others):
        same = ((ids == other) & (other != EMPTY)).sum(axis=1)
        nearest[same > shared] = number
        shared = np.maximum(shared, same)
    return nearest


def self_bleu(prompts: Sequence[Sequence[int]]) -> float:
    """Return the mean BLEU of each prompt against all others as its references; NaN for fewer than two prompts.

    BLEU is the geometric mean of the shares of runs of 1 to 4 tokens that a reference has, times the brevity penalty
    for prompts shorter than the nearest reference. A share of 0 counts as half an occurrence.

    >>> self_bleu([[1, 2, 3, 4, 5]] * 3), self_bleu([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]) < 0.2
    (1.0, True)
    """
    if len(prompts) < 2:
        return float("nan")
    runs = [[_runs(p, n) for n in range(1, ORDER + 1)] for p in prompts]
    scores = []
    for i, prompt in enumerate(prompts):
        logs = []
        for n in range(ORDER):
            own = runs[i][n]
            total = sum(own.values())
            if not total:
                continue
            found = sum(min(count, max(r[n][run] for j, r in enumerate(runs) if j != i)) for run, count in own.items())
            logs.append(math.log((found or 0.5) / total))
        lengths = [len(p) for j, p in enumerate(prompts) if j != i]
        near = min(lengths, key=lambda length: (abs(length - len(prompt)), length))
        penalty = 1.0 if len(prompt) >= near else math.exp(1 - near / max(1, len(prompt)))
        scores.append(penalty * math.exp(sum(logs) / max(1, len(logs))))
    return float(np.mean(scores))


def _runs(prompt: Sequence[int], n: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(int(i) for i in prompt[k : k + n]) for k in range(len(prompt) - n + 1))


def mean_distance(vectors: Float64[np.ndarray, "P d"]) -> float:
    """Return the mean cosine distance between two of several vectors; NaN for fewer than two.

    >>> mean_distance(np.eye(3)), round(mean_distance(np.ones((4, 2))), 6)
    (1.0, 0.0)
    """
    if len(vectors) < 2:
        return float("nan")
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    count = len(units)
    return float(1 - ((units @ units.T).sum() - count) / (count * (count - 1)))

"""Offers: the children that ranked moves would make, put together by the host."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64
from torch import Tensor

from dreamy_lens.scoring.swap_tables import SwapTables
from dreamy_lens.search.lengths import EMPTY

KINDS = ("swap", "explore", "pair", "cross", "shift", "insert", "delete")
"""Kinds of moves, in the order of their numbers."""
PAIRS = 3
"""Number of replacements of the same two neighbours that become children."""


class Batch(NamedTuple):
    """Parents of one iteration.

    Attributes:
        rows: Rows of the parents in the archive, `[P]`.
        ids: Their token ids, int64 `[P, n]`.
        weight: Weight of cross-entropy (λ) for which each is changed, in units of the value's scale, float32 `[P]`.
        terms: Number of tokens whose surprisals are averaged in the cross-entropy of each, float32 `[P]`.
        tables: Their swap tables, whose values are divided by the value's scale.
    """

    rows: np.ndarray
    ids: Int64[np.ndarray, "P n"]
    weight: Float32[np.ndarray, " P"]
    terms: Float32[np.ndarray, " P"]
    tables: SwapTables


class Offers(NamedTuple):
    """Children that are offered, in the order of preference within each group.

    Attributes:
        ids: Token ids, int64 `[K, n]`.
        parent: Row of the parent of each in the archive.
        kind: Number of the kind of move of each, in the order of :data:`KINDS`.
        group: Number of the group of each, of which only the first new ones become children.
        quota: Number of children of each group.
        position: For a swap, the position; for a crossing, the cut; else -1.
        predicted: For a swap, the changes of value and cross-entropy that the tables predict, float32 `[2, K]`.
    """

    ids: np.ndarray
    parent: np.ndarray
    kind: np.ndarray
    group: np.ndarray
    quota: np.ndarray
    position: np.ndarray
    predicted: np.ndarray

    def take(self, which: np.ndarray) -> Offers:
        """Return some of the offers."""
        picked = {name: getattr(self, name)[which] for name in ("ids", "parent", "kind", "group", "position")}
        return self._replace(**picked, predicted=self.predicted[:, which])


class Ranking(NamedTuple):
    """Moves as the device has ranked them: what the host knows, and the tensors that it still has to read."""

    known: dict[str, Any]
    tensors: tuple[Tensor, ...]


def make_offers(ranking: Ranking, arrays: tuple[np.ndarray, ...]) -> Offers:
    """Return the children that a ranking offers, with the arrays that its tensors hold."""
    known, rest = ranking.known, iter(arrays)
    batch, counts = known["batch"], known["counts"]
    width = batch.tables.value.shape[-1]
    size = len(counts)
    parts: list[tuple] = []
    quota = [counts[:, 0]]

    flat, *predicted = next(rest), next(rest), next(rest)
    parent = np.repeat(np.arange(size), flat.shape[1])
    position, token = np.divmod(flat.reshape(-1), width)
    parts.append((_swap(batch.ids, parent, position, token), parent, 0, parent, position, np.stack(predicted)))

    parent, position = known["explore"]
    token, *predicted = next(rest), next(rest), next(rest)
    rows = _swap(batch.ids, parent, position, token)
    parts.append((rows, parent, 1, size + parent, position, np.stack(predicted)))
    quota.append(counts[:, 1])

    base = 2 * size
    if "pair" in known:
        parent, position = known["pair"]
        first, second = next(rest), next(rest)
        group = np.repeat(np.arange(len(parent)), first.shape[1])
        parent, position = parent[group], position[group]
        rows = _swap(batch.ids, parent, position, first.reshape(-1))
        rows[np.arange(len(rows)), position + 1] = second.reshape(-1)
        parts.append((rows, parent, 2, base + group, None, None))
        quota.append(np.minimum(PAIRS, counts[:, 2].sum() - PAIRS * np.arange(len(first))))
        base += len(first)
    if "donors" in known:
        flat = next(rest)
        parent = np.repeat(np.arange(size), flat.shape[1])
        donor, cut = np.divmod(flat.reshape(-1), batch.ids.shape[1])
        begins = np.arange(batch.ids.shape[1]) < cut[:, None]
        rows = np.where(begins, known["donors"][donor], batch.ids[parent])
        parts.append((rows, parent, 3, base + parent, cut, None))
        quota.append(counts[:, 3])
        base += size
    if "shift" in known:
        parent, gone, place = known["shift"]
        rows = shifted(batch.ids[parent], gone, place, next(rest))
        parts.append((rows, parent, 4, base + parent, None, None))
        quota.append(counts[:, 4])
        base += size
    if "insert" in known:
        parent, place = known["insert"]
        rows = inserted(batch.ids[parent], place, next(rest))
        parts.append((rows, parent, 5, base + parent, None, None))
        quota.append(counts[:, 5])
        base += size
    if "delete" in known:
        place = next(rest)
        parent = np.repeat(np.arange(size), place.shape[1])
        rows = deleted(batch.ids[parent], place.reshape(-1))
        parts.append((rows, parent, 6, base + parent, None, None))
        quota.append(counts[:, 6])
    lengths = [len(part[0]) for part in parts]
    columns = list(zip(*parts, strict=True))
    nowhere = [np.full(c, -1) if p is None else p for p, c in zip(columns[4], lengths, strict=True)]
    nothing = [
        np.zeros((2, c), np.float32) if p is None else p.reshape(2, -1)
        for p, c in zip(columns[5], lengths, strict=True)
    ]
    return Offers(
        np.ascontiguousarray(np.concatenate(columns[0]), dtype=np.int64),
        batch.rows[np.concatenate(columns[1])],
        np.repeat(columns[2], lengths),
        np.concatenate(columns[3]),
        np.concatenate(quota),
        np.concatenate(nowhere),
        np.concatenate(nothing, axis=1),
    )


def _swap(ids: np.ndarray, parent: np.ndarray, position: np.ndarray, token: np.ndarray) -> np.ndarray:
    """Return copies of the parents' prompts with one token replaced in each."""
    rows = ids[parent]
    rows[np.arange(len(rows)), position] = token
    return rows


def shifted(ids: np.ndarray, gone: np.ndarray, place: np.ndarray, token: np.ndarray) -> np.ndarray:
    """Return prompts without the tokens at `gone`, and with new ones at `place` of the result, `[K, n]`."""
    length = ids.shape[1]
    at = np.arange(length)
    # Between the two places, tokens move by one; elsewhere they stay.
    right = (at > place[:, None]) & (at <= gone[:, None])
    left = (at >= gone[:, None]) & (at < place[:, None])
    source = np.clip(at - right + left, 0, length - 1)
    rows = np.take_along_axis(ids, source, axis=1)
    rows[np.arange(len(rows)), place] = token
    return rows


def inserted(ids: np.ndarray, place: np.ndarray, token: np.ndarray) -> np.ndarray:
    """Return right-aligned prompts `[K, n]` with a new token before the one at `place`; what is before it moves left.

    >>> inserted(np.array([[EMPTY, 3, 4]]), np.array([2]), np.array([9]))
    array([[3, 9, 4]])
    """
    at = np.arange(ids.shape[1])
    rows = np.where(at < place[:, None] - 1, np.roll(ids, -1, axis=1), ids)
    rows[np.arange(len(rows)), place - 1] = token
    return rows


def deleted(ids: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return right-aligned prompts `[K, n]` without the token at `place`; what is before it moves right.

    >>> deleted(np.array([[3, 9, 4]]), np.array([1]))
    array([[-1,  3,  4]])
    """
    moved = np.roll(ids, 1, axis=1)
    moved[:, 0] = EMPTY
    return np.where(np.arange(ids.shape[1]) <= place[:, None], moved, ids)


def rank_within(group: np.ndarray) -> np.ndarray:
    """Return the place of each element among those of its group, in their order.

    >>> rank_within(np.array([7, 5, 7, 7, 5]))
    array([0, 0, 1, 2, 1])
    """
    order = np.argsort(group, kind="stable")
    first = np.r_[0, np.flatnonzero(np.diff(group[order])) + 1]
    sizes = np.diff(np.r_[first, len(group)])
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = np.arange(len(group)) - np.repeat(first, sizes)
    return rank

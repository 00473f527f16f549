"""Rows of tokens as a tree: where every token stands if no prefix that rows share is there twice.

The children of a population differ from their parent in one token, a template stands before every prompt, and an
attribution tries many tokens at one position: most of what plain batches compute has been computed in the row above. A
:class:`PrefixTree` has one *node* for each distinct prefix of the rows. What a causal model computes for a token
depends on the tokens before it and on nothing else, so one value for each node is enough, whatever the layer.

    rows          nodes (in the order of the packed row)
    a b c d       a b c d | x d | y
    a b x d       0 1 2 3   4 5   6
    a b c y
    index = [[0 1 2 3], [0 1 4 5], [0 1 2 6]]

Behind the nodes come a few that stand for nothing, up to a round number: matrix libraries prepare themselves for every
shape that they have not seen yet, which takes as long as the product itself. They are left out of the above.

A row's own nodes are the end of it, from the first token at which it leaves the rows before it. Rows whose own nodes
begin at one position are neighbours (a *group*), so that attention works on whole blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from dreamy_lens.models.transfer import to_device

ROUND = 64
"""Nodes of a packing come in multiples of this."""


@dataclass(frozen=True)
class Group:
    """Rows whose own nodes begin at the same position.

    Attributes:
        start: that position, `s`.
        rows: how many rows, R.
        first: the first of their nodes; all R (n - s) of them follow, row by row.
        keys: the nodes of every position of these rows, int64 `[R n]` in the processor's memory.
    """

    start: int
    rows: int
    first: int
    keys: np.ndarray


@dataclass(frozen=True)
class PrefixTree:
    """A tree of rows `[B, n]`.

    Attributes:
        ids: token of each node that is to be computed, int64 `[T]`, those that stand for nothing at the end.
        positions: its position in its row, int64 `[T]`.
        index: node of every row and position, int64 `[B, n]`; nodes below `known` were computed before.
        known: P, how many first positions, the same in all rows, were computed before.
        groups: all rows that have nodes of their own.
        kept: of the packing that this one was cut from, which of its T nodes are in it, int64 `[T]`; else None.
    """

    ids: Int[Tensor, " node"]
    positions: Int[Tensor, " node"]
    index: Int[Tensor, "batch pos"]
    known: int
    groups: tuple[Group, ...]
    kept: Tensor | None = None
    _starts: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64), repr=False)
    _host: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.int64), repr=False)

    @property
    def nodes(self) -> int:
        """T, how many tokens are to be computed."""
        return len(self.ids)

    @property
    def length(self) -> int:
        """n, positions of a row."""
        return self._host.shape[1]

    @property
    def rows(self) -> int:
        """B, how many rows."""
        return self._host.shape[0]

    @property
    def host_index(self) -> np.ndarray:
        """`index` in the memory of the processor: what is read from it costs no wait for a device."""
        return self._host

    def truncate(self, length: int) -> PrefixTree:
        """The packing of the rows' first `length` positions, whose nodes are some of this one's in the same order."""
        if length >= self.length:
            return self
        kept = np.flatnonzero(self._positions() < length)
        renumbered = np.full(self.known + self.nodes, -1)
        renumbered[: self.known] = np.arange(self.known)
        renumbered[self.known + kept] = self.known + np.arange(len(kept))
        spare = _rounded(len(kept)) - len(kept)
        at = to_device(np.append(kept, np.full(spare, self.nodes - 1)), self.ids.device)  # the last stands for nothing
        return _assembled(
            self.ids[at], self.positions[at], renumbered[self._host[:, :length]], self._starts, self.known, at
        )

    @cached_property
    def owners(self) -> Tensor:
        """Of each node a row and position that it stands at, as `row n + position`, int64 `[T]`."""
        flat = self._host.reshape(-1)
        out = np.zeros(self.known + self.nodes, dtype=np.int64)
        out[flat] = np.arange(flat.size)
        return to_device(out[self.known :], self.ids.device)

    def _positions(self) -> np.ndarray:
        out = np.full(self.nodes, self.length)
        for group in self.groups:
            count = self.length - group.start
            first = group.first - self.known
            out[first : first + group.rows * count] = np.tile(np.arange(group.start, self.length), group.rows)
        return out


def build_tree(rows: Int[np.ndarray, "batch pos"], device: torch.device | str = "cpu", known: int = 0) -> PrefixTree:
    """Build the tree of rows.

    Args:
        rows: rows of token ids; they may be equal, and may come in any order.
        device: where its tensors are to be.
        known: how many first positions, the same in all rows, need not be computed.

    >>> import numpy as np
    >>> packing = build_tree(np.array([[1, 2, 3, 4], [1, 2, 9, 4], [1, 2, 3, 7]]))
    >>> packing.index.tolist()
    [[0, 1, 2, 3], [0, 1, 4, 5], [0, 1, 2, 6]]
    >>> packing.ids[:7].tolist()
    [1, 2, 3, 4, 9, 4, 7]
    """
    rows = np.ascontiguousarray(rows, dtype=np.int64)
    count, length = rows.shape
    order = np.lexsort(rows.T[::-1])  # neighbours share the longest prefixes
    ordered = rows[order]
    starts = np.full(count, known, dtype=np.int64)  # where each row leaves the one before it
    if count > 1:
        differs = ordered[1:] != ordered[:-1]
        starts[1:] = np.where(differs.any(1), differs.argmax(1), length)
    # A node belongs to the last row, up to this one, that left before its position.
    at = np.arange(length)
    owner = np.maximum.accumulate(np.where(starts[:, None] <= at, np.arange(count)[:, None], -1), axis=0)
    by_start = np.argsort(starts, kind="stable")
    own = length - starts
    first = np.empty(count, dtype=np.int64)
    first[by_start] = np.cumsum(own[by_start]) - own[by_start]
    node = np.where(at < known, at, known + first[owner] + at - starts[owner])
    mine = at >= starts[:, None]
    total = int(own.sum())
    ids, positions = np.full(_rounded(total), rows[0, 0]), np.zeros(_rounded(total), dtype=np.int64)
    slots = node[mine] - known
    ids[slots], positions[slots] = ordered[mine], np.broadcast_to(at, mine.shape)[mine]
    index, given = np.empty_like(node), np.empty_like(starts)
    index[order], given[order] = node, starts
    return _assembled(to_device(ids, device), to_device(positions, device), index, given, known, None)


def _rounded(count: int) -> int:
    """At least one more, so that there is always a node that stands for nothing."""
    return (count // ROUND + 1) * ROUND


def _assembled(
    ids: Tensor, positions: Tensor, index: np.ndarray, starts: np.ndarray, known: int, kept: Tensor | None
) -> PrefixTree:
    length = index.shape[1]
    groups = []
    for start in np.unique(starts[starts < length]):
        rows = np.flatnonzero(starts == start)
        rows = rows[np.argsort(index[rows, start])]  # in the order of their nodes
        groups.append(Group(int(start), len(rows), int(index[rows[0], start]), index[rows].reshape(-1)))
    return PrefixTree(ids, positions, to_device(index, ids.device), known, tuple(groups), kept, starts, index)

"""Prefix trees: rows of tokens in which every shared prefix is stored once.

The children of a population differ from their parent in one token, a template begins every prompt, and an attribution
tries many tokens at one position. Most of the work in plain batches therefore repeats the work for another row. A
:class:`PrefixTree` has one *node* for each distinct prefix of the rows. A causal model computes a token's activations
from that token and the tokens before it only, so one value for each node is enough at every layer.

    rows          nodes (in the order of the packed row)
    a b c d       a b c d | x d | y
    a b x d       0 1 2 3   4 5   6
    a b c y
    index = [[0 1 2 3], [0 1 4 5], [0 1 2 6]]

Padding nodes follow these nodes, up to a round number: matrix libraries prepare for every new shape, which takes as
long as the product itself. The example above omits the padding.

A row's own nodes are its last tokens, from the first token at which it differs from the rows before it. Rows whose own
nodes begin at the same position are adjacent (a *group*), so that attention works on full blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from dreamy_lens.models.transfer import to_device

ROUND = 64
"""Number of which the node count of a tree is a multiple."""


@dataclass(frozen=True)
class Group:
    """Group of rows whose own nodes begin at the same position.

    Attributes:
        start: Position `s` at which the rows' own nodes begin.
        rows: Number of rows, R.
        first: Index of the first own node; the R (n - s) own nodes of the group are consecutive, row by row.
        keys: Node of every position of the rows, int64 `[R n]`, in the CPU's memory.
    """

    start: int
    rows: int
    first: int
    keys: np.ndarray


@dataclass(frozen=True)
class PrefixTree:
    """Prefix tree of rows `[B, n]`.

    Attributes:
        ids: Token id of each node to compute, int64 `[T]`; padding nodes come last.
        positions: Position of each node in its row, int64 `[T]`.
        index: Node of every row and position, int64 `[B, n]`; nodes below `known` were computed by an earlier pass.
        known: Number P of first positions, equal in all rows, that an earlier pass computed.
        groups: Groups of all rows that have own nodes.
        kept: Nodes of the larger tree that this tree was truncated from, int64 `[T]`; None if it was not truncated.
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
        """Number T of nodes to compute, padding included."""
        return len(self.ids)

    @property
    def length(self) -> int:
        """Number n of positions in a row."""
        return self._host.shape[1]

    @property
    def rows(self) -> int:
        """Number B of rows."""
        return self._host.shape[0]

    @property
    def host_index(self) -> np.ndarray:
        """Copy of `index` in the CPU's memory, which can be read without waiting for a device."""
        return self._host

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Tensors that a pass on an accelerator reads, by name."""
        tensors = {"ids": self.ids, "positions": self.positions, "index": self.index, "owners": self.owners}
        return tensors if self.kept is None else {**tensors, "kept": self.kept}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> PrefixTree:
        """Return this tree with other :attr:`tensors`, such as its own ones on another device."""
        given = dict(tensors)
        owners = given.pop("owners")
        tree = replace(self, **given)
        tree.__dict__["owners"] = owners  # in the place of the cached property
        return tree

    def pad(self, nodes: int, rows: Int[np.ndarray, " row"]) -> PrefixTree:
        """Return the tree, which is in the CPU's memory, with more padding nodes and with some rows repeated.

        Args:
            nodes: Number of nodes, at least those of the tree.
            rows: Number of the tree's row that stands in each row of the result; every row occurs.
        """
        ids, positions = _extended(self.ids, nodes), _extended(self.positions, nodes)
        kept = None if self.kept is None else _extended(self.kept, nodes)
        host = self._host[rows]
        return replace(self, ids=ids, positions=positions, index=torch.from_numpy(host), kept=kept, _host=host)

    def truncate(self, length: int) -> PrefixTree:
        """Return the tree of the rows' first `length` positions; it has a subset of the nodes, in the same order."""
        if length >= self.length:
            return self
        kept = np.flatnonzero(self._positions() < length)
        renumbered = np.full(self.known + self.nodes, -1)
        renumbered[: self.known] = np.arange(self.known)
        renumbered[self.known + kept] = self.known + np.arange(len(kept))
        spare = _rounded(len(kept)) - len(kept)
        # The last node is always padding.
        kept_nodes = to_device(np.append(kept, np.full(spare, self.nodes - 1)), self.ids.device)
        return _assembled(
            self.ids[kept_nodes],
            self.positions[kept_nodes],
            renumbered[self._host[:, :length]],
            self._starts,
            self.known,
            kept_nodes,
        )

    @cached_property
    def owners(self) -> Tensor:
        """Place of each node in one row that contains it, as `row n + position`, int64 `[T]`."""
        flat = self._host.reshape(-1)
        places = np.zeros(self.known + self.nodes, dtype=np.int64)
        places[flat] = np.arange(flat.size)
        return to_device(places[self.known :], self.ids.device)

    def _positions(self) -> np.ndarray:
        positions = np.full(self.nodes, self.length)
        for group in self.groups:
            count = self.length - group.start
            first = group.first - self.known
            positions[first : first + group.rows * count] = np.tile(np.arange(group.start, self.length), group.rows)
        return positions


def build_tree(rows: Int[np.ndarray, "batch pos"], device: torch.device | str = "cpu", known: int = 0) -> PrefixTree:
    """Build the prefix tree of rows.

    Args:
        rows: Rows of token ids, in any order; rows may be equal.
        device: Device of the tree's tensors.
        known: Number of first positions, equal in all rows, that an earlier pass computed.

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
    starts = np.full(count, known, dtype=np.int64)  # first position at which each row differs from the row before it
    if count > 1:
        differs = ordered[1:] != ordered[:-1]
        starts[1:] = np.where(differs.any(1), differs.argmax(1), length)
    # At each position, a row shares the node of the last row, up to itself, whose own nodes begin at or before it.
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
    index, starts_in_order = np.empty_like(node), np.empty_like(starts)
    index[order], starts_in_order[order] = node, starts
    return _assembled(to_device(ids, device), to_device(positions, device), index, starts_in_order, known, None)


def _rounded(count: int) -> int:
    """Round a node count up to a larger multiple of `ROUND`, so that there is always a padding node."""
    return (count // ROUND + 1) * ROUND


def _extended(x: Tensor, size: int) -> Tensor:
    """Repeat the last entry of a tensor until it has this many."""
    return torch.cat([x, x[-1:].expand(size - len(x), *x.shape[1:])])


def _assembled(
    ids: Tensor, positions: Tensor, index: np.ndarray, starts: np.ndarray, known: int, kept: Tensor | None
) -> PrefixTree:
    length = index.shape[1]
    groups = []
    for start in np.unique(starts[starts < length]):
        rows = np.flatnonzero(starts == start)
        rows = rows[np.argsort(index[rows, start])]  # in order of their own nodes
        groups.append(Group(int(start), len(rows), int(index[rows[0], start]), index[rows].reshape(-1)))
    return PrefixTree(ids, positions, to_device(index, ids.device), known, tuple(groups), kept, starts, index)

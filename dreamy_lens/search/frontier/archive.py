"""Archive: every prompt that a search has scored, and the frontiers of its islands."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64

from dreamy_lens.search.pareto import hull_rows, hypervolume, non_dominated
from dreamy_lens.search.score_cache import keys_of

SLACK = 0.5
"""Cross-entropy beyond the limit up to which prompts count, in nats per token: they lead back below the limit."""
EVERYTHING = 0
"""Number that stands for all islands together."""


class Archive:
    """Prompts of one length with their scores, in the order in which they were scored.

    An island is a group of prompts that descend from the same samples. Islands are numbered from 1.

    Args:
        length: Number of tokens (n) of a prompt.
        limit: Largest cross-entropy that counts, in nats per token.
    """

    def __init__(self, length: int, limit: float) -> None:
        self.limit = limit
        self._size = 0
        self._ids = np.empty((1024, length), dtype=np.int64)
        self._numbers = np.zeros((3, 1024), dtype=np.float32)  # value, cross-entropy, times that it was changed
        self._islands = np.zeros(1024, dtype=np.int32)
        self._frontiers: dict[int, np.ndarray] = {}
        self._row_of: dict[bytes, int] = {}

    def __len__(self) -> int:
        return self._size

    @property
    def ids(self) -> Int64[np.ndarray, "N n"]:
        """Token ids of the prompts."""
        return self._ids[: self._size]

    @property
    def value(self) -> Float32[np.ndarray, " N"]:
        """Values of the prompts."""
        return self._numbers[0, : self._size]

    @property
    def cross_entropy(self) -> Float32[np.ndarray, " N"]:
        """Cross-entropies of the prompts, nats per token."""
        return self._numbers[1, : self._size]

    @property
    def uses(self) -> Float32[np.ndarray, " N"]:
        """Number of times that each prompt was chosen to be changed."""
        return self._numbers[2, : self._size]

    @property
    def island(self) -> np.ndarray:
        """Number of the island of each prompt, int32 `[N]`."""
        return self._islands[: self._size]

    @property
    def most(self) -> float:
        """Largest cross-entropy of interest: the limit and some slack, or a little above the most fluent prompt's."""
        lowest = float(self.cross_entropy.min(initial=np.inf))
        return (max(self.limit, lowest) if np.isfinite(lowest) else self.limit) + SLACK

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return the row of each prompt, -1 if it has no finite scores, int64 `[K]`."""
        return np.array([self._row_of.get(key, -1) for key in keys_of(ids)], dtype=np.int64)

    def add(self, ids: np.ndarray, value: np.ndarray, cross_entropy: np.ndarray, island: int | np.ndarray) -> None:
        """Add prompts with finite scores to an island, or to several: one number for each prompt."""
        first, count = self._size, len(ids)
        while first + count > len(self._ids):
            self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
            self._numbers = np.concatenate([self._numbers, np.zeros_like(self._numbers)], axis=1)
            self._islands = np.concatenate([self._islands, np.zeros_like(self._islands)])
        self._size += count
        self._ids[first : self._size] = ids
        self._numbers[:2, first : self._size] = value, cross_entropy
        self._islands[first : self._size] = island
        self._row_of.update(zip(keys_of(ids), range(first, self._size), strict=True))
        added = self._islands[first : self._size]
        self._extend(EVERYTHING, np.arange(first, self._size))
        for group in np.unique(added):
            self._extend(int(group), first + np.flatnonzero(added == group))

    def _extend(self, group: int, rows: np.ndarray) -> None:
        """Update the frontier of an island, or of everything, with new rows."""
        rows = np.concatenate([self.frontier(group), rows])
        rows = rows[self.cross_entropy[rows] < self.most]
        self._frontiers[group] = rows[non_dominated(self.value[rows], self.cross_entropy[rows])]

    def frontier(self, group: int = EVERYTHING) -> np.ndarray:
        """Return the rows of the frontier of an island, or of everything, from fluent to strong, int64 `[F]`."""
        return self._frontiers.get(group, np.empty(0, dtype=np.int64))

    def improves(self, value: np.ndarray, cross_entropy: np.ndarray) -> np.ndarray:
        """Return which scores, `[K]` each, no prompt of the frontier beats in both, bool `[K]`."""
        rows = self.frontier()
        below = np.searchsorted(self.cross_entropy[rows], cross_entropy, side="right")
        return value > np.concatenate([[-np.inf], self.value[rows]])[below]

    def area(self, group: int, floor: float) -> float:
        """Return the hypervolume of the frontier of an island below the limit, above a value."""
        rows = self.frontier(group)
        return hypervolume(self.value[rows], self.cross_entropy[rows], (floor, self.limit))

    def hull(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """Return cross-entropy and value of the corners of the frontier's concave hull, from fluent to strong."""
        rows = self.frontier(group)
        cross_entropy, value = self.cross_entropy[rows], self.value[rows]
        corners = hull_rows(value, cross_entropy)
        return cross_entropy[corners].astype(float), value[corners].astype(float)

    def candidates(self, group: int) -> np.ndarray:
        """Return the rows of an island, or of everything, whose cross-entropy is of interest."""
        near = self.cross_entropy < self.most - SLACK / 2
        return np.flatnonzero(near if group == EVERYTHING else near & (self.island == group))

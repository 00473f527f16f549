"""Archive: every prompt that a search has scored, its frontier, and the choice of the prompts to change next."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64

from dreamy_lens.search.pareto import hypervolume, non_dominated

SLACK = 0.5
"""Cross-entropy beyond the limit up to which prompts count, in nats per token: they lead back below the limit."""


class Archive:
    """Prompts of one length with their scores, in the order in which they were scored.

    Args:
        length: Number of tokens (n) of a prompt.
        limit: Largest cross-entropy that counts, in nats per token.

    Attributes:
        frontier: Rows of the prompts on the frontier, from fluent to strong, int64 `[F]`.
    """

    def __init__(self, length: int, limit: float) -> None:
        self.limit = limit
        self._size = 0
        self._ids = np.empty((1024, length), dtype=np.int64)
        self._numbers = np.zeros((3, 1024), dtype=np.float32)  # value, cross-entropy, times that it was changed
        self._islands = np.zeros(1024, dtype=np.int64)
        self.frontiers: dict[int, np.ndarray] = {}

    @property
    def frontier(self) -> np.ndarray:
        """Rows of the prompts on the frontier of everything."""
        return self.frontiers.get(0, np.empty(0, dtype=np.int64))

    @property
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
    def most(self) -> float:
        """Largest cross-entropy that counts now: the limit, or a little above the most fluent prompt's."""
        return max(self.limit, float(self.cross_entropy.min(initial=np.inf)) if self._size else self.limit) + SLACK

    def add(self, ids: np.ndarray, value: np.ndarray, cross_entropy: np.ndarray, island: int = 0) -> None:
        """Add prompts with finite scores."""
        first, count = self._size, len(ids)
        while first + count > len(self._ids):
            self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
            self._numbers = np.concatenate([self._numbers, np.zeros_like(self._numbers)], axis=1)
            self._islands = np.concatenate([self._islands, np.zeros_like(self._islands)])
        self._size += count
        self._ids[first : self._size] = ids
        self._numbers[:2, first : self._size] = value, cross_entropy
        self._islands[first : self._size] = island
        for group in {0, island}:
            former = self.frontiers.get(group, np.empty(0, dtype=np.int64))
            rows = np.concatenate([former, np.arange(first, self._size)])
            rows = rows[self.cross_entropy[rows] < self.most]
            self.frontiers[group] = rows[non_dominated(self.value[rows], self.cross_entropy[rows])]

    def area(self, island: int, floor: float) -> float:
        """Return the hypervolume of an island's frontier below the limit."""
        rows = self.frontiers[island]
        return hypervolume(self.value[rows], self.cross_entropy[rows], (floor, self.limit))

    def hull(self, island: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return cross-entropy and value of the corners of the frontier's concave hull, from fluent to strong."""
        rows = self.frontiers[island]
        c, v = self.cross_entropy[rows].tolist(), self.value[rows].tolist()
        corners: list[int] = []
        for i in range(len(c)):
            while len(corners) > 1:
                a, b = corners[-2:]
                if (c[b] - c[a]) * (v[i] - v[a]) - (v[b] - v[a]) * (c[i] - c[a]) < 0:
                    break
                corners.pop()
            corners.append(i)
        return np.array([c[i] for i in corners]), np.array([v[i] for i in corners])

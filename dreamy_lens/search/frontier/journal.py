"""Journal of a frontier search: what it did, in order, so that a resumed search can learn it again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


class Column:
    """Array that grows at its end. What was handed out never changes."""

    def __init__(self, width: int, dtype: type) -> None:
        self._array = np.empty((256, width), dtype=dtype)
        self._size = 0

    def append(self, rows: np.ndarray) -> None:
        """Add rows `[K, width]`."""
        while self._size + len(rows) > len(self._array):
            self._array = np.concatenate([self._array, np.empty_like(self._array)])
        self._array[self._size : self._size + len(rows)] = rows
        self._size += len(rows)

    @property
    def rows(self) -> np.ndarray:
        """Rows so far, `[N, width]`."""
        return self._array[: self._size]


class Journal:
    """Journal of the parents that were chosen, and of the swaps and crossings that were scored.

    Attributes:
        columns: `parents`: rows of the parents of each iteration, -1 for none. `moves`: iteration, row of the parent,
            row of the child, and position of each swap, or -1 - cut of each crossing. `predicted`: the changes of value
            and cross-entropy that were predicted for each of these.

    >>> journal = Journal(parents=2)
    >>> journal.choose(np.array([5]))
    >>> journal.columns["parents"].rows
    array([[ 5, -1]], dtype=int32)
    """

    def __init__(self, parents: int) -> None:
        self._parents = parents
        self.columns = {"parents": Column(parents, np.int32), "moves": Column(4, np.int32)}
        self.columns["predicted"] = Column(2, np.float32)

    def choose(self, rows: np.ndarray) -> None:
        """Note the parents of an iteration."""
        padded = np.full((1, self._parents), -1)
        padded[0, : len(rows)] = rows
        self.columns["parents"].append(padded)

    def move(
        self, iteration: int, parent: np.ndarray, child: np.ndarray, place: np.ndarray, predicted: np.ndarray
    ) -> None:
        """Note swaps and crossings: rows of parent and child, position or -1 - cut, and predictions `[2, K]`."""
        self.columns["moves"].append(np.stack([np.full_like(parent, iteration), parent, child, place], axis=1))
        self.columns["predicted"].append(predicted.T)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the journal as arrays."""
        return {name: column.rows for name, column in self.columns.items()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over the arrays of an earlier journal."""
        for name, column in self.columns.items():
            column.append(arrays[name])

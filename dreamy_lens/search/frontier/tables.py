"""Swap tables of the parents of a frontier search, as many as there is memory for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch

from dreamy_lens.scoring.swap_tables import SwapTables

_NOT_YET = SwapTables(*[torch.empty(0)] * 4)


class TableCache:
    """Swap tables of the rows of an archive that were parents last.

    Tables are computed for several rows together. A resumed search computes them again in the same groups, because the
    numbers of a batch depend a little on what else is in it.

    Args:
        most: Largest number of rows.

    >>> cache = TableCache(most=2)
    >>> cache.touch([5, 7]), cache.touch([7, 9]), cache.rows
    ([5, 7], [9], [7, 9])
    >>> cache.groups
    [(5, 7), (9,)]
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._tables: OrderedDict[int, SwapTables] = OrderedDict()
        self._groups: dict[int, tuple[int, ...]] = {}

    @property
    def rows(self) -> list[int]:
        """Rows that have a place, in the order in which they were used last."""
        return list(self._tables)

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """Groups of rows whose tables were computed together, in order; of some, not every row has a place any more."""
        return list(dict.fromkeys(self._groups.values()))

    def __getitem__(self, row: int) -> SwapTables:
        return self._tables[row]

    def touch(self, rows: Sequence[int]) -> list[int]:
        """Note that rows are used, which gives them a place and takes that of others if there are too many.

        Returns:
            The rows that had no place: their tables are to be computed together, and put in.
        """
        missing = [row for row in dict.fromkeys(rows) if row not in self._tables]
        for row in missing:
            self._tables[row] = _NOT_YET
            self._groups[row] = tuple(missing)
        for row in rows:
            self._tables.move_to_end(row)
        while len(self._tables) > self._most:
            row, _ = self._tables.popitem(last=False)
            del self._groups[row]
        return missing

    def put(self, group: Sequence[int], tables: SwapTables) -> None:
        """Put in the tables of a group, for those of its rows that still have the place that they had in it."""
        for number, row in enumerate(group):
            if self._groups.get(row) == tuple(group):
                self._tables[row] = tables.rows(slice(number, number + 1))

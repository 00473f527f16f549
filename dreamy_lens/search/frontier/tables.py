"""Swap tables of the parents of a frontier search, as many as there is memory for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch

from dreamy_lens.scoring.swap_tables import SwapTables

_NOT_YET = SwapTables(*[torch.empty(0)] * 4)


class TableGroup(NamedTuple):
    """Rows of an archive whose swap tables are computed together.

    Attributes:
        rows: Rows of the archive.
        draw: Number of the draw of contexts in which their gradients are computed; 0 where contexts are not drawn.
    """

    rows: tuple[int, ...]
    draw: int


class TableCache:
    """Swap tables of the rows of an archive that were parents last.

    Tables are computed for several rows together. A resumed search computes them again in the same groups, because the
    numbers of a batch depend a little on what else is in it.

    Args:
        most: Largest number of rows.
        redraws: Whether gradients are computed in contexts that are drawn anew, so that tables are used only once.

    >>> cache = TableCache(most=2)
    >>> cache.touch([5, 7], 1), cache.touch([7, 9], 2).rows, cache.rows
    (TableGroup(rows=(5, 7), draw=0), (9,), [7, 9])
    >>> TableCache(most=2, redraws=True).touch([5, 7], 3)
    TableGroup(rows=(5, 7), draw=3)
    """

    def __init__(self, most: int, redraws: bool = False) -> None:
        self._most, self._redraws = most, redraws
        self._tables: OrderedDict[int, SwapTables] = OrderedDict()
        self._groups: dict[int, TableGroup] = {}

    @property
    def rows(self) -> list[int]:
        """Rows that have a place, in the order in which they were used last."""
        return list(self._tables)

    @property
    def groups(self) -> list[TableGroup]:
        """Groups of rows whose tables were computed together, in order; of some, not every row has a place any more."""
        return list(dict.fromkeys(self._groups.values()))

    def __getitem__(self, row: int) -> SwapTables:
        return self._tables[row]

    def touch(self, rows: Sequence[int], time: int) -> TableGroup:
        """Note that rows are used, which gives them a place and takes that of others if there are too many.

        Args:
            rows: Rows of the archive.
            time: How many times rows have been used, this time included; it is the number of a draw of contexts.

        Returns:
            The rows whose tables are to be computed together, and put in: those that had no place, or all if the
            contexts are drawn anew.
        """
        missing = tuple(row for row in dict.fromkeys(rows) if self._redraws or row not in self._tables)
        group = TableGroup(missing, time if self._redraws else 0)
        for row in missing:
            self._tables[row] = _NOT_YET
            self._groups[row] = group
        for row in rows:
            self._tables.move_to_end(row)
        while len(self._tables) > self._most:
            row, _ = self._tables.popitem(last=False)
            del self._groups[row]
        return group

    def put(self, group: TableGroup, tables: SwapTables) -> None:
        """Put in the tables of a group, for those of its rows that still have the place that they had in it."""
        for number, row in enumerate(group.rows):
            if self._groups.get(row) == group:
                self._tables[row] = tables.rows(slice(number, number + 1))

"""Swap tables of the parents of a frontier search, as many as there is memory for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from dreamy_lens.models.transfer import to_device
from dreamy_lens.scoring.bigrams import Bigrams
from dreamy_lens.scoring.swap_tables import SwapTables, swap_tables
from dreamy_lens.search.frontier.archive import Archive
from dreamy_lens.search.lengths import by_length
from dreamy_lens.search.protocol import ModelRequest

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


class ParentTables:
    """Maker of the swap tables of parents, which it keeps in a :class:`TableCache`.

    Args:
        archive: Prompts of the search.
        cache: Place for the tables.
        length: Largest number of tokens (n) of a prompt.
        unpredicted: Number of tokens of a prompt whose surprisal is not among those averaged in the cross-entropy.
        allowed: Tokens that prompts may have.

    Attributes:
        kept: Place for the tables.
        allowed: Tokens that prompts may have.
        bigrams: Predictions after single tokens; None if they are not known.
        scale: Scale of the value; predicted changes are in units of it.
    """

    def __init__(
        self,
        archive: Archive,
        cache: TableCache,
        length: int,
        unpredicted: int,
        allowed: Bool[Tensor, " d_vocab"],
    ) -> None:
        self._archive, self._length, self._unpredicted = archive, length, unpredicted
        self.kept, self.allowed = cache, allowed
        self.bigrams: Bigrams | None = None
        self.scale = 1.0

    @property
    def device(self) -> torch.device:
        """Device of the tables."""
        return self.allowed.device

    def of_gradient(self, gradient: Any, ids: Int64[np.ndarray, "P k"]) -> SwapTables:
        """Return the tables of prompts of one length.

        Args:
            gradient: Gradient at the prompts, as the scorer returns it.
            ids: Token ids of the prompts.
        """
        terms = ids.shape[1] - self._unpredicted
        tables = swap_tables(gradient, to_device(ids, self.device), self.allowed, terms, self.bigrams)
        tables.value.div_(self.scale).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        tables.cross_entropy.nan_to_num_(nan=torch.inf)
        return tables.right_aligned(self._length)

    def compute(self, group: TableGroup) -> Any:
        """Compute the tables of a group of rows, and keep them.

        Args:
            group: Rows, as :meth:`TableCache.touch` returns them.
        """
        parts = by_length(self._archive.ids[list(group.rows)])
        tables: list[SwapTables] = []
        for _, ids in parts:
            tables.append(self.of_gradient((yield ModelRequest(True, ids, draw=group.draw)), ids))
        if len(parts) == 1:
            self.kept.put(group, tables[0])
            return
        place = to_device(np.argsort(np.concatenate([which for which, _ in parts])), self.device)
        self.kept.put(group, SwapTables(*(table[place] for table in SwapTables.stack(tables))))

"""Cells: prompts of an archive by the way in which they drive the feature, each cell with a frontier of its own.

The way is the direction of a prompt's fingerprint: what the model's components contribute to the feature, beyond what
they contribute on samples of the language model. Fingerprints are computed for a few prompts now and then; until then a
child is taken to be in the cell of its parent. Cells are found while the search goes on: a prompt whose fingerprint is
unlike those of all cells begins a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Int64

from dreamy_lens.search.frontier.archive import SLACK, Archive
from dreamy_lens.search.pareto import non_dominated

SIMILAR = 0.5
"""Cosine of fingerprints from which on two prompts drive the feature in one way."""
MOST = 8
"""Most cells; a stronger one takes the place of the weakest."""
LEAST = 0.25
"""Share of the highest value, above that of samples, that a prompt must reach to begin a cell."""
EVERY, AT_ONCE = 4, 40
"""Iterations from one request for fingerprints to the next, and most prompts of one."""
FIRST = 96
"""Prompts of the start whose fingerprints are computed: half of them samples, which show what is ordinary."""
UNKNOWN = -1
"""Number of the cell of prompts that have none."""


@dataclass
class Cells:
    """Cells of an archive.

    Attributes:
        archive: Prompts that are in the cells.
        of: Number of the cell of each prompt, or :data:`UNKNOWN`, int32 `[N]`.
        is_known: Whether the fingerprint of each prompt was computed, bool `[N]`.
        ordinary: Mean fingerprint of samples, float32 `[U]`; empty before the first fingerprints.
        leaders: Direction of the strongest prompt of each cell, float32 `[K, U]`.
        strongest: Row of that prompt, int64 `[K]`; :data:`UNKNOWN` for a cell that was given up.
    """

    archive: Archive
    of: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    is_known: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=bool))
    ordinary: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.float32))
    leaders: np.ndarray = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))
    strongest: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def alive(self) -> list[int]:
        """Numbers of the cells that have prompts."""
        return np.flatnonzero(self.strongest >= 0).tolist()

    def _grow(self) -> None:
        """Make room for the prompts that the archive got in the meantime."""
        more = len(self.archive) - len(self.of)
        if more:
            self.of = np.concatenate([self.of, np.full(more, UNKNOWN, dtype=np.int32)])
            self.is_known = np.concatenate([self.is_known, np.zeros(more, dtype=bool)])

    def inherit(self, parent: np.ndarray, child: np.ndarray) -> None:
        """Put children, by their rows, into the cells of their parents until their own fingerprints are known."""
        self._grow()
        new = ~self.is_known[child]
        self.of[child[new]] = self.of[parent[new]]

    def first(self) -> Int64[np.ndarray, " B"]:
        """Return the rows of the start whose fingerprints show what is ordinary, then those of the strongest."""
        half = np.arange(min(FIRST // 2, len(self.archive)))
        order = np.argsort(-self.archive.value, kind="stable")
        rest = order[~np.isin(order, half)][: FIRST - len(half)]
        return np.concatenate([half, rest])

    def begin(self, rows: np.ndarray, prints: Float32[np.ndarray, "B U"], floor: float) -> None:
        """Take the fingerprints of the prompts of :meth:`first`."""
        self.ordinary = prints[: FIRST // 2].mean(axis=0)
        self.leaders = np.empty((0, prints.shape[1]), dtype=np.float32)
        self.learn(rows, prints, floor)

    def due(self, floor: float) -> Int64[np.ndarray, " B"]:
        """Return the rows whose fingerprints are wanted next: on the cells' frontiers, then strong ones of no cell."""
        self._grow()
        archive = self.archive
        wanted: list[np.ndarray] = []
        for cell in self.alive:
            rows = self.rows(cell)
            rows = rows[non_dominated(archive.value[rows], archive.cross_entropy[rows])][::-1]
            wanted.append(rows[~self.is_known[rows]])
        longest = max((len(rows) for rows in wanted), default=0)
        turns = [rows[i] for i in range(longest) for rows in wanted if i < len(rows)][:AT_ONCE]
        near = (self.of == UNKNOWN) & ~self.is_known & (archive.cross_entropy < archive.most - SLACK / 2)
        strong = np.flatnonzero(near & (archive.value >= self._bar(floor)))
        strong = strong[np.argsort(-archive.value[strong], kind="stable")][: AT_ONCE - len(turns)]
        return np.concatenate([np.array(turns, dtype=np.int64), strong])

    def _bar(self, floor: float) -> float:
        """Return the value from which on a prompt may begin a cell."""
        return floor + LEAST * (float(self.archive.value.max()) - floor)

    def learn(self, rows: np.ndarray, prints: Float32[np.ndarray, "B U"], floor: float) -> None:
        """Put prompts into cells by their fingerprints, the strongest first.

        Args:
            rows: Rows of the prompts in the archive.
            prints: Their fingerprints.
            floor: Value of ordinary prompts.
        """
        self._grow()
        value, bar = self.archive.value, self._bar(floor)
        ways = prints - self.ordinary
        ways = (ways / np.maximum(np.linalg.norm(ways, axis=1, keepdims=True), 1e-30)).astype(np.float32)
        for number in np.argsort(-value[rows], kind="stable").tolist():
            row, way = int(rows[number]), ways[number]
            self.is_known[row] = True
            cosine = np.where(self.strongest >= 0, self.leaders @ way, -1.0)
            if len(cosine) and cosine.max() >= SIMILAR:
                cell = int(cosine.argmax())
                if value[row] > value[self.strongest[cell]]:
                    self.leaders[cell], self.strongest[cell] = way, row
            else:
                cell = self._new_cell(row, way) if value[row] >= bar else UNKNOWN
            self.of[row] = cell
        self._merge()

    def _new_cell(self, row: int, way: np.ndarray) -> int:
        """Begin a cell, in the place of the weakest one if there are too many; return its number."""
        alive = self.alive
        if len(alive) >= MOST:
            weakest = min(alive, key=lambda cell: self.archive.value[self.strongest[cell]])
            if self.archive.value[self.strongest[weakest]] >= self.archive.value[row]:
                return UNKNOWN
            self._end(weakest, UNKNOWN)
        free = np.flatnonzero(self.strongest < 0)
        if not len(free):
            self.leaders = np.concatenate([self.leaders, way[None]])
            self.strongest = np.append(self.strongest, row)
            return len(self.strongest) - 1
        self.leaders[free[0]], self.strongest[free[0]] = way, row
        return int(free[0])

    def _merge(self) -> None:
        """Join cells whose strongest prompts have become similar."""
        for cell in self.alive:
            for other in self.alive:
                if cell < other and self.strongest[cell] >= 0 and self.leaders[cell] @ self.leaders[other] >= SIMILAR:
                    if self.archive.value[self.strongest[other]] > self.archive.value[self.strongest[cell]]:
                        self.leaders[cell], self.strongest[cell] = self.leaders[other], self.strongest[other]
                    self._end(other, cell)

    def _end(self, cell: int, heir: int) -> None:
        self.of[self.of == cell] = heir
        self.strongest[cell] = UNKNOWN

    def rows(self, cell: int) -> Int64[np.ndarray, " R"]:
        """Return the rows of a cell whose cross-entropy is of interest."""
        self._grow()
        near = self.archive.cross_entropy < self.archive.most - SLACK / 2
        return np.flatnonzero(near & (self.of == cell))

    def turns(self, iteration: int, count: int) -> list[Int64[np.ndarray, " R"]]:
        """Return the rows of the cells whose turn it is to give the next parents; none if there is one cell."""
        alive = self.alive
        if len(alive) < 2:
            return []
        turns = [self.rows(alive[(iteration * count + k) % len(alive)]) for k in range(count)]
        return [rows for rows in turns if len(rows)]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the cells as arrays, which never change when the search goes on."""
        self._grow()
        names = {"of": self.of, "is_known": self.is_known, "ordinary": self.ordinary}
        names |= {"leaders": self.leaders, "strongest": self.strongest}
        return {f"cells_{name}": array.copy() for name, array in names.items()}

    def restore(self, memory: Mapping[str, np.ndarray]) -> None:
        """Take over the arrays of an earlier search."""
        self.of, self.is_known = memory["cells_of"].copy(), memory["cells_is_known"].astype(bool)
        self.ordinary, self.leaders = memory["cells_ordinary"].copy(), memory["cells_leaders"].copy()
        self.strongest = memory["cells_strongest"].copy()

"""Experience of a frontier search: what it has learned from the moves that it has scored."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dreamy_lens.search.frontier.archive import Archive
from dreamy_lens.search.frontier.crossings import Crossings
from dreamy_lens.search.frontier.effects import SwapEffects
from dreamy_lens.search.frontier.journal import Journal
from dreamy_lens.search.frontier.offers import KINDS, Offers

_CROSS = KINDS.index("cross")


class Experience:
    """What a search has learned about moves, and the journal of moves, from which it can be learned again.

    Args:
        archive: Prompts of the search.
        parents: Largest number of parents of an iteration.
        length: Number of tokens (n) of a prompt.
        width: Number of tokens of the vocabulary.

    Attributes:
        journal: Parents that were chosen, and swaps and crossings that were scored.
        effects: What is known about swaps: the change of the value, in units of its scale, and that of the
            cross-entropy.
        crossings: What is known about crossings.
    """

    def __init__(self, archive: Archive, parents: int, length: int, width: int) -> None:
        self._archive = archive
        self.journal = Journal(parents)
        self.effects = (
            SwapEffects(length, width, slope=0.0, learns_slope=True, deviation=1.0, most=6.0),
            SwapEffects(length, width, slope=1.0, learns_slope=False, deviation=0.4, most=2.0),
        )
        self.crossings = Crossings(length)

    def note(self, iteration: int, children: Offers, scale: float) -> None:
        """Note the swaps and crossings among scored children in the journal, and learn from them.

        Args:
            iteration: Number of the iteration.
            children: Children that were scored.
            scale: Scale of the value.
        """
        rows = self._archive.rows(children.ids)
        known = (rows >= 0) & (children.position >= 0)
        child, parent = rows[known], children.parent[known]
        place = np.where(children.kind == _CROSS, -1 - children.position, children.position)[known]
        predicted = children.predicted[:, known]
        self.journal.move(iteration, parent, child, place, predicted)
        self._learn(parent, child, place, predicted, scale)

    def restore(self, memory: Mapping[str, np.ndarray], scale: float) -> None:
        """Take over the journal of an earlier search, and learn from it.

        Args:
            memory: Arrays of the journal.
            scale: Scale of the value.
        """
        self.journal.restore(memory)
        moves, predicted = self.journal.columns["moves"].rows, self.journal.columns["predicted"].rows
        ends = np.flatnonzero(np.diff(moves[:, 0])) + 1
        for part, guess in zip(np.split(moves, ends), np.split(predicted, ends), strict=True):
            if len(part):
                self._learn(part[:, 1], part[:, 2], part[:, 3], guess.T, scale)

    def _learn(
        self, parent: np.ndarray, child: np.ndarray, place: np.ndarray, predicted: np.ndarray, scale: float
    ) -> None:
        """Learn from moves: rows of parents and children, position or -1 - cut, and predictions `[2, K]`."""
        archive = self._archive
        change = (archive.value[child] - archive.value[parent]) / scale
        dearer = archive.cross_entropy[child] - archive.cross_entropy[parent]
        swap = place >= 0
        if swap.any():
            position = place[swap]
            old, new = archive.ids[parent[swap], position], archive.ids[child[swap], position]
            self.effects[0].learn(position, old, new, predicted[0, swap], change[swap])
            self.effects[1].learn(position, old, new, predicted[1, swap], dearer[swap])
        if not swap.all():
            self.crossings.learn(-1 - place[~swap], change[~swap].astype(float))

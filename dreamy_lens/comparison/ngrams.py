"""The longest runs of tokens that prompts share with a stream of text, exactly, in one pass over it.

Every distinct run of the prompts has a number, and a run of L tokens is a pair of runs of L - 1: so each place of the
stream is looked up as one token, then those that are left as two, as three, and so on. Nearly all places are done after
two look-ups, all of which are numpy's, and what is kept does not depend on how much text goes by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from dreamy_lens.comparison.overlap import SharedSpan

CONTEXT = 8
"""Tokens shown before and after a shared run."""


class NgramIndex:
    """Looks for runs of some prompts.

    Args:
        prompts: ids of each.

    >>> grams = NgramIndex([[5, 1, 2, 3], [7, 7]])
    >>> grams.feed([np.array([9, 1, 2, 3, 5]), np.array([2, 3])], ["a.txt", "b.txt"])
    >>> grams.longest(0)
    (1, 3)
    """

    def __init__(self, prompts: Sequence[Sequence[int]]) -> None:
        self.prompts = [tuple(int(i) for i in ids) for ids in prompts]
        tokens = sorted({i for ids in self.prompts for i in ids})
        self._table = np.full(max(tokens, default=0) + 1, -1, dtype=np.int64)
        self._table[tokens] = np.arange(len(tokens))
        # By length: the number of the run at each place of each prompt.
        self._runs: list[list[np.ndarray]] = [[], [self._table[list(ids)] for ids in self.prompts]]
        self._keys: list[tuple[np.ndarray, int]] = [(np.empty(0, np.int64), 0), (np.empty(0, np.int64), len(tokens))]
        for _ in range(2, max(map(len, self.prompts), default=0) + 1):
            before, radix = self._runs[-1], max(1, self._keys[-1][1])
            pairs = [runs[:-1] * radix + runs[1:] for runs in before]
            keys = np.unique(np.concatenate(pairs))
            self._runs.append([np.searchsorted(keys, pair) for pair in pairs])
            self._keys.append((keys, len(keys)))
        self._count: list[np.ndarray] = [np.zeros(n, dtype=np.int64) for _, n in self._keys]
        self._place: dict[tuple[int, int], tuple[Any, np.ndarray]] = {}

    def feed(self, sections: Iterable[np.ndarray], documents: Iterable[Any], times: int = 1) -> None:
        """Look at more text.

        Args:
            sections: token ids of each piece; no run goes from one to the next.
            documents: where each is from.
            times: how often it counts; -1 takes back what was counted twice.
        """
        given, names = list(sections), list(documents)
        if not given:
            return
        # A place between two sections that is no token keeps them apart.
        gap = np.array([-1], dtype=np.int64)
        stream = np.concatenate([part for section in given for part in (np.asarray(section, dtype=np.int64), gap)])
        starts = np.cumsum([0, *(len(section) + 1 for section in given)])
        known = (stream >= 0) & (stream < len(self._table))
        codes = np.where(known, self._table[np.where(known, stream, 0)], -1)
        place = np.flatnonzero(codes >= 0)
        codes = codes[place]
        for length in range(1, len(self._keys)):
            if length > 1:
                beside = np.flatnonzero(np.diff(place) == 1)
                keys, radix = self._keys[length][0], max(1, self._keys[length - 1][1])
                pairs = codes[beside] * radix + codes[beside + 1]
                at = np.searchsorted(keys, pairs)
                at[at == len(keys)] = 0
                hit = keys[at] == pairs if len(keys) else np.zeros(len(pairs), dtype=bool)
                place, codes = place[beside[hit]], at[hit]
            if not len(codes):
                return
            self._note(length, codes, place, given, names, starts, times)

    def longest(self, prompt: int) -> tuple[int, int]:
        """Where the longest run of a prompt begins that was seen, and its length: (0, 0) if no token was."""
        for length in range(len(self._runs) - 1, 0, -1):
            runs = self._runs[length][prompt]
            seen = np.flatnonzero(self._count[length][runs] > 0) if len(runs) else []
            if len(seen):
                return int(seen[0]), length
        return 0, 0

    def shared(self, prompt: int, text: Callable[[Sequence[int]], str], counted: bool = True) -> SharedSpan:
        """What :meth:`longest` found, in words.

        Args:
            prompt: its number.
            text: of ids.
            counted: whether it is said how often the run was seen.
        """
        ids = self.prompts[prompt]
        start, length = self.longest(prompt)
        if not length:
            return SharedSpan(0, 0, len(ids), places=0 if counted else None)
        run = int(self._runs[length][prompt][start])
        document, around = self._place[length, run]
        places = int(self._count[length][run]) if counted else None
        said = text(list(ids[start : start + length]))
        return SharedSpan(start, length, len(ids), said, str(document), text(around.tolist()), places)

    def _note(
        self,
        length: int,
        codes: np.ndarray,
        place: np.ndarray,
        sections: list[np.ndarray],
        names: list[Any],
        starts: np.ndarray,
        times: int,
    ) -> None:
        found, first = np.unique(codes, return_index=True)
        new = self._count[length][found] == 0
        for code, at in zip(found[new].tolist(), place[first[new]].tolist(), strict=True):
            number = int(np.searchsorted(starts, at, "right")) - 1
            here = at - int(starts[number])
            around = np.asarray(sections[number])[max(0, here - CONTEXT) : here + length + CONTEXT]
            self._place[length, code] = names[number], around.copy()
        self._count[length] += times * np.bincount(codes, minlength=len(self._count[length]))

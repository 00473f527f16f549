"""Longest n-grams that prompts share with a stream of text, found exactly and in one pass.

Every distinct n-gram of the prompts has a number, and an n-gram of length L is a pair of n-grams of length L - 1. So
the index looks up each position of the stream as a 1-gram, the positions that match as a 2-gram, those that match again
as a 3-gram, and so on. Nearly all positions are finished after two look-ups, which numpy does for all positions at
once. Memory does not depend on the amount of text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from dreamy_lens.comparison.overlap import SharedSpan

CONTEXT = 8
"""Number of tokens that are kept before and after a shared n-gram."""


class NgramIndex:
    """Index of the n-grams of some prompts, with the number of times that a text has each of them.

    Args:
        prompts: Token ids of each prompt.

    >>> index = NgramIndex([[5, 1, 2, 3], [7, 7]])
    >>> index.feed([np.array([9, 1, 2, 3, 5]), np.array([2, 3])], ["a.txt", "b.txt"])
    >>> index.longest(0)
    (1, 3)
    """

    def __init__(self, prompts: Sequence[Sequence[int]]) -> None:
        self.prompts = [tuple(int(i) for i in ids) for ids in prompts]
        tokens = sorted({i for ids in self.prompts for i in ids})
        self._table = np.full(max(tokens, default=0) + 1, -1, dtype=np.int64)
        self._table[tokens] = np.arange(len(tokens))
        # For each length: the numbers of the n-grams at all positions of each prompt.
        self._grams: list[list[np.ndarray]] = [[], [self._table[list(ids)] for ids in self.prompts]]
        self._keys: list[tuple[np.ndarray, int]] = [(np.empty(0, np.int64), 0), (np.empty(0, np.int64), len(tokens))]
        for _ in range(2, max(map(len, self.prompts), default=0) + 1):
            shorter, radix = self._grams[-1], max(1, self._keys[-1][1])
            pairs = [grams[:-1] * radix + grams[1:] for grams in shorter]
            keys = np.unique(np.concatenate(pairs))
            self._grams.append([np.searchsorted(keys, pair) for pair in pairs])
            self._keys.append((keys, len(keys)))
        self._count: list[np.ndarray] = [np.zeros(n, dtype=np.int64) for _, n in self._keys]
        # For each length and number: the document in which the n-gram was first seen, and its context there.
        self._first_seen: dict[tuple[int, int], tuple[Any, np.ndarray]] = {}

    def feed(self, sections: Iterable[np.ndarray], documents: Iterable[Any], times: int = 1) -> None:
        """Count the n-grams in more text.

        Args:
            sections: Token ids of each section; no n-gram extends from one section to the next.
            documents: Document of each section.
            times: Weight of the count; -1 removes n-grams that were counted twice.
        """
        texts, names = list(sections), list(documents)
        if not texts:
            return
        # A separator that is not a token keeps n-grams from extending over two sections.
        gap = np.array([-1], dtype=np.int64)
        stream = np.concatenate([part for section in texts for part in (np.asarray(section, dtype=np.int64), gap)])
        starts = np.cumsum([0, *(len(section) + 1 for section in texts)])
        known = (stream >= 0) & (stream < len(self._table))
        codes = np.where(known, self._table[np.where(known, stream, 0)], -1)
        positions = np.flatnonzero(codes >= 0)
        codes = codes[positions]
        for length in range(1, len(self._keys)):
            if length > 1:
                adjacent = np.flatnonzero(np.diff(positions) == 1)
                keys, radix = self._keys[length][0], max(1, self._keys[length - 1][1])
                pairs = codes[adjacent] * radix + codes[adjacent + 1]
                at = np.searchsorted(keys, pairs)
                at[at == len(keys)] = 0
                hit = keys[at] == pairs if len(keys) else np.zeros(len(pairs), dtype=bool)
                positions, codes = positions[adjacent[hit]], at[hit]
            if not len(codes):
                return
            self._count_matches(length, codes, positions, texts, names, starts, times)

    def longest(self, prompt: int) -> tuple[int, int]:
        """Return the longest n-gram of a prompt that the text has.

        Args:
            prompt: Index of the prompt.

        Returns:
            Position in the prompt at which the n-gram begins, and its length; (0, 0) if the text has no token of the
            prompt.
        """
        for length in range(len(self._grams) - 1, 0, -1):
            grams = self._grams[length][prompt]
            seen = np.flatnonzero(self._count[length][grams] > 0) if len(grams) else []
            if len(seen):
                return int(seen[0]), length
        return 0, 0

    def shared(self, prompt: int, text: Callable[[Sequence[int]], str], counted: bool = True) -> SharedSpan:
        """Return the longest shared n-gram of a prompt with its text and its first place.

        Args:
            prompt: Index of the prompt.
            text: Function from token ids to text.
            counted: Whether the result has the number of places.
        """
        ids = self.prompts[prompt]
        start, length = self.longest(prompt)
        if not length:
            return SharedSpan(0, 0, len(ids), places=0 if counted else None)
        gram = int(self._grams[length][prompt][start])
        document, around = self._first_seen[length, gram]
        places = int(self._count[length][gram]) if counted else None
        shared = text(list(ids[start : start + length]))
        return SharedSpan(start, length, len(ids), shared, str(document), text(around.tolist()), places)

    def _count_matches(
        self,
        length: int,
        codes: np.ndarray,
        positions: np.ndarray,
        sections: list[np.ndarray],
        names: list[Any],
        starts: np.ndarray,
        times: int,
    ) -> None:
        """Count matches of one length, and keep the first place of each n-gram.

        Args:
            length: Length of the n-grams.
            codes: Number of the n-gram of each match.
            positions: Position of each match in the stream of all sections.
            sections: Token ids of each section.
            names: Document of each section.
            starts: Position in the stream at which each section begins.
            times: Weight of the count.
        """
        grams, first = np.unique(codes, return_index=True)
        new = self._count[length][grams] == 0
        for code, position in zip(grams[new].tolist(), positions[first[new]].tolist(), strict=True):
            number = int(np.searchsorted(starts, position, "right")) - 1
            begin = position - int(starts[number])
            around = np.asarray(sections[number])[max(0, begin - CONTEXT) : begin + length + CONTEXT]
            self._first_seen[length, code] = names[number], around.copy()
        self._count[length] += times * np.bincount(codes, minlength=len(self._count[length]))

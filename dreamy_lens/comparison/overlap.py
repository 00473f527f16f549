"""Overlap of a dream with a corpus: the longest span of tokens that both have, and the nearest window.

A dream that appears in the corpus word for word is memorized, not new. These numbers tell the two apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dreamy_lens.scan.window import Window


MEMORIZED = 0.5
"""Share of a dream's tokens, in a row, that makes it partly memorized if the corpus has them."""


@dataclass(frozen=True)
class SharedSpan:
    """Longest span of a dream's tokens that also appears in another text.

    Attributes:
        start: Position in the dream at which the span begins.
        length: Number of tokens of the span; 0 if there is no common token.
        total: Number of tokens of the dream.
        text: Text of the span.
        document: Document in which the span was first found.
        around: Text of that place, with some tokens before and after.
        places: Number of places with the span; None if they were not counted.
    """

    start: int
    length: int
    total: int
    text: str = ""
    document: str = ""
    around: str = ""
    places: int | None = None

    @property
    def share(self) -> float:
        """Share of the dream's tokens that is in the span, from 0 to 1."""
        return self.length / self.total if self.total else 0.0

    def __str__(self) -> str:
        if not self.length:
            return "none of its tokens appears there"
        return f"{self.length} of {self.total} tokens in a row appear in {self.document}"


@dataclass(frozen=True)
class NearestWindow:
    """Window that is most similar to a dream.

    Attributes:
        window: Nearest window among those that the scan kept or sampled.
        distance: Number of tokens to insert, delete or replace to turn one into the other.
        share: Share of the distinct tokens of both that both have, from 0 to 1.
    """

    window: Window
    distance: int
    share: float


@dataclass(frozen=True)
class Overlap:
    """Overlap of one dream with a corpus.

    Attributes:
        kept: Longest span that the dream shares with the kept and sampled windows and their context.
        nearest: Nearest window among the kept and sampled windows; None if there are none.
        corpus: Longest span that the dream shares with the whole corpus; None if the corpus was not searched.
    """

    kept: SharedSpan
    nearest: NearestWindow | None
    corpus: SharedSpan | None = None

    @property
    def longest(self) -> SharedSpan:
        """Longer of the two spans `kept` and `corpus`."""
        return self.kept if self.corpus is None or self.kept.length > self.corpus.length else self.corpus


def edit_distances(ids: Sequence[int], rows: np.ndarray) -> np.ndarray:
    """Return the Levenshtein distances, in tokens, from one sequence to many sequences of equal length.

    Args:
        ids: Token ids of the one sequence, length n.
        rows: Token ids of the other sequences, `[W, m]`.

    Returns:
        Distance to each row, int64 `[W]`.

    >>> edit_distances([1, 2, 3], np.array([[1, 2, 3], [2, 3, 4], [7, 8, 9]])).tolist()
    [0, 2, 3]
    """
    count, width = rows.shape
    row = np.broadcast_to(np.arange(width + 1), (count, width + 1)).copy()
    for i, token in enumerate(ids):
        new = np.empty_like(row)
        new[:, 0] = i + 1
        change = row[:, :-1] + (rows != token)
        new[:, 1:] = np.minimum(change, row[:, 1:] + 1)
        for j in range(1, width + 1):  # insertions depend on the position before
            np.minimum(new[:, j], new[:, j - 1] + 1, out=new[:, j])
        row = new
    return row[:, -1]


def token_difference(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the number of positions at which two prompts differ; of different lengths, their Levenshtein distance.

    >>> token_difference([1, 2, 3], [2, 3, 1]), token_difference([1, 2, 3], [2, 3])
    (3, 1)
    """
    if len(one) == len(other):
        return sum(a != b for a, b in zip(one, other, strict=True))
    return int(edit_distances(one, np.array([other]))[0])


def nearest_window(ids: Sequence[int], windows: Sequence[Window]) -> NearestWindow | None:
    """Return the window with the fewest edits to a prompt; None if there are no windows.

    Of several such windows, the one that shares most tokens is returned, and of several such again the first.

    Args:
        ids: Token ids of the prompt.
        windows: Windows to search.
    """
    if not windows:
        return None
    own = set(ids)
    best: tuple[int, float, int] | None = None
    for n in sorted({len(w) for w in windows}):
        group = [i for i, w in enumerate(windows) if len(w) == n]
        distances = edit_distances(ids, np.array([windows[i].ids for i in group]))
        for at in np.flatnonzero(distances == distances.min()).tolist():
            other = set(windows[group[at]].ids)
            candidate = (int(distances[at]), -len(own & other) / len(own | other), group[at])
            best = candidate if best is None or candidate < best else best
    assert best is not None
    return NearestWindow(windows[best[2]], best[0], -best[1])

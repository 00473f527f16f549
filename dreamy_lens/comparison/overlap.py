"""How far a dream's text is from a corpus: the longest run of tokens that both have, and the nearest window.

A dream that stands in the corpus word for word was remembered, not invented; these numbers tell the two apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dreamy_lens.scan.window import Window


REMEMBERED = 0.5
"""A dream of which this part, in a row, stands in the corpus is said to be remembered in part."""


@dataclass(frozen=True)
class SharedSpan:
    """The longest run of a dream's tokens that stands in some text.

    Attributes:
        start: the dream's position at which it begins.
        length: tokens in a row; 0 if there is no common token.
        of: tokens of the dream.
        text: what these tokens say.
        document: where they stand; the first place that was found.
        around: the text there, with some tokens before and after.
        places: in how many places, or None if they were not counted.
    """

    start: int
    length: int
    of: int
    text: str = ""
    document: str = ""
    around: str = ""
    places: int | None = None

    @property
    def share(self) -> float:
        """Part of the dream that is shared, from 0 to 1."""
        return self.length / self.of if self.of else 0.0

    def __str__(self) -> str:
        if not self.length:
            return "no token of it stands there"
        return f"{self.length} of {self.of} tokens in a row stand in {self.document}"


@dataclass(frozen=True)
class NearestWindow:
    """The window that is most like a dream.

    Attributes:
        window: of those that were kept or sampled.
        distance: tokens to insert, delete or replace to make one of the other.
        share: of the distinct tokens of both, those that both have, from 0 to 1.
    """

    window: Window
    distance: int
    share: float


@dataclass(frozen=True)
class Overlap:
    """What one dream has in common with a corpus.

    Attributes:
        kept: with the windows that were kept or sampled, and what surrounds them.
        nearest: of these windows, by edits of tokens; None if there are none.
        corpus: with the whole corpus; None if it was not read.
    """

    kept: SharedSpan
    nearest: NearestWindow | None
    corpus: SharedSpan | None = None

    @property
    def most(self) -> SharedSpan:
        """The longest run that is known."""
        return self.kept if self.corpus is None or self.kept.length > self.corpus.length else self.corpus


def edit_distances(ids: Sequence[int], rows: np.ndarray) -> np.ndarray:
    """Levenshtein distances, in tokens, from one sequence to many of equal length.

    Args:
        ids: length n.
        rows: `[W, m]`.

    Returns:
        int64 `[W]`.

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
        for j in range(1, width + 1):  # insertions, which depend on the place before
            np.minimum(new[:, j], new[:, j - 1] + 1, out=new[:, j])
        row = new
    return row[:, -1]


def nearest(ids: Sequence[int], windows: Sequence[Window]) -> NearestWindow | None:
    """The window with the fewest edits to a prompt; of several, the one that shares most tokens, then the first."""
    if not windows:
        return None
    mine = set(ids)
    best: tuple[int, float, int] | None = None
    for n in sorted({len(w) for w in windows}):
        group = [i for i, w in enumerate(windows) if len(w) == n]
        distances = edit_distances(ids, np.array([windows[i].ids for i in group]))
        for at in np.flatnonzero(distances == distances.min()).tolist():
            theirs = set(windows[group[at]].ids)
            found = (int(distances[at]), -len(mine & theirs) / len(mine | theirs), group[at])
            best = found if best is None or found < best else best
    assert best is not None
    return NearestWindow(windows[best[2]], best[0], -best[1])

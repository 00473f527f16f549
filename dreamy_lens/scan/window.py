"""What a scan keeps of a corpus for one feature: windows, and how its values are distributed. Plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dreamy_lens.results.pareto import non_dominated


@dataclass(frozen=True)
class Window:
    """Consecutive tokens of a document, scored as a dream's prompt is.

    Attributes:
        number: of the window; numbers rise along the corpus.
        ids: token ids, length n.
        tokens: each token decoded by itself, length n.
        text: the decoding of all of them together.
        value: of the feature.
        cross_entropy: mean over the predicted tokens, nats per token (Eq. 1 of the paper); None if it was not measured.
        document: that it stands in.
        character: of the document at which it begins.
        before: the text that leads up to it, as far as it was kept.
        after: the text that follows.
        values: the feature's value if the prompt ended at each token, float32 `[n]`, NaN where it has none; None if
            that is not known.

    >>> window = Window(7, (5, 9), (" the", " file"), " the file", 3.25, 2.0, "notes.txt", 120)
    >>> window
    Window(' the file', value 3.25, cross-entropy 2.00, notes.txt at 120)
    """

    number: int
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    text: str
    value: float
    cross_entropy: float | None
    document: str
    character: int
    before: str = ""
    after: str = ""
    values: np.ndarray | None = field(default=None, compare=False)

    @property
    def perplexity(self) -> float | None:
        """The exponential of the cross-entropy."""
        if self.cross_entropy is None:
            return None
        return math.exp(self.cross_entropy) if self.cross_entropy < 700 else math.inf

    def __len__(self) -> int:
        return len(self.ids)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        fluency = "" if self.cross_entropy is None else f", cross-entropy {self.cross_entropy:.2f}"
        return f"Window({self.text!r}, value {self.value:.4g}{fluency}, {self.document} at {self.character:,})"


@dataclass(frozen=True, eq=False)
class Histogram:
    """How many windows have which value.

    Attributes:
        width: of a bin.
        start: bin i holds the values from `(start + i) * width` up to, and without, `(start + i + 1) * width`.
        counts: int64 `[bins]`.

    >>> h = Histogram(0.5, -1, np.array([1, 2, 1]))
    >>> h.edges.tolist(), h.bin_of(2), h.above(0.5), h.above(0.25)
    ([-0.5, 0.0, 0.5, 1.0], (0.0, 0.5, 1, 2), (1, 1), (1, 3))
    """

    width: float
    start: int
    counts: np.ndarray

    @property
    def edges(self) -> np.ndarray:
        """Where bins begin and end, float64 `[bins + 1]`."""
        return (self.start + np.arange(len(self.counts) + 1)) * self.width

    @property
    def total(self) -> int:
        """Windows counted."""
        return int(self.counts.sum())

    def bin_of(self, rank: int) -> tuple[float, float, int, int]:
        """The bin that has the window of a rank, which is exact.

        Args:
            rank: from 0, the weakest, to `total - 1`, the strongest.

        Returns:
            Where the bin begins and ends, how many windows are in lower ones, and how many in it.
        """
        upto = np.cumsum(self.counts)
        at = int(np.searchsorted(upto, rank, "right"))
        low, high = (self.start + at) * self.width, (self.start + at + 1) * self.width
        return low, high, int(upto[at] - self.counts[at]), int(self.counts[at])

    def above(self, value: float) -> tuple[int, int]:
        """How many windows have a value of at least this one: at least so many and at most so many.

        Both are the same where a bin begins; elsewhere the windows of one bin may lie on either side.
        """
        place = value / self.width - self.start
        most = int(self.counts[max(0, math.floor(place)) :].sum()) if place < len(self.counts) else 0
        least = int(self.counts[max(0, math.ceil(place)) :].sum()) if place < len(self.counts) else 0
        return least, most

    def __repr__(self) -> str:
        edges = self.edges
        return f"Histogram({self.total:,} windows in {len(self.counts)} bins from {edges[0]:.4g} to {edges[-1]:.4g})"


def scanned_of(header: Mapping[str, Any]) -> str:
    """What the windows are of, for people: a corpus, or part of one where the scan was stopped.

    >>> scanned_of({"corpus": {"name": "2 texts"}, "complete": False, "counts": {"tokens": 6000}})
    'part of 2 texts (stopped after 6,000 tokens)'
    """
    name = str(header.get("corpus", {}).get("name", "a corpus"))
    if header.get("complete", True):
        return name
    return f"part of {name} (stopped after {header.get('counts', {}).get('tokens', 0):,} tokens)"


def undominated(windows: Sequence[Window]) -> tuple[Window, ...]:
    """Those of some windows that no other beats in both value and cross-entropy, from fluent to strong."""
    # One window may be kept for its value and for its fluency.
    known = list({w.number: w for w in windows if w.cross_entropy is not None}.values())
    rows = non_dominated([w.value for w in known], [w.cross_entropy for w in known])  # type: ignore[arg-type]
    return tuple(known[i] for i in rows)

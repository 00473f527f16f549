"""Windows of a corpus, and the histogram of a feature's values on them: plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dreamy_lens.search.pareto import non_dominated

LEVELS = 64
"""Number of levels of cross-entropy, of each of which a scan keeps the strongest window."""

PER_NAT = 4
"""Number of levels per nat; the last level has no upper end."""


@dataclass(frozen=True)
class Window:
    """Consecutive tokens of a document, scored like the prompt of a dream.

    Attributes:
        number: Number of the window; numbers ascend along the corpus.
        ids: Token ids, length n.
        tokens: Text of each token by itself, length n.
        text: Text of all tokens together.
        value: Value of the feature on the window.
        cross_entropy: Mean over the predicted tokens, in nats per token (Eq. 1 of the paper); None if it was not
            measured.
        document: Name of the document that the window is from.
        character: Character of the document at which the window begins.
        before: Text before the window, as far as the scan kept it.
        after: Text after the window, as far as the scan kept it.
        values: Value of the feature if the prompt ended at each token, float32 `[n]`, NaN where it has none; None if
            the values are not known.

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
        """Exponential of the cross-entropy; None if that was not measured."""
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
    """Histogram of the values of one feature on windows.

    Attributes:
        width: Width of a bin, in the feature's units.
        start: Offset of the first bin: bin i holds values v with
            `(start + i) * width <= v < (start + i + 1) * width`.
        counts: Number of windows in each bin, int64 `[bins]`.

    >>> h = Histogram(0.5, -1, np.array([1, 2, 1]))
    >>> h.edges.tolist(), h.bin_of(2), h.above(0.5), h.above(0.25)
    ([-0.5, 0.0, 0.5, 1.0], (0.0, 0.5, 1, 2), (1, 1), (1, 3))
    """

    width: float
    start: int
    counts: np.ndarray

    @property
    def edges(self) -> np.ndarray:
        """Edges of the bins, float64 `[bins + 1]`."""
        return (self.start + np.arange(len(self.counts) + 1)) * self.width

    @property
    def total(self) -> int:
        """Number of windows."""
        return int(self.counts.sum())

    def bin_of(self, rank: int) -> tuple[float, float, int, int]:
        """Return the bin that holds the window of a rank; this is exact.

        Args:
            rank: Rank of the window, from 0, the weakest, to `total - 1`, the strongest.

        Returns:
            Lower edge of the bin, upper edge, number of windows in lower bins, number of windows in the bin.
        """
        cumulative = np.cumsum(self.counts)
        index = int(np.searchsorted(cumulative, rank, "right"))
        low, high = (self.start + index) * self.width, (self.start + index + 1) * self.width
        return low, high, int(cumulative[index] - self.counts[index]), int(self.counts[index])

    def above(self, value: float) -> tuple[int, int]:
        """Return the least and the largest possible number of windows whose value is at least `value`.

        At the edge of a bin both numbers are equal. Elsewhere, the windows of one bin may be on either side.
        """
        position = value / self.width - self.start
        most = int(self.counts[max(0, math.floor(position)) :].sum()) if position < len(self.counts) else 0
        least = int(self.counts[max(0, math.ceil(position)) :].sum()) if position < len(self.counts) else 0
        return least, most

    def __repr__(self) -> str:
        edges = self.edges
        return f"Histogram({self.total:,} windows in {len(self.counts)} bins from {edges[0]:.4g} to {edges[-1]:.4g})"


def scanned_part(header: Mapping[str, Any]) -> str:
    """Return the name of the scanned corpus, or of the scanned part if the scan was stopped.

    >>> scanned_part({"corpus": {"name": "2 texts"}, "complete": False, "counts": {"tokens": 6000}})
    'part of 2 texts (stopped after 6,000 tokens)'
    """
    name = str(header.get("corpus", {}).get("name", "a corpus"))
    if header.get("complete", True):
        return name
    return f"part of {name} (stopped after {header.get('counts', {}).get('tokens', 0):,} tokens)"


def frontier_windows(windows: Sequence[Window]) -> tuple[Window, ...]:
    """Return the windows that no other window beats in both value and cross-entropy, from fluent to strong."""
    # The same window may be kept for its value and for its fluency.
    known = list({w.number: w for w in windows if w.cross_entropy is not None}.values())
    rows = non_dominated([w.value for w in known], [w.cross_entropy for w in known])  # type: ignore[arg-type]
    return tuple(known[i] for i in rows)

"""How the values of all windows of a corpus are distributed, from what a scan keeps of them. Arrays, nothing else.

Three things are known. The histogram counts every window, so that it is exact which bin has the window of a rank; but a
feature that is near zero almost everywhere has almost everything in two of its bins. The strongest windows are known
one by one. And of a uniform random sample every value is known, which tells ranks apart within a bin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dreamy_lens.scan.window import Histogram


@dataclass(frozen=True, eq=False)
class Distribution:
    """The values of all windows.

    Attributes:
        histogram: of all of them.
        ends: lowest and highest.
        top: of the strongest windows, best first, `[k]`.
        sample: finite values of windows drawn at random, `[S]`, in any order.
    """

    histogram: Histogram
    ends: tuple[float, float]
    top: np.ndarray
    sample: np.ndarray

    def quantile(self, q: float) -> float:
        """The lowest value that at least a share `q` of the windows does not exceed; NaN if there are no windows.

        Which bin it is in is exact. Within the bin it is one of the strongest windows' values, where these reach so far
        down; or that of the sampled window of this rank, and beyond the last of these it lies between what is known.

        >>> values = np.array([0.0, 0.0, 0.0, 0.2, 3.0])
        >>> known = Distribution(Histogram(1.0, 0, np.array([4, 0, 0, 1])), (0.0, 3.0), values[:2:-1], values)
        >>> [known.quantile(q) for q in (0.5, 0.8, 1.0)]
        [0.0, 0.2, 3.0]
        """
        total = self.histogram.total
        if not total:
            return math.nan
        # The first window, from the weakest on, that a share q of them does not exceed.
        rank = min(max(math.ceil(q * total - 1e-9) - 1, 0), total - 1)
        if rank == 0 and math.isfinite(self.ends[0]):
            return self.ends[0]
        low, high, below, count = self.histogram.bin_of(rank)
        # Repeats of a text count in the histogram and are not among the strongest, so these are placed by it too.
        stronger, own = int((self.top >= high).sum()), self.top[(self.top >= low) & (self.top < high)]
        place = stronger + below + count - 1 - rank
        if place < stronger + len(own):
            return float(self.top[place])
        bottom, ceiling = max(low, self.ends[0]), min(high, self.ends[1])
        if len(own):
            ceiling = min(ceiling, float(own[-1]))  # all stronger ones are among the strongest
        inside = np.sort(self.sample[(self.sample >= low) & (self.sample < high)])
        size, share = len(inside), (rank - below + 0.5) / count
        half = 0.5 / size if size else 0.0
        if size and half <= share <= 1 - half:
            found = float(inside[math.ceil(share * size - 1e-9) - 1])
        else:
            known = ([half, 1 - half], inside[[0, -1]].tolist()) if size else ([], [])
            found = float(np.interp(share, [0.0, *known[0], 1.0], [bottom, *known[1], ceiling]))
        return min(max(found, bottom), ceiling)

    def shares_of_top(self) -> np.ndarray:
        """For each of the strongest windows, the share of all that is weaker, `[k]`."""
        at, below, counts = self._bins(self.top)
        stronger = np.array([(self.top >= edge).sum() for edge in self.histogram.edges[at + 1]], dtype=np.int64)
        ranks = below + counts - 1 - (np.arange(len(self.top)) - stronger)
        return self._shares(ranks + 0.5)

    def shares_of_sample(self) -> np.ndarray:
        """For each window of the sample, about the share of all that is weaker, `[S]`; equals stand in their order.

        It is exact how many are in lower bins, and within one the sampled windows stand for all.
        """
        at, below, counts = self._bins(self.sample)
        order = np.argsort(self.sample, kind="stable")
        place, size = np.empty(len(order)), np.bincount(at, minlength=1)
        place[order] = np.arange(len(order))
        place -= (np.cumsum(size) - size)[at]
        return self._shares(below + counts * (place + 0.5) / size[at])

    def _bins(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each value its bin, how many windows are in lower ones, and how many in it."""
        if not len(self.histogram.counts):
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
        last = len(self.histogram.counts) - 1
        at = np.clip(np.searchsorted(self.histogram.edges, values, "right") - 1, 0, last)
        upto, counts = np.cumsum(self.histogram.counts)[at], self.histogram.counts[at]
        return at, upto - counts, counts

    def _shares(self, ranks: np.ndarray) -> np.ndarray:
        total = max(1, self.histogram.total)
        return np.clip(ranks, 0.25, total - 0.25) / total

    def distances(self, shares: np.ndarray, q: float) -> np.ndarray:
        """How far shares are from a quantile: 0.99 is as far from 0.999 as that is from 0.9999."""
        least = 0.5 / max(1, self.histogram.total)
        goal = min(max(q, least), 1 - least)
        return np.abs(np.log(shares / (1 - shares)) - math.log(goal / (1 - goal)))

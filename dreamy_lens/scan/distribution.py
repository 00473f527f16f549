"""Distribution of a feature's values on all windows of a corpus, estimated from what a scan keeps. Arrays only.

A scan keeps three things. The histogram counts every window, so the bin of the window of any rank is exact; but if a
feature is near zero almost everywhere, two bins hold almost all windows. The strongest windows are known one by one.
A uniform random sample gives values that order ranks within a bin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dreamy_lens.scan.window import Histogram


@dataclass(frozen=True)
class Shape:
    """Shape of a feature's distribution of values, estimated from the histogram and the random sample.

    Attributes:
        active: Share of the windows whose value is above 0, from 0 to 1; NaN if it is not known.
        skewness: Third standardised moment; 0 for a symmetric distribution, NaN if all values are equal.
        kurtosis: Excess kurtosis: the fourth standardised moment minus 3, so 0 for a normal distribution; NaN if all
            values are equal.
    """

    active: float
    skewness: float
    kurtosis: float


@dataclass(frozen=True, eq=False)
class Distribution:
    """Distribution of a feature's values on all windows.

    Attributes:
        histogram: Histogram of the values of all windows.
        ends: Lowest and highest value.
        top: Values of the strongest windows, best first, `[k]`.
        sample: Finite values of windows drawn at random, `[S]`, in any order.
    """

    histogram: Histogram
    ends: tuple[float, float]
    top: np.ndarray
    sample: np.ndarray

    def quantile(self, q: float) -> float:
        """Return the lowest value that at least a share `q` of the windows does not exceed; NaN without windows.

        The bin of the value is exact. Within the bin, the value is exact if it is one of the strongest windows'.
        Otherwise it is the value of the sampled window of this rank in the bin, or, outside the sampled ranks, an
        interpolation between the nearest known values.

        >>> values = np.array([0.0, 0.0, 0.0, 0.2, 3.0])
        >>> known = Distribution(Histogram(1.0, 0, np.array([4, 0, 0, 1])), (0.0, 3.0), values[:2:-1], values)
        >>> [known.quantile(q) for q in (0.5, 0.8, 1.0)]
        [0.0, 0.2, 3.0]
        """
        total = self.histogram.total
        if not total:
            return math.nan
        # Rank of the quantile among all windows, the weakest first.
        rank = min(max(math.ceil(q * total - 1e-9) - 1, 0), total - 1)
        if rank == 0 and math.isfinite(self.ends[0]):
            return self.ends[0]
        low, high, below, count = self.histogram.bin_of(rank)
        # Repeated texts count in the histogram but occur only once among the strongest windows, so a position among the
        # strongest windows also has to be found with the histogram.
        stronger, own = int((self.top >= high).sum()), self.top[(self.top >= low) & (self.top < high)]
        index = stronger + below + count - 1 - rank
        if index < stronger + len(own):
            return float(self.top[index])
        bottom, ceiling = max(low, self.ends[0]), min(high, self.ends[1])
        if len(own):
            ceiling = min(ceiling, float(own[-1]))  # every higher value is among the strongest windows
        inside = np.sort(self.sample[(self.sample >= low) & (self.sample < high)])
        size, share = len(inside), (rank - below + 0.5) / count
        half = 0.5 / size if size else 0.0
        if size and half <= share <= 1 - half:
            value = float(inside[math.ceil(share * size - 1e-9) - 1])
        else:
            known = ([half, 1 - half], inside[[0, -1]].tolist()) if size else ([], [])
            value = float(np.interp(share, [0.0, *known[0], 1.0], [bottom, *known[1], ceiling]))
        return min(max(value, bottom), ceiling)

    def shape(self) -> Shape:
        """Return the share of windows above 0, the skewness and the excess kurtosis.

        The number of windows in each bin of the histogram is exact. Within a bin, the windows have the values of the
        sampled windows there; of the strongest ones, if these are all windows of the bin; or else its centre.

        >>> values = np.array([0.0, 0.0, 0.0, 0.0, 3.0])
        >>> Distribution(Histogram(1.0, 0, np.array([4, 0, 0, 1])), (0.0, 3.0), values[:3:-1], values).shape()
        Shape(active=0.2, skewness=1.5, kurtosis=0.25)
        """
        total = self.histogram.total
        if not total:
            return Shape(math.nan, math.nan, math.nan)
        values, weights, known = self._weighted()
        mean = float((values * weights).sum()) / total
        centred = values - mean
        second, third, fourth = (float((centred**power * weights).sum()) / total for power in (2, 3, 4))
        active = float(weights[values > 0].sum()) / total if known else math.nan
        # Rounding leaves a little of a variance that is zero.
        if not second > 1e-12 * max(abs(end) for end in self.ends) ** 2:
            return Shape(active, math.nan, math.nan)
        return Shape(*(round(x, 10) for x in (active, third / second**1.5, fourth / second**2 - 3)))

    def _weighted(self) -> tuple[np.ndarray, np.ndarray, bool]:
        """Return values, the number of windows that each stands for, and whether the share above 0 is known."""
        counts, edges = self.histogram.counts, self.histogram.edges
        bins = {}
        for name, values in (("sample", self.sample), ("top", self.top)):
            place = self._bins(values)[0]
            bins[name] = place, np.bincount(place, minlength=len(counts))
        (at_sample, sampled), (at_top, strongest) = bins["sample"], bins["top"]
        exact = (strongest == counts) & (counts > 0)
        by_sample = ~exact & (sampled > 0)
        by_centre = ~exact & ~by_sample & (counts > 0)
        keep_sample, keep_top = by_sample[at_sample], exact[at_top]
        centres = np.clip((edges[:-1] + edges[1:]) / 2, *self.ends)[by_centre]
        own = counts[at_sample] / np.maximum(sampled[at_sample], 1)
        values = np.concatenate([self.sample[keep_sample], self.top[keep_top], centres])
        weights = np.concatenate([own[keep_sample], np.ones(int(keep_top.sum())), counts[by_centre]])
        mixed = by_centre & (edges[:-1] <= 0) & (edges[1:] > 0)  # some of these windows may be at 0 exactly
        return values, weights, not mixed.any() or self.ends[0] > 0

    def shares_of_top(self) -> np.ndarray:
        """Return the share of all windows that is weaker than each of the strongest windows, `[k]`."""
        bins, below, counts = self._bins(self.top)
        stronger = np.array([(self.top >= edge).sum() for edge in self.histogram.edges[bins + 1]], dtype=np.int64)
        ranks = below + counts - 1 - (np.arange(len(self.top)) - stronger)
        return self._shares(ranks + 0.5)

    def shares_of_sample(self) -> np.ndarray:
        """Return the approximate share of all windows that is weaker than each sampled window, `[S]`.

        The number of windows in lower bins is exact. Within a bin, the sampled windows represent all windows, and
        equal values count in the order of the sample.
        """
        bins, below, counts = self._bins(self.sample)
        order = np.argsort(self.sample, kind="stable")
        rank, size = np.empty(len(order)), np.bincount(bins, minlength=1)
        rank[order] = np.arange(len(order))
        rank -= (np.cumsum(size) - size)[bins]
        return self._shares(below + counts * (rank + 0.5) / size[bins])

    def _bins(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the bin of each value, the number of windows in lower bins, and the number in the bin."""
        if not len(self.histogram.counts):
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
        last = len(self.histogram.counts) - 1
        bins = np.clip(np.searchsorted(self.histogram.edges, values, "right") - 1, 0, last)
        cumulative, counts = np.cumsum(self.histogram.counts)[bins], self.histogram.counts[bins]
        return bins, cumulative - counts, counts

    def _shares(self, ranks: np.ndarray) -> np.ndarray:
        """Return ranks as shares of all windows, never 0 or 1."""
        total = max(1, self.histogram.total)
        return np.clip(ranks, 0.25, total - 0.25) / total

    def distances(self, shares: np.ndarray, q: float) -> np.ndarray:
        """Return the distance of each share from a quantile, in log-odds.

        So 0.99 is about as far from 0.999 as 0.999 is from 0.9999.
        """
        least = 0.5 / max(1, self.histogram.total)
        goal = min(max(q, least), 1 - least)
        return np.abs(np.log(shares / (1 - shares)) - math.log(goal / (1 - goal)))

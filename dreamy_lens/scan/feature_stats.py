"""Statistics of each feature's values in a scan: strongest windows, strongest at every fluency, histogram, moments.

The statistics have a fixed size and are updated on the model's device. They can be merged: the merged statistics of
two halves of a corpus equal those of the whole corpus exactly, except for the last bits of sums, which depend on the
order of addition.

* *Strongest windows*: sorted by value; of equal values, the smaller window number comes first. Each text is kept once:
  of windows with the same text, the strongest or, among equals, the first.
* *Strongest at every fluency*: one window for each quarter of a nat of cross-entropy.
* *Histogram*: bins of width `2**e`, where e, for each feature, is the smallest exponent whose bins hold every value so
  far. When a larger value comes, bins are joined in pairs, so earlier windows need not be counted again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamy_lens.models.transfer import has_float64, in_float64
from dreamy_lens.scan.window import LEVELS, PER_NAT

BINS = 128
"""Number of bins of a histogram; half of them are on each side of zero."""

VALUES_AT_ONCE = {"cpu": 1 << 21, "cuda": 1 << 27}
"""Number of values to count at a time, by kind of device."""

NO_WINDOW = (1 << 63) - 1
"""Number and hash of an empty place that no window has taken."""

FloatRows = Float[Tensor, "features some"]
IntRows = Int[Tensor, "features some"]

_LOWEST = -120  # least exponent of the width of a bin


@dataclass
class FeatureStats:
    """Statistics of the values of several features. Files of unfinished scans contain tensors with these names.

    Attributes:
        value: Values of the k strongest windows, best first, float32; -inf at empty places.
        window: Numbers of the k strongest windows, int64.
        hashes: Hashes of the ids of the k strongest windows, int64.
        level_value: Value of the strongest window at each level of cross-entropy, float32.
        level_window: Number of the strongest window at each level of cross-entropy, int64.
        counts: Histogram, int64; bin i is `[(i - BINS/2) 2**e, (i - BINS/2 + 1) 2**e)`.
        exponent: The e of each feature's histogram, int64.
        moments: Number of finite values, their sum and their sum of squares, float64.
        ends: Smallest and largest value, float32.
        odd: Number of values that were not finite, int64; the other statistics ignore them.
    """

    value: Float[Tensor, "features k"]
    window: Int[Tensor, "features k"]
    hashes: Int[Tensor, "features k"]
    level_value: Float[Tensor, "features levels"]
    level_window: Int[Tensor, "features levels"]
    counts: Int[Tensor, "features bins"]
    exponent: Int[Tensor, " features"]
    moments: Float[Tensor, "3 features"]
    ends: Float[Tensor, "2 features"]
    odd: Int[Tensor, " features"]

    @classmethod
    def empty(cls, features: int, k: int, levels: bool, device: torch.device | str = "cpu") -> FeatureStats:
        """Return statistics of no windows; `levels` says whether cross-entropy is measured."""
        level_count = LEVELS if levels else 0

        def full(*shape: int, value: float, dtype: torch.dtype) -> Tensor:
            return torch.full(shape, value, dtype=dtype, device=device)

        low, int64 = -torch.inf, torch.int64
        ends = full(2, features, value=torch.inf, dtype=torch.float32)
        ends[1] = low
        return cls(
            full(features, k, value=low, dtype=torch.float32),
            torch.full((features, k), NO_WINDOW, dtype=int64, device=device),
            torch.full((features, k), NO_WINDOW, dtype=int64, device=device),
            full(features, level_count, value=low, dtype=torch.float32),
            torch.full((features, level_count), NO_WINDOW, dtype=int64, device=device),
            full(features, BINS, value=0, dtype=int64),
            full(features, value=_LOWEST, dtype=int64),
            torch.zeros(3, features, dtype=torch.float64, device=device if has_float64(device) else "cpu"),
            ends,
            full(features, value=0, dtype=int64),
        )

    def __len__(self) -> int:
        return len(self.value)

    @property
    def k(self) -> int:
        """Number of strongest windows that are kept for each feature."""
        return self.value.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by its name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    # Adding windows.

    def add(
        self,
        values: Float[Tensor, "windows features"],
        windows: Int[Tensor, " windows"],
        hashes: Int[Tensor, " windows"],
        cross_entropy: Float[Tensor, " windows"] | None = None,
    ) -> Int[Tensor, " kept"]:
        """Count windows whose numbers are larger than those of all windows counted before.

        Args:
            values: Value of each feature on each window.
            windows: Numbers of the windows, ascending.
            hashes: Hashes of the windows' ids, all different; they may equal hashes of earlier windows.
            cross_entropy: Cross-entropy of each window, in nats per token; None if it is not measured.

        Returns:
            Numbers of the added windows that are now kept for a feature, ascending.
        """
        kept = torch.zeros(len(windows), dtype=torch.bool, device=values.device)
        if not len(windows):
            return windows
        levels = None
        if cross_entropy is not None and self.level_value.shape[1]:
            order = level_of(cross_entropy).sort(stable=True)
            present, sizes = order.values.unique_consecutive(return_counts=True)
            levels = list(zip(present.tolist(), order.indices.split(sizes.tolist()), strict=True))
        # Features do not depend on each other, and intermediate results take several times the memory of the values.
        step = max(1, VALUES_AT_ONCE.get(values.device.type, VALUES_AT_ONCE["cpu"]) // len(windows))
        for start in range(0, len(self), step):
            part = self if step >= len(self) else self._part(slice(start, start + step))
            part._add(values[:, start : start + step], windows, hashes, levels, kept)
        return windows[kept]

    def _part(self, features: slice) -> FeatureStats:
        """Return a view of the statistics of some features; adding to the view adds to these statistics."""
        return FeatureStats(
            **{
                name: x[:, features] if name in ("moments", "ends") else x[features]
                for name, x in self.tensors().items()
            }
        )

    def _add(
        self, values: Tensor, windows: Tensor, hashes: Tensor, levels: list[tuple[int, Tensor]] | None, kept: Tensor
    ) -> None:
        finite = values.isfinite()
        if not bool(finite.all()):
            self.odd += (~finite).sum(0)
            counted = finite
            values = torch.where(finite, values, -torch.inf)
        else:
            counted = None
        self._add_moments(values, counted)
        self._add_to_histogram(values, counted)
        self._add_to_top(values, windows, hashes, kept)
        if levels is not None:
            self._add_to_levels(values, windows, levels, kept)

    def _add_moments(self, values: Tensor, counted: Tensor | None) -> None:
        if counted is None:
            low, high, number = values.amin(0), values.amax(0), values.new_full((len(self),), len(values))
            finite = values
        else:
            low = torch.where(counted, values, torch.inf).amin(0)
            high, number = values.amax(0), counted.sum(0)
            finite = torch.where(counted, values, 0.0)
        self.ends[0] = torch.minimum(self.ends[0], low)
        self.ends[1] = torch.maximum(self.ends[1], high)
        exact, number = in_float64(finite), in_float64(number)
        self.moments += torch.stack([number, exact.sum(0), (exact * exact).sum(0)])

    def _add_to_histogram(self, values: Tensor, counted: Tensor | None) -> None:
        magnitudes = self.ends.abs()
        self._widen(exponents(torch.where(magnitudes.isfinite(), magnitudes, 0.0).amax(0)))
        bins = (torch.ldexp(values, -self.exponent).floor() + BINS // 2).clamp(0, BINS - 1)
        flat = bins.long() + torch.arange(len(self), device=values.device) * BINS
        if counted is not None:
            flat = flat[counted]
        flat = flat.flatten()
        if len(flat) >= self.counts.numel():
            self.counts += torch.bincount(flat, minlength=self.counts.numel()).view_as(self.counts)
        else:  # avoids a second histogram that would be mostly zeros
            self.counts.view(-1).scatter_add_(0, flat, torch.ones_like(flat))

    def _widen(self, exponent: Tensor) -> None:
        """Join bins in pairs until every feature's exponent is at least the given one."""
        grows = (exponent > self.exponent).nonzero().flatten()
        if not len(grows):
            return
        shift = (exponent - self.exponent)[grows].clamp(max=BINS)
        positions = torch.arange(BINS, device=shift.device) - BINS // 2
        # A shift rounds down on both sides of zero, like the floor of a division.
        joined = positions[None] >> shift[:, None].clamp(max=62)
        counts = torch.zeros_like(self.counts[grows])
        counts.scatter_add_(1, joined + BINS // 2, self.counts[grows])
        self.counts[grows] = counts
        self.exponent[grows] = exponent[grows]

    def _add_to_top(self, values: Tensor, windows: Tensor, hashes: Tensor, kept: Tensor) -> None:
        # Only a value above the weakest kept value can enter: later windows lose ties.
        better = values > self.value[:, -1]
        enters = better.any(0).nonzero().flatten()
        if not len(enters):
            return
        candidates = torch.where(better[:, enters], values[:, enters], -torch.inf).T
        best, indices = top_values(candidates, min(self.k, candidates.shape[1]))
        empty = best == -torch.inf
        numbers = windows[indices].masked_fill(empty, NO_WINDOW)
        texts = hashes[indices].masked_fill(empty, NO_WINDOW)
        joined = [
            torch.cat([old[enters], new], dim=1)
            for old, new in ((self.value, best), (self.window, numbers), (self.hashes, texts))
        ]
        again = torch.isin(self.hashes[enters], hashes).any(1)  # features with a kept text that the new windows repeat
        strongest = list(select_top(joined[0], joined[1], joined[2], self.k))
        if bool(again.any()):
            repeating = again.nonzero().flatten()
            value, window, texts = (x[repeating] for x in joined)
            for tensor, new in zip(strongest, select_top_texts(value, window, texts, self.k), strict=True):
                tensor[repeating] = new
        for held, new in zip((self.value, self.window, self.hashes), strongest, strict=True):
            held[enters] = new
        entered = strongest[1]
        entered = entered[(entered >= windows[0]) & (entered != NO_WINDOW)]
        kept[torch.searchsorted(windows, entered)] = True

    def _add_to_levels(self, values: Tensor, windows: Tensor, levels: list[tuple[int, Tensor]], kept: Tensor) -> None:
        for i, rows in levels:
            level_values = values[rows]
            best, indices = level_values.max(0)  # on a CPU, max returns the first of equal values
            if values.device.type != "cpu":
                indices = (level_values == best).to(torch.uint8).argmax(0)
            winner, better = rows[indices], best > self.level_value[:, i]
            if values.device.type == "cpu":  # few features have a better window, so select them
                features = better.nonzero().flatten()
                winner = winner[features]
                self.level_value[features, i] = best[features]
                self.level_window[features, i] = windows[winner]
                kept[winner] = True
            else:  # selecting would wait for the device to count the features
                self.level_value[:, i] = torch.where(better, best, self.level_value[:, i])
                self.level_window[:, i] = torch.where(better, windows[winner], self.level_window[:, i])
                kept |= torch.zeros_like(kept, dtype=torch.int32).index_add_(0, winner, better.int()) > 0

    # Merging statistics.

    def merge(self, other: FeatureStats) -> None:
        """Add the statistics of other windows; the order of merges makes no difference."""
        pairs = zip((self.value, self.window, self.hashes), (other.value, other.window, other.hashes), strict=True)
        value, window, hashes = (torch.cat([a, b.to(a.device)], dim=1) for a, b in pairs)
        order = window.sort(dim=1, stable=True).indices
        value, window, hashes = (x.gather(1, order) for x in (value, window, hashes))
        self.value, self.window, self.hashes = select_top_texts(value, window, hashes, self.k)
        level_value, level_window = other.level_value.to(self.value.device), other.level_window.to(self.value.device)
        tie = (level_value == self.level_value) & (level_window < self.level_window)
        better = (level_value > self.level_value) | tie
        self.level_value = torch.where(better, level_value, self.level_value)
        self.level_window = torch.where(better, level_window, self.level_window)
        counts = dataclasses.replace(other, counts=other.counts.clone(), exponent=other.exponent.clone())
        counts._widen(self.exponent.to(counts.exponent.device))
        self._widen(counts.exponent.to(self.exponent.device))
        self.counts += counts.counts.to(self.counts.device)
        self.moments += other.moments.to(self.moments.device)
        ends = other.ends.to(self.ends.device)
        self.ends = torch.stack([torch.minimum(self.ends[0], ends[0]), torch.maximum(self.ends[1], ends[1])])
        self.odd += other.odd.to(self.odd.device)

    def to(self, device: torch.device | str) -> FeatureStats:
        """Return a copy on another device."""
        moved = {name: x.to(device) for name, x in self.tensors().items() if name != "moments"}
        return FeatureStats(**moved, moments=self.moments.to(device if has_float64(device) else "cpu"))

    def kept_windows(self, since: int = -1) -> Int[Tensor, " kept"]:
        """Return the numbers of the windows that are kept for a feature, ascending, from the number `since`."""
        kept = torch.cat([self.window.flatten(), self.level_window.flatten()])
        return kept[(kept >= since) & (kept != NO_WINDOW)].unique()


def level_of(cross_entropy: Float[Tensor, " windows"]) -> Int[Tensor, " windows"]:
    """Return the level of each cross-entropy, in nats; a value that is not finite has the last level."""
    scaled = torch.nan_to_num(cross_entropy * PER_NAT, nan=LEVELS - 1, posinf=LEVELS - 1, neginf=0)
    return scaled.floor().clamp(0, LEVELS - 1).long()


def exponents(magnitude: Float[Tensor, " features"]) -> Int[Tensor, " features"]:
    """Return the smallest e for which `BINS / 2` bins of width `2**e` hold values of each magnitude."""
    exponent = torch.frexp(magnitude.float()).exponent.long() - (BINS // 2).bit_length() + 1
    return torch.where(magnitude > 0, exponent, _LOWEST).clamp(min=_LOWEST)


def top_values(
    values: Float[Tensor, "features windows"], count: int
) -> tuple[Float[Tensor, "features count"], Int[Tensor, "features count"]]:
    """Return the largest values of each row and their indices; of equal values, the first.

    The result equals that of a stable sort, in less than half the time, because value and index form one integer.
    """
    values = values + 0.0  # turns -0.0 into 0.0, since their bits differ
    if values.shape[1] <= count or values.dtype != torch.float32:
        order = values.sort(dim=1, descending=True, stable=True)
        return order.values[:, :count], order.indices[:, :count]
    bits = values.contiguous().view(torch.int32)
    rising = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).long()
    last = (1 << 32) - 1
    keys = (rising << 32) | (last - torch.arange(values.shape[1], device=values.device))
    indices = last - (keys.topk(count, dim=1).values & last)
    return values.gather(1, indices), indices


def select_top(value: FloatRows, window: IntRows, hashes: IntRows, k: int) -> Iterable[Tensor]:
    """Return the k strongest windows of each row; of equal values, the first. No text may occur twice in a row."""
    best, indices = top_values(value, min(k, value.shape[1]))
    return best, window.gather(1, indices), hashes.gather(1, indices)


def select_top_texts(value: FloatRows, window: IntRows, hashes: IntRows, k: int) -> Iterable[Tensor]:
    """Return the k strongest windows of each row, each text once.

    Windows of equal value must be in the order of their numbers.
    """
    order = value.sort(dim=1, descending=True, stable=True).indices
    value, window, hashes = (x.gather(1, order) for x in (value, window, hashes))
    by_text = hashes.sort(dim=1, stable=True)
    again = torch.zeros_like(hashes, dtype=torch.bool)
    again[:, 1:] = (by_text.values[:, 1:] == by_text.values[:, :-1]) & (by_text.values[:, 1:] != NO_WINDOW)
    if bool(again.any()):
        repeated = torch.zeros_like(again).scatter(1, by_text.indices, again)
        value = value.masked_fill(repeated, -torch.inf)
        window, hashes = window.masked_fill(repeated, NO_WINDOW), hashes.masked_fill(repeated, NO_WINDOW)
        order = value.sort(dim=1, descending=True, stable=True).indices
        value, window, hashes = (x.gather(1, order) for x in (value, window, hashes))
    return value[:, :k].contiguous(), window[:, :k].contiguous(), hashes[:, :k].contiguous()

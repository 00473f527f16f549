"""What a scan keeps of each feature's values: the strongest windows, also at every fluency, a histogram, moments.

All of it has a fixed size, is updated on the model's device, and can be put together from parts: tallies of two halves
of a corpus, merged, are the tally of the whole, number for number (sums aside, whose last bits depend on the order).

* *Strongest windows*: by value, ties by the smaller window number, and no text twice: of equal windows the strongest
  is kept, or the first.
* *Strongest at every fluency*: one window for each quarter of a nat of cross-entropy.
* *Histogram*: bins of width `2**e`, with e for each feature the smallest that holds every value seen. A larger value
  makes bins join in pairs, so what has been counted never has to be looked at again.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamy_lens.scan.strongest import NOBODY, best_of, first, strongest_of

LEVELS = 64
"""Levels of cross-entropy."""

PER_NAT = 4
"""Levels to a nat; the last one is for everything beyond."""

BINS = 128
"""Of a histogram, half of them on each side of zero."""

AT_A_TIME = {"cpu": 1 << 21, "cuda": 1 << 27}
"""Values that are counted at a time, by kind of device."""

_LOWEST = -120  # of the exponent of a bin's width


@dataclass
class FeatureStats:
    """What is kept of F features.

    Attributes:
        value: of the k strongest windows, best first, float32 `[F, k]`; -inf where there are fewer.
        window: their numbers, int64 `[F, k]`.
        hashes: of their ids, int64 `[F, k]`.
        level_value: of the strongest window at each level of cross-entropy, float32 `[F, LEVELS]`.
        level_window: its number, int64 `[F, LEVELS]`.
        counts: the histogram, int64 `[F, BINS]`; bin i is `[(i - BINS/2) 2**e, (i - BINS/2 + 1) 2**e)`.
        exponent: e, int64 `[F]`.
        moments: number of finite values, their sum and sum of squares, float64 `[3, F]`.
        ends: smallest and largest value, float32 `[2, F]`.
        odd: values that were not finite, int64 `[F]`; they are in nothing else.
    """

    value: Tensor
    window: Tensor
    hashes: Tensor
    level_value: Tensor
    level_window: Tensor
    counts: Tensor
    exponent: Tensor
    moments: Tensor
    ends: Tensor
    odd: Tensor

    @classmethod
    def empty(cls, features: int, k: int, levels: bool, device: torch.device | str = "cpu") -> FeatureStats:
        """Of nothing; without levels where cross-entropy is not measured."""
        wide = LEVELS if levels else 0

        def full(*shape: int, value: float, dtype: torch.dtype) -> Tensor:
            return torch.full(shape, value, dtype=dtype, device=device)

        low, whole = -torch.inf, torch.int64
        ends = full(2, features, value=torch.inf, dtype=torch.float32)
        ends[1] = low
        return cls(
            full(features, k, value=low, dtype=torch.float32),
            torch.full((features, k), NOBODY, dtype=whole, device=device),
            torch.full((features, k), NOBODY, dtype=whole, device=device),
            full(features, wide, value=low, dtype=torch.float32),
            torch.full((features, wide), NOBODY, dtype=whole, device=device),
            full(features, BINS, value=0, dtype=whole),
            full(features, value=_LOWEST, dtype=whole),
            full(3, features, value=0, dtype=torch.float64),
            ends,
            full(features, value=0, dtype=whole),
        )

    def __len__(self) -> int:
        return len(self.value)

    @property
    def k(self) -> int:
        """How many of the strongest windows are kept."""
        return self.value.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        """By name, for whoever stores them."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    # Adding windows.

    def add(self, values: Tensor, windows: Tensor, hashes: Tensor, cross_entropy: Tensor | None = None) -> Tensor:
        """Take in windows that come after all that were taken in before.

        Args:
            values: `[B, F]`.
            windows: their numbers, int64 `[B]`, rising.
            hashes: of their ids, int64 `[B]`, no two of which are equal; they may equal those of earlier windows.
            cross_entropy: float32 `[B]`.

        Returns:
            The numbers of those that are kept for something now, int64, rising.
        """
        kept = torch.zeros(len(windows), dtype=torch.bool, device=values.device)
        if not len(windows):
            return windows
        levels = None
        if cross_entropy is not None and self.level_value.shape[1]:
            order = level_of(cross_entropy).sort(stable=True)
            found, sizes = order.values.unique_consecutive(return_counts=True)
            levels = list(zip(found.tolist(), order.indices.split(sizes.tolist()), strict=True))
        # What a feature keeps is no other's affair, and what is worked out on the way is several times the values.
        step = max(1, AT_A_TIME.get(values.device.type, AT_A_TIME["cpu"]) // len(windows))
        for start in range(0, len(self), step):
            part = self if step >= len(self) else self._part(slice(start, start + step))
            part._add(values[:, start : start + step], windows, hashes, levels, kept)
        return windows[kept]

    def _part(self, some: slice) -> FeatureStats:
        """Some of the features; what is added to them is added here."""
        return FeatureStats(
            **{name: x[:, some] if name in ("moments", "ends") else x[some] for name, x in self.tensors().items()}
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
        exact = finite.double()
        self.moments += torch.stack([number.double(), exact.sum(0), (exact * exact).sum(0)])

    def _add_to_histogram(self, values: Tensor, counted: Tensor | None) -> None:
        largest = self.ends.abs()
        largest = torch.where(largest.isfinite(), largest, 0.0).amax(0)
        self._widen(exponents(largest))
        bins = (torch.ldexp(values, -self.exponent).floor() + BINS // 2).clamp(0, BINS - 1)
        flat = bins.long() + torch.arange(len(self), device=values.device) * BINS
        if counted is not None:
            flat = flat[counted]
        flat = flat.flatten()
        if len(flat) >= self.counts.numel():
            self.counts += torch.bincount(flat, minlength=self.counts.numel()).view_as(self.counts)
        else:  # no second histogram, most of which would be zero
            self.counts.view(-1).scatter_add_(0, flat, torch.ones_like(flat))

    def _widen(self, exponent: Tensor) -> None:
        """Join bins in pairs, as often as it takes, where a larger exponent is needed."""
        grows = (exponent > self.exponent).nonzero().flatten()
        if not len(grows):
            return
        shift = (exponent - self.exponent)[grows].clamp(max=BINS)
        where = torch.arange(BINS, device=shift.device) - BINS // 2
        # Rounds down, on both sides of zero, as the floor of a division does.
        joined = where[None] >> shift[:, None].clamp(max=62)
        counts = torch.zeros_like(self.counts[grows])
        counts.scatter_add_(1, joined + BINS // 2, self.counts[grows])
        self.counts[grows] = counts
        self.exponent[grows] = exponent[grows]

    def _add_to_top(self, values: Tensor, windows: Tensor, hashes: Tensor, kept: Tensor) -> None:
        # Only what beats the weakest kept can enter, for what comes later loses ties.
        better = values > self.value[:, -1]
        enters = better.any(0).nonzero().flatten()
        if not len(enters):
            return
        found = torch.where(better[:, enters], values[:, enters], -torch.inf).T
        best, at = first(found, min(self.k, found.shape[1]))
        empty = best == -torch.inf
        numbers = windows[at].masked_fill(empty, NOBODY)
        texts = hashes[at].masked_fill(empty, NOBODY)
        joined = [
            torch.cat([old[enters], new], dim=1)
            for old, new in ((self.value, best), (self.window, numbers), (self.hashes, texts))
        ]
        again = torch.isin(self.hashes[enters], hashes).any(1)  # has a text that may come again
        strongest = list(best_of(joined[0], joined[1], joined[2], self.k))
        if bool(again.any()):
            some = again.nonzero().flatten()
            value, window, texts = (x[some] for x in joined)
            for whole, new in zip(strongest, strongest_of(value, window, texts, self.k), strict=True):
                whole[some] = new
        for held, new in zip((self.value, self.window, self.hashes), strongest, strict=True):
            held[enters] = new
        own = strongest[1]
        own = own[(own >= windows[0]) & (own != NOBODY)]
        kept[torch.searchsorted(windows, own)] = True

    def _add_to_levels(self, values: Tensor, windows: Tensor, levels: list[tuple[int, Tensor]], kept: Tensor) -> None:
        for i, rows in levels:
            some = values[rows]
            best, at = some.max(0)  # of equals, the first on the processor
            if values.device.type != "cpu":
                at = (some == best).to(torch.uint8).argmax(0)
            winner, better = rows[at], best > self.level_value[:, i]
            if values.device.type == "cpu":  # few are
                which = better.nonzero().flatten()
                winner = winner[which]
                self.level_value[which, i] = best[which]
                self.level_window[which, i] = windows[winner]
                kept[winner] = True
            else:  # whose number nobody waits for
                self.level_value[:, i] = torch.where(better, best, self.level_value[:, i])
                self.level_window[:, i] = torch.where(better, windows[winner], self.level_window[:, i])
                kept |= torch.zeros_like(kept, dtype=torch.int32).index_add_(0, winner, better.int()) > 0

    # Putting tallies together.

    def merge(self, other: FeatureStats) -> None:
        """Take in what another tally, of other windows, has kept; in whichever order this is done."""
        both = zip((self.value, self.window, self.hashes), (other.value, other.window, other.hashes), strict=True)
        value, window, hashes = (torch.cat([a, b.to(a.device)], dim=1) for a, b in both)
        order = window.sort(dim=1, stable=True).indices
        value, window, hashes = (x.gather(1, order) for x in (value, window, hashes))
        self.value, self.window, self.hashes = strongest_of(value, window, hashes, self.k)
        theirs = other.level_value.to(self.value.device), other.level_window.to(self.value.device)
        tie = (theirs[0] == self.level_value) & (theirs[1] < self.level_window)
        better = (theirs[0] > self.level_value) | tie
        self.level_value = torch.where(better, theirs[0], self.level_value)
        self.level_window = torch.where(better, theirs[1], self.level_window)
        counts = dataclasses.replace(other, counts=other.counts.clone(), exponent=other.exponent.clone())
        counts._widen(self.exponent.to(counts.exponent.device))
        self._widen(counts.exponent.to(self.exponent.device))
        self.counts += counts.counts.to(self.counts.device)
        self.moments += other.moments.to(self.moments.device)
        ends = other.ends.to(self.ends.device)
        self.ends = torch.stack([torch.minimum(self.ends[0], ends[0]), torch.maximum(self.ends[1], ends[1])])
        self.odd += other.odd.to(self.odd.device)

    def to(self, device: torch.device | str) -> FeatureStats:
        """The same on another device."""
        return FeatureStats(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def numbers(self, since: int = -1) -> Tensor:
        """Every window that is kept for something, int64, rising; those from a number on."""
        kept = torch.cat([self.window.flatten(), self.level_window.flatten()])
        return kept[(kept >= since) & (kept != NOBODY)].unique()


def level_of(cross_entropy: Tensor) -> Tensor:
    """The level of cross-entropies in nats, int64 `[B]`; what is not finite counts as the last."""
    scaled = torch.nan_to_num(cross_entropy * PER_NAT, nan=LEVELS - 1, posinf=LEVELS - 1, neginf=0)
    return scaled.floor().clamp(0, LEVELS - 1).long()


def exponents(largest: Tensor) -> Tensor:
    """The smallest e for which `BINS / 2` bins of width `2**e` hold values of this size, int64."""
    exponent = torch.frexp(largest.float()).exponent.long() - (BINS // 2).bit_length() + 1
    return torch.where(largest > 0, exponent, _LOWEST).clamp(min=_LOWEST)

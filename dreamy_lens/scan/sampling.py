"""Windows drawn at random: a uniform sample of those that are scanned, and a random part of a corpus to scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamy_lens.models.transfer import to_device

LEAST_SHARE = 16
"""Windows of a block that are worth tokenizing it for."""


@dataclass
class WindowSample:
    """A uniform random sample of the windows of a corpus, with every feature's value on each.

    Each window has a random priority, which follows from its number and a seed; the smallest are the sample. So it does
    not matter in which order windows come, or where they are counted.

    Attributes:
        size: Most windows in the sample.
        seed: Seed of the priorities.
        values: Value of each feature on each window, float32 on the model's device, with room for `size` windows; only
            the first `len(number)` rows count.
        number: Numbers of the sampled windows, int64.
        priority: Priority of each sampled window, int64.
    """

    size: int
    seed: int
    values: Float[Tensor, "size features"]
    number: Int[np.ndarray, " sampled"] = field(default_factory=lambda: np.empty(0, np.int64))
    priority: Int[np.ndarray, " sampled"] = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def empty(cls, size: int, features: int, seed: int, device: Any = "cpu") -> WindowSample:
        """Return a sample of no windows, with room for `size`."""
        return cls(size, seed, torch.empty(size, features, device=device))

    def add(self, values: Float[Tensor, "windows features"], numbers: Int[np.ndarray, " windows"]) -> None:
        """Have windows drawn from as well, none of which was added before."""
        self._enter(values, numbers, priorities(numbers, self.seed))

    def merge(self, other: WindowSample) -> None:
        """Add another sample of the same seed."""
        self._enter(other.values[: len(other.number)], other.number, other.priority)

    def _enter(self, values: Tensor, numbers: np.ndarray, priority: np.ndarray) -> None:
        if not self.size:
            return
        have = len(self.number)
        if have == self.size:
            good = priority < self.priority.max()
            numbers, priority = numbers[good], priority[good]
            rows = np.flatnonzero(good)
        else:
            rows = np.arange(len(numbers))
        if not len(rows):
            return
        both = np.concatenate([self.priority, priority])
        chosen = np.zeros(len(both), bool)
        chosen[np.argsort(both, kind="stable")[: self.size]] = True
        new = np.flatnonzero(chosen[have:])
        places = np.concatenate([np.flatnonzero(~chosen[:have]), np.arange(have, self.size)])[: len(new)]
        grown = max(have, int(places.max()) + 1) if len(places) else have
        for name, given in (("number", numbers), ("priority", priority)):
            column = np.concatenate([getattr(self, name), np.empty(grown - have, np.int64)])
            column[places] = given[new]
            setattr(self, name, column)
        device = self.values.device
        self.values[to_device(places, device)] = values[to_device(rows[new], values.device)].float().to(device)

    def ordered(self) -> tuple[Int[np.ndarray, " sampled"], Float[Tensor, "sampled features"]]:
        """Return the numbers of the sampled windows, rising, and their values."""
        order = np.argsort(self.number)
        return self.number[order], self.values[to_device(order, self.values.device)]


def priorities(numbers: Int[np.ndarray, " windows"], seed: int) -> Int[np.ndarray, " windows"]:
    """Return random numbers for windows, not negative: splitmix64 of the windows' numbers and a seed."""
    with np.errstate(over="ignore"):
        x = numbers.astype(np.uint64) + np.uint64(seed % (1 << 63)) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(1)).astype(np.int64)


def windows_per_block(characters: Sequence[int], windows: int, seed: int) -> Int[np.ndarray, " blocks"]:
    """Return how many windows of each block to scan, so that every window is about as likely as any other.

    Each block has a share in proportion to its characters, if that is some `LEAST_SHARE` windows for most. Where it is
    less, tokenizing blocks would cost much more than scanning them: then points are laid over the corpus, evenly from a
    random start, one for every `LEAST_SHARE` windows, and each point's windows come from the block it falls in. A
    block is drawn as often as its characters say, so that on average over seeds its share is the same; what is uneven
    in both cases is only how many windows so many characters have.

    Args:
        characters: Number of characters of each block.
        windows: Number of windows wanted in all.
        seed: Seed of the random start.
    """
    ends = np.cumsum([0, *characters], dtype=np.int64)
    total = max(1, int(ends[-1]))
    if windows >= LEAST_SHARE * len(characters):
        return np.diff([int(end) * windows // total for end in ends])
    points = max(1, windows // LEAST_SHARE)
    start = np.random.default_rng([seed, points]).random()
    places = (np.arange(points) + start) / points * total
    block = (np.searchsorted(ends, places, side="right") - 1).clip(0, max(0, len(characters) - 1))
    each = np.diff(np.arange(points + 1) * windows // points)
    return np.bincount(block, each, minlength=len(characters)).astype(np.int64)[: len(characters)]


def draw_windows(count: int, share: int | None, seed: Sequence[int]) -> Int[np.ndarray, " drawn"]:
    """Return which of a block's windows to scan, rising: all of them, or `share` drawn without replacement."""
    if share is None or share >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, size=share, replace=False))

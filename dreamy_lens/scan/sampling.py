"""Random samples: a uniform sample of the scanned windows, and a random part of a corpus to scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamy_lens.models.transfer import to_device

MIN_SHARE = 16
"""Fewest windows of a block for which tokenizing the block is worth its cost."""


@dataclass
class WindowSample:
    """A uniform random sample of the windows of a corpus, with every feature's value on each.

    Each window has a random priority, computed from its number and a seed. The windows of the smallest priorities are
    the sample. So the sample does not depend on the order of the windows, or on the process that counts them.

    Attributes:
        size: Largest number of windows in the sample.
        seed: Seed of the priorities.
        values: Value of each feature on each window, float32 on the model's device, with room for `size` windows;
            only the first `len(number)` rows are in use.
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
        """Add windows to those that the sample is drawn from; none of them may have been added before."""
        self._insert(values, numbers, priorities(numbers, self.seed))

    def merge(self, other: WindowSample) -> None:
        """Add the windows of another sample with the same seed."""
        self._insert(other.values[: len(other.number)], other.number, other.priority)

    def _insert(self, values: Tensor, numbers: np.ndarray, priority: np.ndarray) -> None:
        if not self.size:
            return
        current = len(self.number)
        if current == self.size:
            eligible = priority < self.priority.max()
            numbers, priority = numbers[eligible], priority[eligible]
            rows = np.flatnonzero(eligible)
        else:
            rows = np.arange(len(numbers))
        if not len(rows):
            return
        all_priorities = np.concatenate([self.priority, priority])
        chosen = np.zeros(len(all_priorities), bool)
        chosen[np.argsort(all_priorities, kind="stable")[: self.size]] = True
        new = np.flatnonzero(chosen[current:])
        slots = np.concatenate(
            [np.flatnonzero(~chosen[:current]), np.arange(current, min(self.size, current + len(new)))]
        )
        slots = slots[: len(new)]
        grown = max(current, int(slots.max()) + 1) if len(slots) else current
        for name, added in (("number", numbers), ("priority", priority)):
            column = np.concatenate([getattr(self, name), np.empty(grown - current, np.int64)])
            column[slots] = added[new]
            setattr(self, name, column)
        device = self.values.device
        self.values[to_device(slots, device)] = values[to_device(rows[new], values.device)].float().to(device)

    def ordered(self) -> tuple[Int[np.ndarray, " sampled"], Float[Tensor, "sampled features"]]:
        """Return the numbers of the sampled windows, ascending, and the values on them."""
        order = np.argsort(self.number)
        return self.number[order], self.values[to_device(order, self.values.device)]


def priorities(numbers: Int[np.ndarray, " windows"], seed: int) -> Int[np.ndarray, " windows"]:
    """Return a non-negative random priority for each window: splitmix64 of its number and a seed."""
    with np.errstate(over="ignore"):
        x = numbers.astype(np.uint64) + np.uint64(seed % (1 << 63)) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(1)).astype(np.int64)


def windows_per_block(characters: Sequence[int], windows: int, seed: int) -> Int[np.ndarray, " blocks"]:
    """Return the number of windows to scan of each block, so that all windows are about equally likely.

    If the windows are at least `MIN_SHARE` per block on average, each block gets a share in proportion to its
    characters. With fewer windows, tokenizing all blocks would cost much more than scanning them. Then points are laid
    over the corpus at equal distances from a random start, one for every `MIN_SHARE` windows, and the block under each
    point gets the windows of the point. On average over seeds, both ways give a block the same share. They treat
    windows unequally only where blocks differ in windows per character.

    Args:
        characters: Number of characters of each block.
        windows: Number of windows in all blocks together.
        seed: Seed of the random start.

    Returns:
        Number of windows of each block; their sum is `windows`, except for a corpus without text.
    """
    ends = np.cumsum([0, *characters], dtype=np.int64)
    total = max(1, int(ends[-1]))
    if windows >= MIN_SHARE * len(characters):
        return np.diff([int(end) * windows // total for end in ends])
    points = max(1, windows // MIN_SHARE)
    start = np.random.default_rng([seed, points]).random()
    positions = (np.arange(points) + start) / points * total
    block = (np.searchsorted(ends, positions, side="right") - 1).clip(0, max(0, len(characters) - 1))
    windows_of_point = np.diff(np.arange(points + 1) * windows // points)
    return np.bincount(block, windows_of_point, minlength=len(characters)).astype(np.int64)[: len(characters)]


def draw_windows(count: int, share: int | None, seed: Sequence[int]) -> Int[np.ndarray, " drawn"]:
    """Return the rows of the windows of a block to scan, ascending: all, or `share` drawn without replacement."""
    if share is None or share >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, size=share, replace=False))

"""Blocks: consecutive prompts of one batch that are scored for the same feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class PromptBlock(NamedTuple):
    """Consecutive prompts of one feature.

    Attributes:
        feature: Number of the feature.
        start: Number of the first prompt.
        stop: Number after that of the last prompt.
    """

    feature: int
    start: int
    stop: int

    @property
    def rows(self) -> slice:
        """Prompts of the block."""
        return slice(self.start, self.stop)

    def __len__(self) -> int:
        return self.stop - self.start


def blocks_of(owner: np.ndarray) -> tuple[PromptBlock, ...]:
    """Return the blocks of prompts that are sorted by their feature.

    >>> blocks_of(np.array([0, 0, 2]))
    (PromptBlock(feature=0, start=0, stop=2), PromptBlock(feature=2, start=2, stop=3))
    """
    features, starts = np.unique(owner, return_index=True)
    stops = [*starts[1:], len(owner)][: len(starts)]
    return tuple(PromptBlock(int(f), int(a), int(b)) for f, a, b in zip(features, starts, stops, strict=True))


def pad_blocks(blocks: Sequence[PromptBlock], sizes: Sequence[int]) -> tuple[tuple[PromptBlock, ...], np.ndarray]:
    """Repeat the last prompt of every block until the block has its size.

    Returns:
        The larger blocks, and the number of the prompt that stands in each of their rows.

    >>> pad_blocks(blocks_of(np.array([0, 0, 2])), [3, 2])
    ((PromptBlock(feature=0, start=0, stop=3), PromptBlock(feature=2, start=3, stop=5)), array([0, 1, 1, 2, 2]))
    """
    ends = np.cumsum([0, *sizes]).tolist()
    larger = tuple(PromptBlock(b.feature, ends[i], ends[i + 1]) for i, b in enumerate(blocks))
    rows = [np.minimum(np.arange(b.start, b.start + size), b.stop - 1) for b, size in zip(blocks, sizes, strict=True)]
    return larger, np.concatenate(rows)

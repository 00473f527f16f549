"""What a search has learned about crossings: how the value changes with the place of the cut."""

from __future__ import annotations

import numpy as np


class Crossings:
    """What a search has learned about crossings: how the value changes with the cut.

    Args:
        length: Number of tokens (n) of a prompt.
    """

    def __init__(self, length: int) -> None:
        self.sums = np.zeros((length, 3))  # number, sum and sum of squares of changes, by the cut

    def learn(self, cut: np.ndarray, change: np.ndarray) -> None:
        """Learn the changes of the value `[K]`, in units of its scale, of crossings with these cuts."""
        change = np.clip(change, -6, 6)
        self.sums *= 0.98
        np.add.at(self.sums, cut, np.stack([np.ones_like(change), change, change**2], axis=1))

    def estimates(self, deviation: float) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of the changes, float32 `[n]`, with those of swaps as a prior."""
        number, total, squares = self.sums.T
        mean = total / (number + 2)
        spread = np.sqrt(np.maximum((squares + 3 * deviation**2) / (number + 3) - mean**2, 1e-6))
        return mean.astype(np.float32), spread.astype(np.float32)

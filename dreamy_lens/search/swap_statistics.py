"""What a search has learned about replacing one token: how far predicted changes of the scores can be trusted.

The value changes by a multiple of what the gradient predicts plus a mean of the position, with a deviation of its own
at every position; the cross-entropy by its prediction with one deviation. All are estimated from the swaps that were
scored, recent ones more than old ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

DECAY = 0.97
"""Weight that old swaps keep from one batch to the next."""
PRIOR = 10.0
"""Number of swaps that the prior of a position is worth."""


class Estimates(NamedTuple):
    """Estimates that predictions are corrected with.

    Attributes:
        slope: Change of the value for each unit of the predicted change.
        mean: Mean change of the value at each position beyond the prediction, `[n]`.
        deviation: Standard deviation of the value's change at each position, `[n]`.
        cross_entropy_deviation: Standard deviation of the error of the predicted cross-entropy.
    """

    slope: float
    mean: np.ndarray
    deviation: np.ndarray
    cross_entropy_deviation: float


class SwapStatistics:
    """Online regression of the changes that swaps made.

    Args:
        length: Number of tokens (n) of a prompt.
        scale: Standard deviation of the values of the first prompts.
    """

    def __init__(self, length: int, scale: float) -> None:
        self.scale = scale
        self.places = np.zeros((length, 6))  # sums of 1, g, f, g g, g f, f f at each position
        self.errors = np.zeros(2)  # number and sum of squares of errors of the cross-entropy

    def add(
        self,
        position: np.ndarray,
        predicted: np.ndarray,
        change: np.ndarray,
        cross_entropy_error: np.ndarray,
    ) -> None:
        """Add swaps.

        Args:
            position: Position of each swap, `[K]`.
            predicted: Change of the value that the gradient predicted, `[K]`.
            change: Change of the value, `[K]`.
            cross_entropy_error: Change of the cross-entropy less the predicted one, `[K]`, nats per token.
        """
        most = 6 * self.scale
        g, f = predicted.astype(float), np.clip(change.astype(float), -most, most)
        self.places *= DECAY
        np.add.at(self.places, position, np.stack([np.ones_like(g), g, f, g * g, g * f, f * f], axis=1))
        error = np.clip(cross_entropy_error.astype(float), -2, 2)
        self.errors = DECAY * self.errors + (len(error), float(error @ error))

    def estimates(self) -> Estimates:
        """Return the estimates from the swaps so far."""
        n, g, f, gg, gf, ff = self.places.sum(0)
        count = max(n, 1.0)
        mean_g, mean_f = g / count, f / count
        spread = gg / count - mean_g**2
        slope = (gf / count - mean_g * mean_f) / max(spread, 1e-12) * (n / (n + 50))
        slope = float(np.clip(slope, 0.0, 1.5)) if n > 1 else 0.0
        ones, sum_g, sum_f, sum_gg, sum_gf, sum_ff = self.places.T
        mean = (sum_f - slope * sum_g + PRIOR * (mean_f - slope * mean_g)) / (ones + PRIOR)
        rest = sum_ff - 2 * slope * sum_gf + slope**2 * sum_gg - 2 * mean * (sum_f - slope * sum_g) + mean**2 * ones
        overall = max(ff / count - mean_f**2, 1e-12) if n > 1 else self.scale**2
        deviation = np.sqrt(np.maximum(rest + PRIOR * overall, 0.0) / (ones + PRIOR)) + 1e-12
        number, squares = self.errors
        return Estimates(slope, mean, deviation, float(np.sqrt((squares + 5 * 0.15) / (number + 5))))

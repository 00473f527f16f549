"""What a search has learned about replacing one token: a correction of predicted changes, and how far to trust it.

A change that replaces token u by v at position p is modelled as

    slope * predicted + position[p] + gained[p, v] + gained_anywhere[v] + lost[p, u] + lost_anywhere[u]

and all terms but `predicted` are learned from the swaps that were scored, by the errors of the model so far. The terms
of single tokens matter most: how much a prompt owes to the token that goes, and whether the one that comes has helped
before.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64

DECAY = 0.97
"""Weight that old swaps keep from one batch to the next in the slope and the deviation."""
SHRINKAGE = {"position": 5.0, "gained": 4.0, "lost": 1.0, "anywhere": 20.0}
"""Number of observations that the prior mean 0 of each term is worth."""
MEMORY = 200
"""Number of swaps after which the mean of a position forgets older ones."""


class SwapEffects:
    """Online model of the changes of one score.

    Args:
        length: Number of tokens (n) of a prompt.
        width: Number of tokens of the vocabulary.
        slope: Multiple of the prediction that is right in the beginning.
        learns_slope: Whether the slope is learned.
        deviation: Standard deviation of the errors in the beginning.
        most: Largest change that is believed; larger ones are clipped.
    """

    def __init__(
        self,
        length: int,
        width: int,
        slope: float,
        learns_slope: bool,
        deviation: float,
        most: float,
    ) -> None:
        self.slope, self._learns_slope, self._most = slope, learns_slope, most
        self._position = np.zeros(length)
        self._seen = np.zeros(length)
        self._regression = np.array([0.0, 1e-9])  # sums of predicted * error and predicted ** 2
        self._squares = np.array([5.0, 5.0 * deviation**2])  # number and sum of squares of errors
        # Of each pair of tables, the first holds the number of observations, and the second the effect.
        self._gained = np.zeros((2, length, width), dtype=np.float32)
        self._lost = np.zeros((2, length, width), dtype=np.float32)
        self._gained_anywhere = np.zeros((2, width), dtype=np.float32)
        self._lost_anywhere = np.zeros((2, width), dtype=np.float32)

    @property
    def deviation(self) -> float:
        """Standard deviation of the errors of recent predictions."""
        return float(np.sqrt(self._squares[1] / self._squares[0]))

    def lost(self, ids: Int64[np.ndarray, "P n"]) -> Float32[np.ndarray, "P n"]:
        """Return the part of a change that depends on what is replaced: the position and the present token."""
        at = np.arange(ids.shape[1])
        return (self._position + self._lost[1, at, ids] + self._lost_anywhere[1, ids]).astype(np.float32)

    def gained(self) -> Float32[np.ndarray, "n d_vocab"]:
        """Return the part of a change that depends on the new token."""
        return self._gained[1] + self._gained_anywhere[1]

    def predict(
        self,
        position: Int64[np.ndarray, " K"],
        old: Int64[np.ndarray, " K"],
        new: Int64[np.ndarray, " K"],
        predicted: Float32[np.ndarray, " K"],
    ) -> Float32[np.ndarray, " K"]:
        """Return the corrected predictions of some swaps."""
        tokens = self._gained[1, position, new] + self._gained_anywhere[1, new]
        tokens += self._lost[1, position, old] + self._lost_anywhere[1, old]
        return self.slope * predicted + self._position[position] + tokens

    def learn(
        self,
        position: Int64[np.ndarray, " K"],
        old: Int64[np.ndarray, " K"],
        new: Int64[np.ndarray, " K"],
        predicted: Float32[np.ndarray, " K"],
        change: Float32[np.ndarray, " K"],
    ) -> None:
        """Learn from swaps that were scored.

        Args:
            position: Positions.
            old: Tokens that were replaced.
            new: Tokens that replaced them.
            predicted: Predicted changes.
            change: Measured changes.
        """
        change = np.clip(change, -self._most, self._most)
        error = change - self.predict(position, old, new, predicted)
        self._squares = DECAY * self._squares + (len(error), float(error @ error))
        if self._learns_slope:
            predicted = np.clip(predicted, -self._most, self._most)
            self._regression = DECAY * self._regression + (float(predicted @ error), float(predicted @ predicted))
            step = float(predicted @ error) / (self._regression[1] + 1e-9)
            self.slope = float(np.clip(self.slope + step, 0.0, 1.5))
        count = np.bincount(position, minlength=len(self._position))
        self._seen = np.minimum(self._seen + count, MEMORY)
        total = np.bincount(position, weights=error, minlength=len(self._position))
        self._position += total / (np.maximum(self._seen, count) + SHRINKAGE["position"])
        _update(self._gained, (position, new), error, SHRINKAGE["gained"])
        _update(self._lost, (position, old), error, SHRINKAGE["lost"])
        _update(self._gained_anywhere, (new,), error, SHRINKAGE["anywhere"])
        _update(self._lost_anywhere, (old,), error, SHRINKAGE["anywhere"])


def _update(table: np.ndarray, at: tuple[np.ndarray, ...], error: np.ndarray, prior: float) -> None:
    """Move the means of a table towards the errors of new observations."""
    np.add.at(table[0], at, 1)
    np.add.at(table[1], at, error / (table[0][at] + prior))

"""Score cache: the scores of every prompt of a run, so that no prompt is evaluated twice."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from dreamy_lens.scoring.scorer import Scores
from dreamy_lens.search.lengths import by_length
from dreamy_lens.search.protocol import ModelRequest
from dreamy_lens.search.steps import State, Step


@dataclass(frozen=True)
class NewScores:
    """Prompts that were scored for the first time.

    Attributes:
        ids: Token ids of the prompts with finite scores, int64 `[K, n]`.
        value: Values of these prompts, float32 `[K]`.
        cross_entropy: Cross-entropies of these prompts, float32 `[K]`, nats per token.
        non_finite: Number of prompts without finite scores.
    """

    ids: Int64[np.ndarray, "K n"]
    value: Float32[np.ndarray, " K"]
    cross_entropy: Float32[np.ndarray, " K"]
    non_finite: int

    @classmethod
    def none(cls, length: int) -> NewScores:
        """Return no prompts of a number of tokens (n)."""
        return cls(np.empty((0, length), np.int64), np.empty(0, np.float32), np.empty(0, np.float32), 0)

    def __add__(self, other: NewScores) -> NewScores:
        return NewScores(
            np.concatenate([self.ids, other.ids]),
            np.concatenate([self.value, other.value]),
            np.concatenate([self.cross_entropy, other.cross_entropy]),
            self.non_finite + other.non_finite,
        )

    def step(self, state: State, restart: float | None, rejected: int) -> Step:
        """Make the step of the iteration in which these prompts were scored.

        Args:
            state: State of the search after the iteration.
            restart: λ_r if the iteration began with a restart, otherwise None.
            rejected: Number of draws that the constraints rejected.
        """
        return Step(
            iteration=state.iteration,
            ids=self.ids,
            value=self.value,
            cross_entropy=self.cross_entropy,
            population=state.population,
            restart=restart,
            rejected=rejected,
            non_finite=self.non_finite,
            seconds=state.seconds,
            state=state,
        )


def keys_of(ids: Int64[np.ndarray, "B n"]) -> list[bytes]:
    """Return the bytes of each prompt's ids, by which it is found again.

    >>> keys_of(np.array([[1, 2], [3, 4]]))[1] == np.array([3, 4]).tobytes()
    True
    """
    ids = np.ascontiguousarray(ids, dtype=np.int64)
    return ids.view(np.dtype((np.void, ids.shape[1] * ids.itemsize))).reshape(-1).tolist() if ids.size else []


class ScoreCache:
    """Cache of the scores of every prompt that a run has evaluated."""

    def __init__(self) -> None:
        self._scores: dict[bytes, tuple[float, float]] = {}
        self._non_finite: list[np.ndarray] = []

    def __contains__(self, key: bytes) -> bool:
        """Return whether the prompt with these bytes of int64 ids has been evaluated."""
        return key in self._scores

    def add(self, ids: np.ndarray, value: np.ndarray, cross_entropy: np.ndarray) -> None:
        """Add the scores of prompts: ids `[K, n]`, value `[K]`, cross_entropy `[K]`; they may be NaN or infinite."""
        scores = zip(value.tolist(), cross_entropy.tolist(), strict=True)
        self._scores.update(zip(keys_of(ids), scores, strict=True))
        wrong = ~(np.isfinite(value) & np.isfinite(cross_entropy))
        if wrong.any():
            self._non_finite.append(np.asarray(ids[wrong], dtype=np.int64))

    def add_new(self, ids: np.ndarray, value: np.ndarray, cross_entropy: np.ndarray) -> NewScores:
        """Add scores that have just been computed, and return them as new scores."""
        self.add(ids, value, cross_entropy)
        finite = np.isfinite(value) & np.isfinite(cross_entropy)
        return NewScores(ids[finite], value[finite], cross_entropy[finite], int((~finite).sum()))

    def unseen(self, rows: Int64[np.ndarray, "B n"]) -> dict[bytes, np.ndarray]:
        """Return the prompts that have not been evaluated, each once, in the order of their first row."""
        unseen: dict[bytes, np.ndarray] = {}
        for key, row in zip(keys_of(rows), np.ascontiguousarray(rows, dtype=np.int64), strict=True):
            if key not in self._scores:
                unseen.setdefault(key, row)
        return unseen

    def first_unseen(self, rows: Int64[np.ndarray, "B n"]) -> Int64[np.ndarray, " K"]:
        """Return the numbers of the rows that :meth:`unseen` returns, in order."""
        keys = keys_of(rows)
        first = dict(zip(reversed(keys), range(len(keys) - 1, -1, -1), strict=True))  # the last one put in stays
        return np.sort(np.array([first[key] for key in first.keys() - self._scores.keys()], dtype=np.int64))

    def evaluate(self, rows: Int64[np.ndarray, "B n"]) -> Generator[ModelRequest, Scores, NewScores]:
        """Request the scores of the prompts that have not been evaluated, and add them."""
        unseen = list(self.unseen(rows).values())
        value, cross_entropy = np.empty((2, len(unseen)), np.float32)
        if not unseen:
            return self.add_new(np.empty((0, rows.shape[1]), dtype=np.int64), value, cross_entropy)
        ids = np.stack(unseen)
        for which, prompts in by_length(ids):
            scores = yield ModelRequest(False, prompts)
            value[which], cross_entropy[which] = scores.value, scores.cross_entropy
        return self.add_new(ids, value, cross_entropy)

    def scores(self, rows: Int64[np.ndarray, "B n"]) -> tuple[Float32[np.ndarray, " B"], Float32[np.ndarray, " B"]]:
        """Return value and cross-entropy of prompts that have been evaluated."""
        if not len(rows):
            return np.empty(0, np.float32), np.empty(0, np.float32)
        pairs = [self._scores[key] for key in keys_of(rows)]
        value, cross_entropy = np.array(pairs, dtype=np.float32).T
        return value, cross_entropy

    def partial_scores(
        self, rows: Int64[np.ndarray, "B n"], unseen: dict[bytes, np.ndarray]
    ) -> tuple[Float32[np.ndarray, "2 B"], Int64[np.ndarray, " B"]]:
        """Return the scores of prompts, some of which are still on the device.

        Args:
            rows: Token ids of the prompts.
            unseen: Prompts whose scores are on the device, by key, in their order there.

        Returns:
            The known scores, NaN for prompts on the device; and the index of each prompt's scores on the device, -1 for
            prompts whose scores are known.
        """
        place_of = {key: place for place, key in enumerate(unseen)}
        keys = keys_of(rows)
        pairs = [self._scores.get(key, (np.nan, np.nan)) for key in keys]
        places = np.array([place_of.get(key, -1) for key in keys], dtype=np.int64)
        return np.array(pairs, dtype=np.float32).reshape(-1, 2).T, places

    def is_finite(self, rows: Int64[np.ndarray, "B n"]) -> Bool[np.ndarray, " B"]:
        """Return which prompts have finite scores; all of them must have been evaluated."""
        value, cross_entropy = self.scores(rows)
        return np.isfinite(value) & np.isfinite(cross_entropy)

    def finite(self) -> tuple[Int64[np.ndarray, "N n"], Float32[np.ndarray, " N"], Float32[np.ndarray, " N"]]:
        """Return ids, value and cross-entropy of all prompts with finite scores, in the order of their evaluation."""
        keys = [key for key, (v, c) in self._scores.items() if np.isfinite(v) and np.isfinite(c)]
        ids = np.stack([np.frombuffer(key, dtype=np.int64) for key in keys]) if keys else np.empty((0, 0), np.int64)
        value, cross_entropy = np.array([self._scores[key] for key in keys], dtype=np.float32).reshape(-1, 2).T
        return ids, value, cross_entropy

    def non_finite(self) -> Int64[np.ndarray, "K n"]:
        """Return the token ids of the prompts whose scores are not finite."""
        if len(self._non_finite) > 1:  # joined once, so that the next call copies no single rows
            self._non_finite = [np.concatenate(self._non_finite)]
        return self._non_finite[0] if self._non_finite else np.empty((0, 0), dtype=np.int64)

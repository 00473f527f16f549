"""What a search says and asks as it goes, and what it knows: shared by the orders in which it can do its work."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from dreamy_lens.models.transfer import to_host
from dreamy_lens.scoring.scorer import Scorer, Scores


@dataclass(frozen=True)
class State:
    """All that the next iteration depends on, besides the scores already known: what resuming needs.

    Attributes:
        iteration: the last one that was completed.
        population: ids `[M, n]` in the order of the slots.
        rng: the state of the random generator, as JSON-ready numbers.
        seconds: that the run has taken.
        non_finite: ids `[K, n]` of evaluated prompts whose value or cross-entropy was NaN or infinite.
    """

    iteration: int
    population: np.ndarray
    rng: dict[str, Any]
    seconds: float
    non_finite: np.ndarray


@dataclass(frozen=True)
class Step:
    """What one iteration found.

    Attributes:
        iteration: 0 for the initial population, then 1 to T.
        ids: prompts scored for the first time, int64 `[K, n]`; all have finite scores.
        value: float32 `[K]`.
        cross_entropy: float32 `[K]`, nats per token.
        population: ids `[M, n]` after this step, in the order of the slots.
        restart: λ_r, if the iteration began with a restart.
        rejected: draws that the constraints turned down.
        non_finite: prompts whose value or cross-entropy was NaN or infinite; they are not among `ids`.
        seconds: from the start of the run to the end of this step.
        state: from which the run can continue.
    """

    iteration: int
    ids: np.ndarray
    value: np.ndarray
    cross_entropy: np.ndarray
    population: np.ndarray
    restart: float | None
    rejected: int
    non_finite: int
    seconds: float
    state: State = field(repr=False)


@dataclass(frozen=True)
class ModelRequest:
    """What a search needs a model for.

    Attributes:
        gradient: whether it is token gradients, and not scores.
        ids: of these prompts `[B, n]`; on the model's device if the processor need not know them.
        stays: whether scores are to stay on the device, as a tensor `[2, B]`, so that nothing waits for them.
    """

    gradient: bool
    ids: np.ndarray | Tensor
    stays: bool = False

    def answered(self, scorer: Scorer) -> Any:
        """By a scorer: a :class:`Gradient`, :class:`Scores`, or a tensor of scores."""
        if self.gradient:
            return scorer.gradient_there(self.ids) if isinstance(self.ids, Tensor) else scorer.gradient(self.ids)
        return scorer.score_there(self.ids) if self.stays else scorer.score(self.ids)


@dataclass(frozen=True)
class HostTransfer:
    """What a search needs to see of what the device has computed; the one thing that has to be waited for.

    Attributes:
        tensors: on the device.
    """

    tensors: tuple[Tensor, ...]

    def answered(self, scorer: Scorer) -> tuple[np.ndarray, ...]:
        """With arrays."""
        return to_host(*self.tensors)


Search = Generator["Step | ModelRequest | HostTransfer", Any, None]
"""A search as a coroutine: it gives steps, and asks for what only a model can tell."""


@dataclass(frozen=True)
class NewScores:
    """Prompts scored for the first time: ids, values and cross-entropies of the finite ones, and how many were not."""

    arrays: tuple[np.ndarray, np.ndarray, np.ndarray]
    non_finite: int

    def __add__(self, other: NewScores) -> NewScores:
        ids, value, cross_entropy = (np.concatenate(pair) for pair in zip(self.arrays, other.arrays, strict=True))
        return NewScores((ids, value, cross_entropy), self.non_finite + other.non_finite)


class ScoreCache:
    """Scores of every prompt seen in a run, so that no prompt is evaluated twice."""

    def __init__(self) -> None:
        self._scores: dict[bytes, tuple[float, float]] = {}
        self._non_finite: list[np.ndarray] = []

    def add(self, ids: np.ndarray, value: np.ndarray, cross_entropy: np.ndarray) -> None:
        """Remember scores: ids `[K, n]`, value `[K]`, cross_entropy `[K]`; NaN where they were not finite."""
        for row, v, c in zip(
            np.ascontiguousarray(ids, dtype=np.int64), value.tolist(), cross_entropy.tolist(), strict=True
        ):
            self._scores[row.tobytes()] = (v, c)
            if not (np.isfinite(v) and np.isfinite(c)):
                self._non_finite.append(row[None])

    def fresh(self, rows: np.ndarray) -> dict[bytes, np.ndarray]:
        """Those of the prompts `[B, n]` that were not evaluated, once each, in the order in which they came."""
        fresh: dict[bytes, np.ndarray] = {}
        for row in np.ascontiguousarray(rows, dtype=np.int64):
            key = row.tobytes()
            if key not in self._scores:
                fresh.setdefault(key, row)
        return fresh

    def evaluate(self, rows: np.ndarray) -> Generator[ModelRequest, Scores, NewScores]:
        """Ask for scores of the prompts `[B, n]` that are new."""
        fresh = list(self.fresh(rows).values())
        if not fresh:
            nothing = np.empty(0, np.float32)
            return self.noted(np.empty((0, rows.shape[1]), dtype=np.int64), nothing, nothing)
        ids = np.stack(fresh)
        found = yield ModelRequest(False, ids)
        return self.noted(ids, found.value, found.cross_entropy)

    def noted(self, ids: np.ndarray, value: np.ndarray, cross_entropy: np.ndarray) -> NewScores:
        """Remember scores that have just been found, and say what is new."""
        self.add(ids, value, cross_entropy)
        finite = np.isfinite(value) & np.isfinite(cross_entropy)
        return NewScores((ids[finite], value[finite], cross_entropy[finite]), int((~finite).sum()))

    def offered(self, rows: np.ndarray, fresh: dict[bytes, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Where the scores of prompts `[B, n]` are, of which some are still on the device.

        Args:
            rows: the prompts.
            fresh: those whose scores are, in their order there.

        Returns:
            The scores that are known, float32 `[2, B]`, and the places of the others, int64 `[B]`, -1 for known ones.
        """
        places = {key: place for place, key in enumerate(fresh)}
        keys = [row.tobytes() for row in np.ascontiguousarray(rows, dtype=np.int64)]
        nothing = (np.nan, np.nan)
        pairs = [self._scores.get(key, nothing) for key in keys]
        where = np.array([places.get(key, -1) for key in keys], dtype=np.int64)
        return np.array(pairs, dtype=np.float32).reshape(-1, 2).T, where

    def scores(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value and cross-entropy, float32 `[B]` each, of prompts `[B, n]` that were evaluated."""
        if not len(rows):
            return np.empty(0, np.float32), np.empty(0, np.float32)
        pairs = [self._scores[row.tobytes()] for row in np.ascontiguousarray(rows, dtype=np.int64)]
        value, cross_entropy = np.array(pairs, dtype=np.float32).T
        return value, cross_entropy

    def finite(self, rows: np.ndarray) -> np.ndarray:
        """Which prompts `[B, n]`, all evaluated, have finite scores: bool `[B]`."""
        value, cross_entropy = self.scores(rows)
        return np.isfinite(value) & np.isfinite(cross_entropy)

    def non_finite(self) -> np.ndarray:
        """Ids `[K, n]` of the prompts whose scores are not finite."""
        if len(self._non_finite) > 1:  # as one array, so that the next call copies no row by itself
            self._non_finite = [np.concatenate(self._non_finite)]
        return self._non_finite[0] if self._non_finite else np.empty((0, 0), dtype=np.int64)


class Clock:
    """Seconds since the beginning of a run that has taken some already."""

    def __init__(self, offset: float) -> None:
        self._start = time.perf_counter() - offset

    def __call__(self) -> float:
        """Seconds."""
        return time.perf_counter() - self._start

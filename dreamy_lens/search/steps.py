"""What a search reports after each iteration, and what it needs to continue. Plain data, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64


@dataclass(frozen=True)
class State:
    """All that the next iteration depends on, besides the scores already known: what resuming needs.

    Attributes:
        iteration: the last one that was completed.
        population: ids `[M, n]` in the order of the slots.
        rng: the state of the random generator, as JSON-ready numbers.
        seconds: how long the run has taken.
        non_finite: ids `[K, n]` of evaluated prompts whose value or cross-entropy was NaN or infinite.
    """

    iteration: int
    population: Int64[np.ndarray, "M n"]
    rng: dict[str, Any]
    seconds: float
    non_finite: Int64[np.ndarray, "K n"]


@dataclass(frozen=True)
class Step:
    """Result of one iteration.

    Attributes:
        iteration: 0 for the initial population, then 1 to T.
        ids: prompts scored for the first time, int64 `[K, n]`; all have finite scores.
        value: float32 `[K]`.
        cross_entropy: float32 `[K]`, nats per token.
        population: ids `[M, n]` after this step, in the order of the slots.
        restart: λ_r, if the iteration began with a restart.
        rejected: number of draws that the constraints turned down.
        non_finite: number of prompts whose value or cross-entropy was NaN or infinite; they are not among `ids`.
        seconds: time from the start of the run to the end of this step.
        state: from which the run can continue.
    """

    iteration: int
    ids: Int64[np.ndarray, "K n"]
    value: Float32[np.ndarray, " K"]
    cross_entropy: Float32[np.ndarray, " K"]
    population: Int64[np.ndarray, "M n"]
    restart: float | None
    rejected: int
    non_finite: int
    seconds: float
    state: State = field(repr=False)

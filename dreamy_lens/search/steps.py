"""Steps and states of a search: the report of each iteration, and the data to resume from. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64


@dataclass(frozen=True)
class State:
    """State from which a run can be resumed, together with the scores of its history.

    Attributes:
        iteration: Number of the last completed iteration.
        population: Token ids `[M, n]`, in the order of the slots.
        rng: State of the random generator, as JSON values.
        seconds: Time that the run has taken, in seconds.
        non_finite: Token ids `[K, n]` of the evaluated prompts whose value or cross-entropy was NaN or infinite.
        memory: What the optimiser has learned, as arrays by name; empty for one that remembers only its population.
    """

    iteration: int
    population: Int64[np.ndarray, "M n"]
    rng: dict[str, Any]
    seconds: float
    non_finite: Int64[np.ndarray, "K n"]
    memory: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """Result of one iteration.

    Attributes:
        iteration: Number of the iteration: 0 for the initial population, then 1 to T.
        ids: Token ids of the prompts scored for the first time, int64 `[K, n]`; all have finite scores.
        value: Values of these prompts, float32 `[K]`.
        cross_entropy: Cross-entropies of these prompts, float32 `[K]`, nats per token.
        population: Token ids of the population after this step, int64 `[M, n]`, in the order of the slots.
        restart: λ_r if the iteration began with a restart, otherwise None.
        rejected: Number of draws that the constraints rejected.
        non_finite: Number of prompts whose value or cross-entropy was NaN or infinite; they are not among `ids`.
        seconds: Time from the start of the run to the end of this step, in seconds.
        state: State from which the run can continue.
        token_layers: Work from the start of the run to the end of this step, in tokens times layers; NaN if unknown.
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
    token_layers: float = np.nan

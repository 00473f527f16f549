"""Selection and restart: the choice of the prompts of the next population.

Each function exists twice: for the host with numpy, and for a device with torch. The two agree bit by bit, ties
included.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor


def select(
    value: Float32[np.ndarray, " pool+M"],
    cross_entropy: Float32[np.ndarray, " pool+M"],
    lambdas: Float32[np.ndarray, " M"],
    pool: int,
) -> Int64[np.ndarray, " M"]:
    """Choose the best prompt of the pool for each slot, by `L_λ = value - λ cross_entropy` (Eq. 1).

    Args:
        value: Values of the prompts of the pool, followed by those of the members.
        cross_entropy: Cross-entropies of the prompts of the pool, followed by those of the members.
        lambdas: λ of each slot.
        pool: Number of prompts in the pool.

    Returns:
        The index of the prompt that each slot chooses. If no prompt of the pool has finite scores, every member stays.
    """
    finite = np.flatnonzero(np.isfinite(value[:pool]) & np.isfinite(cross_entropy[:pool]))
    if not len(finite):
        return np.arange(pool, pool + len(lambdas))
    objective = value[finite] - lambdas[:, None] * cross_entropy[finite]
    return finite[objective.argmax(axis=1)]


def select_on_device(
    value: Float[Tensor, " pool+M"], cross_entropy: Float[Tensor, " pool+M"], lambdas: Float[Tensor, " M"], pool: int
) -> Int64[Tensor, " M"]:
    """Choose the best prompt of the pool for each slot, without waiting for the device; see :func:`select`."""
    members = torch.arange(pool, pool + len(lambdas), device=value.device)
    if not pool:
        return members
    value, cross_entropy = value[:pool], cross_entropy[:pool]
    finite = value.isfinite() & cross_entropy.isfinite()
    objective = value - lambdas[:, None] * cross_entropy
    objective = objective.clamp_min(torch.finfo(objective.dtype).min)  # finite scores rank above the others
    return torch.where(finite.any(), objective.masked_fill(~finite, -torch.inf).argmax(1), members)


def choose_survivor(
    value: Float32[np.ndarray, " M"], cross_entropy: Float32[np.ndarray, " M"], restart_lambda: float
) -> int:
    """Choose the only member that survives a restart: the best member under λ_r."""
    return int(np.argmax(value - restart_lambda * cross_entropy))


def choose_survivor_on_device(
    value: Float[Tensor, " M"], cross_entropy: Float[Tensor, " M"], restart_lambda: float
) -> Int64[Tensor, " 1"]:
    """Choose the only member that survives a restart, without waiting for the device; see :func:`choose_survivor`."""
    return (value - float(np.float32(restart_lambda)) * cross_entropy).argmax(0, keepdim=True)

"""The initial population of a search, and what can be wrong with it."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from typing import Any

import numpy as np
from jaxtyping import Int64

from dreamy_lens.errors import FeatureError, PromptError
from dreamy_lens.scoring.scorer import Scores
from dreamy_lens.scoring.token_gradient import Gradient
from dreamy_lens.search.constraint_set import ConstraintSet
from dreamy_lens.search.protocol import ModelRequest
from dreamy_lens.search.score_cache import NewScores, ScoreCache

FRESH_STARTS = 16
"""How often random initial prompts whose value is not finite are drawn again."""


def first_population(
    start: Int64[np.ndarray, "P n"] | None, size: int, constraints: ConstraintSet, rng: np.random.Generator
) -> Int64[np.ndarray, "M n"]:
    """Make the initial population.

    Args:
        start: any number of prompts, or None for random ones. Fewer than `size` are repeated in turn, more are
            subsampled without replacement.
        size: M.
        constraints: which prompts may exist.
        rng: the search's random generator.

    Raises:
        ConstraintError: a prompt of the start breaks a constraint.
    """
    if start is None:
        return constraints.random(size, rng)
    rows = np.asarray(start, dtype=np.int64)
    constraints.require(rows)
    if len(rows) > size:
        return rows[np.sort(rng.choice(len(rows), size=size, replace=False))]
    return rows[np.arange(size) % len(rows)]


def evaluate_first(
    population: Int64[np.ndarray, "M n"],
    redraw: bool,
    constraints: ConstraintSet,
    cache: ScoreCache,
    rng: np.random.Generator,
    label: str,
) -> Generator[ModelRequest, Scores, tuple[np.ndarray, NewScores]]:
    """Score the initial population, and replace members whose scores are not finite.

    Args:
        population: the initial prompts.
        redraw: whether other prompts may be drawn in the place of those without finite scores; else a member with
            finite scores takes it at once.
        constraints: which prompts may exist.
        cache: scores known so far.
        rng: the search's random generator.
        label: of the feature, for messages.

    Returns:
        The population, all of finite scores, int64 `[M, n]`; and what was scored.

    Raises:
        FeatureError: no prompt that was tried has finite scores.
    """
    new = yield from cache.evaluate(population)
    for _ in range(FRESH_STARTS if redraw else 0):
        bad = ~cache.finite(population)
        if not bad.any():
            break
        population[bad] = constraints.random(int(bad.sum()), rng)
        new += yield from cache.evaluate(population)
    finite = cache.finite(population)
    if not finite.any():
        raise FeatureError(
            f"{label} is NaN or infinite on every one of the {len(cache.non_finite())} initial prompts that were "
            "tried, so nothing can be selected. Check the feature with `dreamy-lens doctor`, or give a start where it "
            "is finite."
        )
    return population[np.where(finite, np.arange(len(population)), finite.argmax())], new


def stack_prompts(rows: list[np.ndarray]) -> Int64[np.ndarray, "P n"]:
    """Stack given prompts; PromptError if their lengths differ."""
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise PromptError(
            f"Starts must have one length, and these have {', '.join(map(str, lengths))} tokens; trim or lengthen some."
        )
    return np.stack(rows)


def warn_if_flat(gradient: Gradient | Any, label: str) -> None:
    """Warn if the gradient of the value guides nothing at the start."""
    if all(not part.value.any() and not part.value_charge.any() for part in gradient.parts):
        warnings.warn(
            f"The gradient of {label} is exactly zero on every initial prompt, so at first it "
            "cannot guide the search. A latent or a neuron that is off, or a clip(), does this: try "
            "pre_activation=True, hook_pre, or another start.",
            RuntimeWarning,
            stacklevel=3,
        )

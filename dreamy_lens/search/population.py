"""Initial population of a search, and checks of its scores and gradients."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from dreamy_lens.errors import FeatureError, PromptError, warn
from dreamy_lens.scoring.scorer import Scores
from dreamy_lens.scoring.token_gradient import Gradient
from dreamy_lens.search.constraint_set import ConstraintSet
from dreamy_lens.search.protocol import ModelRequest
from dreamy_lens.search.score_cache import NewScores, ScoreCache

FRESH_STARTS = 16
"""Number of times that random initial prompts without finite scores are drawn again."""


def first_population(
    start: Int64[np.ndarray, "P n"] | None, size: int, constraints: ConstraintSet, rng: np.random.Generator
) -> Int64[np.ndarray, "M n"]:
    """Make the initial population.

    Args:
        start: Any number of prompts; None draws random prompts. If there are fewer than `size`, they are repeated in
            turn; if there are more, `size` of them are drawn without replacement.
        size: Number of members (M).
        constraints: Constraints on prompts.
        rng: Random generator of the search.

    Raises:
        ConstraintError: A prompt of the start breaks a constraint.
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
        population: Initial prompts.
        redraw: Whether prompts without finite scores are first drawn again. Members that still have none are replaced
            by a member with finite scores.
        constraints: Constraints on prompts.
        cache: Scores of the prompts evaluated so far.
        rng: Random generator of the search.
        label: Label of the feature, for messages.

    Returns:
        The population, int64 `[M, n]`, all with finite scores; and the prompts that were scored.

    Raises:
        FeatureError: No prompt that was tried has finite scores.
    """
    new = yield from cache.evaluate(population)
    for _ in range(FRESH_STARTS if redraw else 0):
        bad = ~cache.is_finite(population)
        if not bad.any():
            break
        population[bad] = constraints.random(int(bad.sum()), rng)
        new += yield from cache.evaluate(population)
    finite = cache.is_finite(population)
    if not finite.any():
        raise not_finite_error(label, len(cache.non_finite()))
    return population[np.where(finite, np.arange(len(population)), finite.argmax())], new


def not_finite_error(label: str, tried: int) -> FeatureError:
    """Return the error of a search whose initial prompts have no finite scores.

    Args:
        label: Label of the feature.
        tried: Number of prompts that were tried.
    """
    return FeatureError(
        f"{label} is NaN or infinite on every one of the {tried} initial prompts that were tried, so nothing can be "
        "selected. Check the feature with `dreamy-lens doctor`, or give a start on which it is finite."
    )


def stack_prompts(rows: Sequence[np.ndarray]) -> Int64[np.ndarray, "P n"]:
    """Stack prompts; raise PromptError if their lengths differ."""
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        found = ", ".join(map(str, lengths))
        raise PromptError(
            f"Starts must have one length, and these have {found} tokens; trim or lengthen some, or let the "
            f"frontier search have prompts of several lengths: length=({lengths[0]}, {lengths[-1]})."
        )
    return np.stack(rows)


def warn_if_flat(gradient: Gradient | Any, label: str) -> None:
    """Warn if the gradient of the value is zero on every initial prompt."""
    if all(not part.value.any() and not part.value_charge.any() for part in gradient.parts):
        warn(
            f"The gradient of {label} is exactly zero on every initial prompt, so at first it "
            "cannot guide the search. The cause may be a latent or neuron that is off, or a clip(): try "
            "pre_activation=True, hook_pre, or another start.",
            RuntimeWarning,
        )

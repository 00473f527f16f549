"""Random unit directions of the residual stream as features (Eq. 4), and z-scores against random prompts (Eq. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dreamy_lens.features.constructors import hook
from dreamy_lens.features.directions import Direction
from dreamy_lens.features.expressions import Feature
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.scoring.prompts import uniform_prompts
from dreamy_lens.studies.prompt_scores import PromptScores, prompt_scores


class RandomScores(NamedTuple):
    """Scores of random prompts, the scale of z-scores.

    Attributes:
        scores: Values `[B, F]` and cross-entropies `[B]`.
        mean: Mean of the finite values of each feature, float64 `[F]`.
        deviation: Their standard deviation (B - 1), float64 `[F]`.
    """

    scores: PromptScores
    mean: np.ndarray
    deviation: np.ndarray

    def z(self, feature: int, value: float) -> float:
        """Return how many deviations a value of a feature is above the mean (Eq. 5)."""
        deviation = float(self.deviation[feature])
        return (value - float(self.mean[feature])) / deviation if deviation > 0 else float("nan")


def random_directions(width: int, layer: int, count: int, seed: int) -> list[Feature]:
    """Return features that align the residual stream after a layer with random unit directions (Eq. 4).

    Args:
        width: Width of the residual stream.
        layer: Layer; the directions of each layer are others.
        count: Number of directions.
        seed: Seed of the directions.

    >>> first, second = random_directions(4, 1, 2, 0)
    >>> str(first).partition(" @ ")[0], first == second
    ('blocks.1.hook_resid_post[-1].standardised()', False)
    """
    drawn = np.random.default_rng([seed, layer]).standard_normal((count, width))
    units = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    stream = hook(f"blocks.{layer}.hook_resid_post")[-1].standardised()
    return [stream @ Direction(v.astype(np.float32), f"random {j}") for j, v in enumerate(units)]


def random_scores(features: Sequence[Feature], model: HookedModel, count: int, length: int, seed: int) -> RandomScores:
    """Score random prompts, those of :func:`dreamy_lens.baselines`, with many features at once.

    Args:
        features: Features.
        model: Model.
        count: Number of prompts.
        length: Number of tokens of each.
        seed: Seed of the prompts.
    """
    scores = prompt_scores(features, model, uniform_prompts(model.vocabulary.allowed, count, length, seed))
    values = np.where(np.isfinite(scores.values), scores.values.astype(np.float64), np.nan)
    return RandomScores(scores, np.nanmean(values, axis=0), np.nanstd(values, axis=0, ddof=1))

"""Choice of the prompts that an iteration changes, each for a weight of cross-entropy (λ) of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int64

from dreamy_lens.search.frontier.archive import EVERYTHING, Archive
from dreamy_lens.search.frontier.config import FrontierSearch
from dreamy_lens.search.frontier.effects import SwapEffects
from dreamy_lens.search.pareto import hull_rows

POOL = 64
"""Number of prompts, the best for a λ, among which a parent is drawn."""
WIDE_POOL, NICHE = 2048, 4
"""Number of prompts, the best for a λ, of which each token at the steepest position gives at most so many to the pool:
so that the search works on several ideas at a time."""
SPREAD = 0.4
"""Standard deviation of the logarithm of λ around the slope of the hull."""
FATIGUE, NOISE = 0.15, 0.1
"""What a prompt loses each time it is chosen, and the scale of the noise, in deviations of predicted scores."""


def choose_parents(
    archive: Archive,
    group: int,
    config: FrontierSearch,
    effects: tuple[SwapEffects, SwapEffects],
    scale: float,
    steepest: int,
    rng: np.random.Generator,
    ways: Sequence[Int64[np.ndarray, " R"]] = (),
) -> tuple[Int64[np.ndarray, " P"], Float32[np.ndarray, " P"]]:
    """Choose parents, and count them as used in the archive.

    The hypervolume is the integral, over cross-entropies, of the best value up to each. So a cross-entropy is drawn
    uniformly for each parent, and λ is the slope of the frontier's concave hull there. Maximising `value - λ
    cross_entropy` then pushes the frontier out at that place.

    Args:
        archive: All prompts.
        group: Island to choose from, or :data:`EVERYTHING`.
        config: Settings of the search.
        effects: What has been learned about swaps, for value and cross-entropy.
        scale: Value that counts as one.
        steepest: Position at which tokens matter most.
        rng: Random generator.
        ways: Rows of the archive from which the last parents are chosen, each from one of these.

    Returns:
        Rows in the archive, and λ of each, in units of `scale` per nat.
    """
    rows = archive.candidates(group)
    if not len(rows):
        group = EVERYTHING
        rows = archive.candidates(group)
    chosen, weights = _chosen(
        archive, rows, archive.hull(group), config.parents - len(ways), config, effects, scale, steepest, rng
    )
    for way in ways:
        hull = hull_rows(archive.value[way], archive.cross_entropy[way])
        corners = archive.cross_entropy[way[hull]].astype(float), archive.value[way[hull]].astype(float)
        one, weight = _chosen(archive, way, corners, 1, config, effects, scale, steepest, rng)
        chosen, weights = chosen + one, weights + weight
    return np.array(chosen), np.array(weights, dtype=np.float32)


def _chosen(
    archive: Archive,
    rows: np.ndarray,
    hull: tuple[np.ndarray, np.ndarray],
    count: int,
    config: FrontierSearch,
    effects: tuple[SwapEffects, SwapEffects],
    scale: float,
    steepest: int,
    rng: np.random.Generator,
) -> tuple[list[int], list[float]]:
    """Choose some parents among rows of the archive with this hull; see :func:`choose_parents`."""
    at, height = hull
    slopes = np.diff(height / scale) / np.maximum(np.diff(at), 1e-3) if len(at) > 1 else np.array([1.0])
    least, most = slopes.min() / 4, 2 * slopes.max()
    value, cost, niche = archive.value[rows] / scale, archive.cross_entropy[rows], archive.ids[rows, steepest]
    niche = niche.astype(np.min_scalar_type(niche.max()))  # numpy sorts short integers faster
    chosen, weights = [], []
    for _ in range(count):
        drawn = rng.uniform(at[0], max(config.max_cross_entropy, at[0] + 0.1))
        segment = int(np.searchsorted(at, drawn)) - 1
        slope = slopes[segment] if 0 <= segment < len(slopes) else 2 * least
        weight = float(np.clip(slope * np.exp(SPREAD * rng.normal()), least, most))
        score = value - np.float32(weight) * cost
        best = _pool(score, niche)
        deviation = float(np.hypot(effects[0].deviation, weight * effects[1].deviation))
        tired = FATIGUE * deviation * archive.uses[rows[best]]
        row = int(rows[best[(score[best] - tired + NOISE * deviation * rng.gumbel(size=len(best))).argmax()]])
        archive.uses[row] += 1
        chosen.append(row)
        weights.append(weight)
    return chosen, weights


def _pool(score: np.ndarray, niche: np.ndarray) -> np.ndarray:
    """Return the numbers of the prompts among which a parent is drawn, best first."""
    best = np.argpartition(-score, min(WIDE_POOL, len(score) - 1))[:WIDE_POOL]
    best = best[np.argsort(-score[best])]
    order = np.argsort(niche[best], kind="stable")
    places = niche[best[order]]
    first = np.ones(len(best), dtype=bool)  # the first prompts of each niche
    first[NICHE:] = places[NICHE:] != places[:-NICHE]
    return best[np.sort(order[first])[:POOL]]

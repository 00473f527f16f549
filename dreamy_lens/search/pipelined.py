"""The same search in the order for an accelerator, which is waited for once in an iteration.

A device works through what it is asked for while the processor goes on asking, unless the processor needs to see a
result. It needs two: the candidates, to draw children from, and the children's scores. Between the scores and the next
candidates lie selection, perhaps a restart, and a backward pass, none of which need the processor if the device does
the choosing. So an iteration begins with candidates that are known here, asks for scores, selection and the next
candidates, and only then waits for all of them together.

What is drawn, and when, is as in :mod:`~dreamy_lens.search.epo`. Members that are the same prompt do not share a
backward pass, since only the device knows them when it begins; so gradients may differ in their last digits.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamy_lens.models.transfer import to_device
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.search.config import EPOConfig
from dreamy_lens.search.constraint_set import ConstraintSet
from dreamy_lens.search.proposals import children, proposed, warn_if_flat
from dreamy_lens.search.protocol import Clock, HostTransfer, ModelRequest, ScoreCache, State, Step


def pipelined(
    scorer: Scorer,
    config: EPOConfig,
    rules: ConstraintSet,
    known: ScoreCache,
    rng: np.random.Generator,
    clock: Clock,
    first: int,
    population: np.ndarray,
) -> Generator[Step | ModelRequest | HostTransfer, Any, None]:
    """The iterations of a search from the `first` one on, as :func:`~dreamy_lens.search.epo.search` yields them.

    Args:
        scorer: gives values, cross-entropies and gradients.
        config: settings.
        rules: which prompts may exist.
        known: scores of the prompts evaluated so far.
        rng: as it was left by the iteration before.
        clock: of the run.
        first: the iteration to begin with.
        population: ids `[M, n]` after the iteration before, in the order of the slots.
    """
    if first > config.iterations:
        return
    device, size = scorer.model.device, config.population
    lambdas, allowed = to_device(config.lambdas, device), to_device(rules.allowed, device)
    slots = torch.arange(size, device=device)

    restart = config.draw_restart(first, rng)
    if restart is not None:
        value, cross_entropy = known.scores(population)
        population = np.repeat(population[[int(np.argmax(value - restart * cross_entropy))]], size, axis=0)
    ids = to_device(population, device)
    gradient = yield ModelRequest(True, ids)
    if first == 1:
        warn_if_flat(gradient, scorer.bound.feature.label)
    (proposals,) = yield HostTransfer((proposed(gradient, slots, lambdas, ids, allowed, config.top_k, rules),))

    for iteration in range(first, config.iterations + 1):
        pool, rejected = children(population, proposals, config.children, rules, rng)
        fresh = known.fresh(pool)
        drawn = dict(rng.bit_generator.state)  # before the next iteration's restart
        if config.keep_parents:
            pool = np.concatenate([population, pool])
        # Members stay where nothing in the pool is finite, so they come last.
        offered = np.concatenate([pool, population])
        scores, places = (to_device(x, device) for x in known.offered(offered, fresh))
        wanted: list[Tensor] = []
        if fresh:
            found = yield ModelRequest(False, np.stack(list(fresh.values())), stays=True)
            scores = torch.where(places < 0, scores, found[:, places.clamp_min(0)])
            wanted.append(found)
        chosen = survivors = _selected(*scores, lambdas, len(pool))
        begun, restart, coming = restart, None, []
        if iteration < config.iterations:
            restart = config.draw_restart(iteration + 1, rng)
            if restart is not None:
                survivors = _survivors(*scores[:, chosen], chosen, restart)
            ids = to_device(offered, device)[survivors]
            gradient = yield ModelRequest(True, ids)
            coming = [proposed(gradient, slots, lambdas, ids, allowed, config.top_k, rules)]
        wanted += [chosen, survivors, *coming]

        arrays = list((yield HostTransfer(tuple(wanted))))
        value, cross_entropy = arrays.pop(0) if fresh else np.empty((2, 0), dtype=np.float32)
        rows = np.stack(list(fresh.values())) if fresh else np.empty((0, pool.shape[1]), dtype=np.int64)
        new = known.noted(rows, value, cross_entropy)
        selected, population = offered[arrays[0]], offered[arrays[1]]
        state = State(iteration, selected, drawn, clock(), known.non_finite())
        yield Step(iteration, *new.arrays, selected, begun, rejected, new.non_finite, state.seconds, state)
        proposals = arrays[-1]


def _selected(value: Tensor, cross_entropy: Tensor, lambdas: Tensor, pool: int) -> Tensor:
    """The place of the best prompt of a pool for each λ, `[M]`, with numpy's arithmetic and its way with ties.

    Args:
        value: of the pool, and of the members behind it, `[pool + M]`.
        cross_entropy: likewise.
        lambdas: `[M]`.
        pool: how many prompts are in it.
    """
    own = torch.arange(pool, pool + len(lambdas), device=value.device)
    if not pool:
        return own
    value, cross_entropy = value[:pool], cross_entropy[:pool]
    finite = value.isfinite() & cross_entropy.isfinite()
    gain = value - lambdas[:, None] * cross_entropy
    gain = gain.clamp_min(torch.finfo(gain.dtype).min)  # so that whatever is finite is above what is not
    return torch.where(finite.any(), gain.masked_fill(~finite, -torch.inf).argmax(1), own)


def _survivors(value: Tensor, cross_entropy: Tensor, chosen: Tensor, restart: float) -> Tensor:
    """The place of the member that is best under λ_r, for every slot, `[M]`."""
    best = (value - float(np.float32(restart)) * cross_entropy).argmax(0, keepdim=True)
    return chosen[best].expand(len(chosen))

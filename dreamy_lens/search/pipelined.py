"""The same search in the order for an accelerator, which is waited for once in an iteration.

A device works through what it is asked for while the host goes on asking, unless the host needs to see a result. It
needs two: the candidates, to draw children from, and the children's scores. Between the scores and the next candidates
lie selection, perhaps a restart, and a backward pass, none of which need the host if the device does the choosing. So
an iteration begins with candidates that are known here, asks for scores, selection and the next candidates, and only
then waits for all of them together.

What is drawn, and when, is as in :mod:`~dreamy_lens.search.epo`. Members that are the same prompt do not share a
backward pass, since only the device knows them when it begins; so gradients may differ in their last digits.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from dreamy_lens.models.transfer import to_device
from dreamy_lens.scoring.candidates import AllowedTokens, rank_candidates
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.search.config import EPOConfig
from dreamy_lens.search.constraint_set import ConstraintSet
from dreamy_lens.search.operators import Operator, make_children
from dreamy_lens.search.population import warn_if_flat
from dreamy_lens.search.protocol import Clock, HostTransfer, ModelRequest, Search
from dreamy_lens.search.score_cache import ScoreCache
from dreamy_lens.search.selection import choose_survivor, choose_survivor_on_device, select_on_device
from dreamy_lens.search.steps import State


def run_pipelined(
    operator: Operator,
    scorer: Scorer,
    config: EPOConfig,
    constraints: ConstraintSet,
    cache: ScoreCache,
    rng: np.random.Generator,
    clock: Clock,
    first: int,
    population: Int64[np.ndarray, "M n"],
) -> Search:
    """Run the iterations of a search from the `first` one on, as :meth:`EPO.search` yields them.

    Args:
        operator: how children are made of members.
        scorer: gives values, cross-entropies and gradients.
        config: settings.
        constraints: which prompts may exist.
        cache: scores of the prompts evaluated so far.
        rng: as it was left by the iteration before.
        clock: of the run.
        first: the iteration to begin with.
        population: the prompts after the iteration before, in the order of the slots.
    """
    if first > config.iterations:
        return
    device, size = scorer.model.device, config.population
    allowed, lambdas = AllowedTokens(constraints.allowed, device), to_device(config.lambdas, device)
    slots = torch.arange(size, device=device)

    restart = config.draw_restart(first, rng)
    if restart is not None:
        survivor = choose_survivor(*cache.scores(population), restart)
        population = np.repeat(population[[survivor]], size, axis=0)  # [M, n]
    ids = to_device(population, device)
    gradient = yield ModelRequest(True, ids)
    if first == 1:
        warn_if_flat(gradient, scorer.bound.feature.label)
    ranked = rank_candidates(gradient, slots, lambdas, ids, allowed, config.top_k)
    (candidates,) = yield HostTransfer((ranked,))  # [M, n, k]

    for iteration in range(first, config.iterations + 1):
        pool, rejected = make_children(operator, population, candidates, config.children, constraints, rng)
        unseen = cache.unseen(pool)
        rng_state = dict(rng.bit_generator.state)  # before the next iteration's restart
        if config.keep_parents:
            pool = np.concatenate([population, pool])
        # Members stay where nothing in the pool is finite, so they come last.
        offered = np.concatenate([pool, population])  # [pool + M, n]
        scores, places = (to_device(x, device) for x in cache.partial_scores(offered, unseen))
        wanted: list[Tensor] = []
        if unseen:
            computed = yield ModelRequest(False, np.stack(list(unseen.values())), on_device=True)  # [2, unseen]
            scores = torch.where(places < 0, scores, computed[:, places.clamp_min(0)])  # [2, pool + M]
            wanted.append(computed)
        selected = members = select_on_device(*scores, lambdas, len(pool))  # [M]
        begun, restart = restart, None
        upcoming: list[Tensor] = []
        if iteration < config.iterations:
            restart = config.draw_restart(iteration + 1, rng)
            if restart is not None:
                survivor = choose_survivor_on_device(*scores[:, selected], restart)
                members = selected[survivor].expand(size)
            ids = to_device(offered, device)[members]
            gradient = yield ModelRequest(True, ids)
            upcoming = [rank_candidates(gradient, slots, lambdas, ids, allowed, config.top_k)]
        wanted += [selected, members, *upcoming]

        arrays = list((yield HostTransfer(tuple(wanted))))
        value, cross_entropy = arrays.pop(0) if unseen else np.empty((2, 0), dtype=np.float32)
        rows = np.stack(list(unseen.values())) if unseen else np.empty((0, pool.shape[1]), dtype=np.int64)
        new = cache.add_new(rows, value, cross_entropy)
        state = State(iteration, offered[arrays[0]], rng_state, clock(), cache.non_finite())
        yield new.step(state, begun, rejected)
        population, candidates = offered[arrays[1]], arrays[-1]

"""Pipelined EPO: the search in an order for accelerators, in which the host waits for the device once per iteration.

A device works through a queue while the host adds to it, until the host needs a result. The host needs two results in
an iteration: the candidates, to draw children from them, and the scores of the children. Between the scores and the
next candidates there are the selection, perhaps a restart, and a backward pass. None of them needs the host if the
device itself selects. So an iteration begins with candidates that the host knows. The host queues scores, selection and
the next candidates, and only then waits for all of them together.

Random draws happen in the order of :mod:`~dreamy_lens.search.epo`. Members with equal prompts do not share a backward
pass here, because only the device knows the members when the pass begins. So gradients may differ in their last digits.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from dreamy_lens.models.transfer import to_device
from dreamy_lens.scoring.candidates import AllowedTokens, rank_candidates
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.search.constraint_set import ConstraintSet
from dreamy_lens.search.epo_config import EPO
from dreamy_lens.search.operators import Operator, make_children
from dreamy_lens.search.population import warn_if_flat
from dreamy_lens.search.protocol import Clock, HostTransfer, ModelRequest, Search
from dreamy_lens.search.score_cache import ScoreCache
from dreamy_lens.search.selection import choose_survivor, choose_survivor_on_device, select_on_device
from dreamy_lens.search.steps import State


def run_pipelined(
    operator: Operator,
    scorer: Scorer,
    config: EPO,
    constraints: ConstraintSet,
    cache: ScoreCache,
    rng: np.random.Generator,
    clock: Clock,
    first: int,
    population: Int64[np.ndarray, "M n"],
) -> Search:
    """Run the iterations of a search, beginning with iteration `first`; part of :meth:`EPOOptimizer.search`.

    Args:
        operator: Operator that makes children of members.
        scorer: Scorer of the feature, of which the device and the feature's label are read.
        config: Settings of the run.
        constraints: Constraints on prompts.
        cache: Scores of the prompts evaluated so far.
        rng: Random generator, in its state after the previous iteration.
        clock: Clock of the run.
        first: Number of the first iteration.
        population: Prompts after the previous iteration, in the order of the slots.

    Yields:
        A step for each iteration; before each step, the requests that it needs.
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
    gradient = yield ModelRequest(True, ids, draw=first)
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
        # The members come last: they stay if no prompt of the pool has finite scores.
        offered = np.concatenate([pool, population])  # [pool + M, n]
        scores, places = (to_device(x, device) for x in cache.partial_scores(offered, unseen))
        results: list[Tensor] = []
        if unseen:
            computed = yield ModelRequest(False, np.stack(list(unseen.values())), on_device=True)  # [2, unseen]
            scores = torch.where(places < 0, scores, computed[:, places.clamp_min(0)])  # [2, pool + M]
            results.append(computed)
        selected = members = select_on_device(*scores, lambdas, len(pool))  # [M]
        this_restart, restart = restart, None
        upcoming: list[Tensor] = []
        if iteration < config.iterations:
            restart = config.draw_restart(iteration + 1, rng)
            if restart is not None:
                survivor = choose_survivor_on_device(*scores[:, selected], restart)
                members = selected[survivor].expand(size)
            ids = to_device(offered, device)[members]
            gradient = yield ModelRequest(True, ids, draw=iteration + 1)
            upcoming = [rank_candidates(gradient, slots, lambdas, ids, allowed, config.top_k)]
        results += [selected, members, *upcoming]

        arrays = list((yield HostTransfer(tuple(results))))
        value, cross_entropy = arrays.pop(0) if unseen else np.empty((2, 0), dtype=np.float32)
        rows = np.stack(list(unseen.values())) if unseen else np.empty((0, pool.shape[1]), dtype=np.int64)
        new = cache.add_new(rows, value, cross_entropy)
        state = State(iteration, offered[arrays[0]], rng_state, clock(), cache.non_finite())
        yield new.step(state, this_restart, rejected)
        population, candidates = offered[arrays[1]], arrays[-1]

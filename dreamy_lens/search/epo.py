"""Evolutionary Prompt Optimization (EPO), as in Section 2 of the paper.

The loop here follows the order of the paper, in which the host takes every decision. On an accelerator, the host would
wait for the device twice in each iteration; :mod:`~dreamy_lens.search.pipelined` does the same work and waits once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Int64

from dreamy_lens.models.transfer import to_device, to_host
from dreamy_lens.scoring.candidates import AllowedTokens, rank_candidates
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.search.constraint_set import ConstraintSet
from dreamy_lens.search.epo_config import EPO
from dreamy_lens.search.operators import Operator, make_children, replace_one
from dreamy_lens.search.pipelined import run_pipelined
from dreamy_lens.search.population import evaluate_first, first_population, warn_if_flat
from dreamy_lens.search.protocol import Clock, ModelRequest, Search
from dreamy_lens.search.score_cache import ScoreCache
from dreamy_lens.search.selection import choose_survivor, select
from dreamy_lens.search.steps import State

PIPELINED = ("cuda",)
"""Kinds of devices on which the pipelined order is used."""


@dataclass(frozen=True)
class EPOOptimizer:
    """Optimiser of the paper: M prompts, each of which maximises `value - λ cross_entropy` for its own λ.

    Attributes:
        operator: Operator that makes children of members; `replace_one` is the paper's.
        uses_gradient: Whether the search is guided by gradients, which are then checked before it starts.
    """

    operator: Operator = replace_one
    uses_gradient: ClassVar[bool] = True

    def search(
        self,
        scorer: Scorer,
        config: EPO,
        constraints: ConstraintSet,
        start: Int64[np.ndarray, "P n"] | None = None,
        cache: ScoreCache | None = None,
        state: State | None = None,
    ) -> Search:
        """Start or continue a search; see :meth:`Optimizer.search <dreamy_lens.search.optimizers.Optimizer.search>`."""
        clock = Clock(0.0 if state is None else state.seconds)
        rng = np.random.default_rng(config.seed)
        cache = ScoreCache() if cache is None else cache
        label, device, lambdas = scorer.bound.feature.label, scorer.model.device, config.lambdas  # lambdas: [M]

        if state is None:
            population = first_population(start, config.population, constraints, rng)  # [M, n]
            population, new = yield from evaluate_first(population, start is None, constraints, cache, rng, label)
            state = State(0, population, dict(rng.bit_generator.state), clock(), cache.non_finite())
            yield new.step(state, None, 0)
        else:
            rng.bit_generator.state = state.rng
            population = state.population

        if device.type in PIPELINED:
            begin = state.iteration + 1
            yield from run_pipelined(self.operator, scorer, config, constraints, cache, rng, clock, begin, population)
            return

        allowed = AllowedTokens(constraints.allowed, device)
        for iteration in range(state.iteration + 1, config.iterations + 1):
            # Restart: only the member best under λ_r survives, in every slot. The restart begins an iteration, so that
            # the last population of a run is complete, and a resumed run equals one that never stopped.
            restart = config.draw_restart(iteration, rng)
            if restart is not None:
                survivor = choose_survivor(*cache.scores(population), restart)
                population = np.repeat(population[[survivor]], config.population, axis=0)  # [M, n]

            # Propose the k best tokens at each position, by the gradient of each slot's own objective L_λ (Eq. 1).
            # Members with equal prompts share one backward pass.
            distinct, which = np.unique(population, axis=0, return_inverse=True)  # [distinct, n], [M]
            gradient = yield ModelRequest(True, distinct, draw=iteration)
            if iteration == 1:
                warn_if_flat(gradient, label)
            rows, weights, ids = (to_device(x, device) for x in (which.reshape(-1), lambdas, population))
            ranked = rank_candidates(gradient, rows, weights, ids, allowed, config.top_k)  # [M, n, k]
            (candidates,) = to_host(ranked)

            # Mutate: make r children of each member.
            pool, rejected = make_children(
                self.operator, population, candidates, config.children, constraints, rng
            )  # [<= M r, n]

            # Evaluate the children that have not been scored before.
            new = yield from cache.evaluate(pool)

            # Select, with replacement, the best of all children for each slot's λ.
            if config.keep_parents:
                pool = np.concatenate([population, pool])
            # The members come last: they stay if no prompt of the pool has finite scores.
            offered = np.concatenate([pool, population])  # [pool + M, n]
            population = offered[select(*cache.scores(offered), lambdas, len(pool))]  # [M, n]

            state = State(iteration, population, dict(rng.bit_generator.state), clock(), cache.non_finite())
            yield new.step(state, restart, rejected)

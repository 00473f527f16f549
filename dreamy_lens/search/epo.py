"""Evolutionary Prompt Optimization, as in Section 2 of the paper.

The order here is that of the paper, in which every decision is taken by the processor. An accelerator would be waited
for twice in each iteration; :mod:`~dreamy_lens.search.pipelined` does the same work in an order that waits once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from dreamy_lens.errors import FeatureError
from dreamy_lens.models.transfer import to_device, to_host
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.search.config import EPOConfig
from dreamy_lens.search.constraint_set import ConstraintSet
from dreamy_lens.search.pipelined import pipelined
from dreamy_lens.search.proposals import children, first_population, proposed, warn_if_flat
from dreamy_lens.search.protocol import Clock, HostTransfer, ModelRequest, ScoreCache, Search, State, Step

PIPELINED = ("cuda",)
"""Kinds of devices for which the order that waits once is taken."""

FRESH_STARTS = 16
"""How often random initial prompts whose value is not finite are drawn again."""


def epo(
    scorer: Scorer,
    config: EPOConfig,
    rules: ConstraintSet,
    start: np.ndarray | None = None,
    known: ScoreCache | None = None,
    state: State | None = None,
    between: Callable[[], object] | None = None,
) -> Iterator[Step]:
    """Run EPO, one step at a time; whoever consumes the steps decides what to draw, save, or when to stop.

    Args:
        scorer: gives values, cross-entropies and gradients.
        config: settings; `config.iterations` is where the run ends, counted from its very beginning.
        rules: which prompts may exist.
        start: initial prompts `[P, n]`, any number; None draws random ones.
        known: scores of prompts evaluated before `state`, when a run is continued.
        state: where to continue; None starts anew.
        between: called before every pass through the model, for whoever wants to use it meanwhile.

    Yields:
        A step for the initial population (iteration 0), and one for each iteration.
    """
    running = search(scorer, config, rules, start, known, state)
    answer = None
    while True:
        try:
            said = running.send(answer)
        except StopIteration:
            return
        answer = None
        if isinstance(said, Step):
            yield said
        else:
            if between is not None:
                between()
            answer = said.answered(scorer)


def search(
    scorer: Scorer,
    config: EPOConfig,
    rules: ConstraintSet,
    start: np.ndarray | None = None,
    known: ScoreCache | None = None,
    state: State | None = None,
) -> Search:
    """EPO as in Section 2; arguments as for :func:`epo`.

    Yields:
        Steps, and an :class:`ModelRequest` wherever prompts must be scored or differentiated, or a
        :class:`HostTransfer`, whose answer is to be sent. So several searches can go side by side and have
        their prompts scored together.
    """
    clock = Clock(0.0 if state is None else state.seconds)
    rng = np.random.default_rng(config.seed)
    known = ScoreCache() if known is None else known
    lambdas = config.lambdas

    if state is None:
        population = first_population(start, config.population, rules, rng)
        new = yield from known.evaluate(population)
        for _ in range(FRESH_STARTS if start is None else 0):
            bad = ~known.finite(population)
            if not bad.any():
                break
            population[bad] = rules.random(int(bad.sum()), rng)
            new += yield from known.evaluate(population)
        population = _only_finite(population, known, scorer)
        state = State(0, population, dict(rng.bit_generator.state), clock(), known.non_finite())
        yield Step(0, *new.arrays, population, None, 0, new.non_finite, state.seconds, state)
    else:
        rng.bit_generator.state = state.rng
        population = state.population

    if scorer.model.device.type in PIPELINED:
        yield from pipelined(scorer, config, rules, known, rng, clock, state.iteration + 1, population)
        return

    device = scorer.model.device
    allowed = to_device(rules.allowed, device)
    for iteration in range(state.iteration + 1, config.iterations + 1):
        # Restart: only the member best under λ_r survives, in every slot. Decided where the next iteration begins, so
        # that a run's last population is whole, and a run continued later is the run that never stopped.
        restart = config.draw_restart(iteration, rng)
        if restart is not None:
            value, cross_entropy = known.scores(population)
            survivor = int(np.argmax(value - restart * cross_entropy))
            population = np.repeat(population[survivor : survivor + 1], config.population, axis=0)

        # Propose: the k best tokens at each position, by the gradient of each slot's own objective L_λ (Eq. 1). Members
        # that are the same prompt share one backward pass.
        members, where = np.unique(population, axis=0, return_inverse=True)
        gradient = yield ModelRequest(True, members)
        if iteration == 1:
            warn_if_flat(gradient, scorer.bound.feature.label)
        rows, ids = to_device(where.reshape(-1), device), to_device(population, device)
        (proposals,) = to_host(proposed(gradient, rows, to_device(lambdas, device), ids, allowed, config.top_k, rules))

        # Mutate: r children of each member.
        pool, rejected = children(population, proposals, config.children, rules, rng)

        # Evaluate what has not been seen before.
        new = yield from known.evaluate(pool)

        # Select, with replacement: the best of all children for each slot's λ.
        if config.keep_parents:
            pool = np.concatenate([population, pool])
        population = _select(pool, known, lambdas, population)

        state = State(iteration, population, dict(rng.bit_generator.state), clock(), known.non_finite())
        yield Step(iteration, *new.arrays, population, restart, rejected, new.non_finite, state.seconds, state)


def _select(pool: np.ndarray, known: ScoreCache, lambdas: np.ndarray, population: np.ndarray) -> np.ndarray:
    """The best prompt of the pool for each λ; the old population if nothing in the pool has finite scores."""
    value, cross_entropy = known.scores(pool)
    finite = known.finite(pool)
    if not finite.any():
        return population
    pool, value, cross_entropy = pool[finite], value[finite], cross_entropy[finite]
    return pool[np.argmax(value[None] - lambdas[:, None] * cross_entropy[None], axis=1)]


def _only_finite(population: np.ndarray, known: ScoreCache, scorer: Scorer) -> np.ndarray:
    good = np.flatnonzero(known.finite(population))
    if not len(good):
        raise FeatureError(
            f"{scorer.bound.feature.label} is NaN or infinite on every one of the {len(known.non_finite())} initial "
            "prompts that were tried, so nothing can be selected. Check the feature with `dreamy-lens doctor`, or give "
            "a start where it is finite."
        )
    return population[np.where(np.isin(np.arange(len(population)), good), np.arange(len(population)), good[0])]


__all__ = ["HostTransfer", "ModelRequest", "ScoreCache", "Search", "State", "Step", "epo", "search"]

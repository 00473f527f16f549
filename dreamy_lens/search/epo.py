"""Evolutionary Prompt Optimization, as in Section 2 of the paper."""

from __future__ import annotations

import time
import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dreamy_lens.errors import FeatureError
from dreamy_lens.scoring.scorer import Scorer, Scores
from dreamy_lens.search.config import EPOConfig
from dreamy_lens.search.proposals import candidates, children, first_population
from dreamy_lens.search.rules import Rules

FRESH_STARTS = 16
"""How often random initial prompts whose value is not finite are drawn again."""


@dataclass(frozen=True)
class State:
    """All that the next iteration depends on, besides the scores already known: what resuming needs.

    Attributes:
        iteration: the last one that was completed.
        population: ids `[M, n]` in the order of the slots.
        rng: the state of the random generator, as JSON-ready numbers.
        seconds: that the run has taken.
        non_finite: ids `[K, n]` of evaluated prompts whose value or cross-entropy was NaN or infinite.
    """

    iteration: int
    population: np.ndarray
    rng: dict[str, Any]
    seconds: float
    non_finite: np.ndarray


@dataclass(frozen=True)
class Step:
    """What one iteration found.

    Attributes:
        iteration: 0 for the initial population, then 1 to T.
        ids: prompts scored for the first time, int64 `[K, n]`; all have finite scores.
        value: float32 `[K]`.
        cross_entropy: float32 `[K]`, nats per token.
        population: ids `[M, n]` after this step, in the order of the slots.
        restart: λ_r, if the iteration began with a restart.
        rejected: draws that the constraints turned down.
        non_finite: prompts whose value or cross-entropy was NaN or infinite; they are not among `ids`.
        seconds: from the start of the run to the end of this step.
        state: from which the run can continue.
    """

    iteration: int
    ids: np.ndarray
    value: np.ndarray
    cross_entropy: np.ndarray
    population: np.ndarray
    restart: float | None
    rejected: int
    non_finite: int
    seconds: float
    state: State = field(repr=False)


@dataclass(frozen=True)
class Ask:
    """What a search needs a model for.

    Attributes:
        gradient: whether it is token gradients, and not scores.
        ids: of these prompts `[B, n]`, each once.
    """

    gradient: bool
    ids: np.ndarray

    def answered(self, scorer: Scorer) -> Any:
        """By a scorer: a :class:`Gradient`, or :class:`Scores`."""
        return scorer.gradient(self.ids) if self.gradient else scorer.score(self.ids)


Search = Generator["Step | Ask", Any, None]
"""A search as a coroutine: it gives steps, and asks for what only a model can tell; see :func:`search`."""


def epo(
    scorer: Scorer,
    config: EPOConfig,
    rules: Rules,
    start: np.ndarray | None = None,
    known: Known | None = None,
    state: State | None = None,
) -> Iterator[Step]:
    """Run EPO, one step at a time; whoever consumes the steps decides what to draw, save, or when to stop.

    Args:
        scorer: gives values, cross-entropies and gradients.
        config: settings; `config.iterations` is where the run ends, counted from its very beginning.
        rules: which prompts may exist.
        start: initial prompts `[P, n]`, any number; None draws random ones.
        known: scores of prompts evaluated before `state`, when a run is continued.
        state: where to continue; None starts anew.

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
        if isinstance(said, Ask):
            answer = said.answered(scorer)
        else:
            yield said


def search(
    scorer: Scorer,
    config: EPOConfig,
    rules: Rules,
    start: np.ndarray | None = None,
    known: Known | None = None,
    state: State | None = None,
) -> Search:
    """EPO as in Section 2; arguments as for :func:`epo`.

    Yields:
        Steps, and an :class:`Ask` wherever prompts must be scored or differentiated, whose answer is to be sent. So
        several searches can go side by side and have their prompts scored together.
    """
    clock = _Clock(0.0 if state is None else state.seconds)
    rng = np.random.default_rng(config.seed)
    known = Known() if known is None else known
    lambdas = config.lambdas
    allowed = torch.from_numpy(rules.allowed).to(scorer.model.device)

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

    for iteration in range(state.iteration + 1, config.iterations + 1):
        # Restart: only the member best under λ_r survives, in every slot. Decided where the next iteration begins, so
        # that a run's last population is whole, and a run continued later is the run that never stopped.
        restart = None
        if config.restart_every and iteration > 1 and (iteration - 1) % config.restart_every == 0:
            restart = float(rng.uniform(config.restart_lambda_min, config.restart_lambda_max))
            value, cross_entropy = known.scores(population)
            survivor = int(np.argmax(value - restart * cross_entropy))
            population = np.repeat(population[survivor : survivor + 1], config.population, axis=0)

        # Propose: the k best tokens at each position, by the gradient of each slot's own objective L_λ (Eq. 1). Members
        # that are the same prompt share one backward pass.
        members, where = np.unique(population, axis=0, return_inverse=True)
        gradient = yield Ask(True, members)
        if iteration == 1:
            _warn_if_flat(gradient, scorer)
        rows = torch.from_numpy(where.reshape(-1)).to(scorer.model.device)
        objective = gradient.objective(rows, torch.from_numpy(lambdas).to(scorer.model.device))
        ids = torch.from_numpy(population).to(scorer.model.device)
        count = int(rules.allowed[: objective.shape[-1]].sum())
        proposals = candidates(objective, ids, allowed, config.top_k, count).cpu().numpy()

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


def _select(pool: np.ndarray, known: Known, lambdas: np.ndarray, population: np.ndarray) -> np.ndarray:
    """The best prompt of the pool for each λ; the old population if nothing in the pool has finite scores."""
    value, cross_entropy = known.scores(pool)
    finite = known.finite(pool)
    if not finite.any():
        return population
    pool, value, cross_entropy = pool[finite], value[finite], cross_entropy[finite]
    return pool[np.argmax(value[None] - lambdas[:, None] * cross_entropy[None], axis=1)]


@dataclass(frozen=True)
class _New:
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray]
    non_finite: int

    def __add__(self, other: _New) -> _New:
        ids, value, cross_entropy = (np.concatenate(pair) for pair in zip(self.arrays, other.arrays, strict=True))
        return _New((ids, value, cross_entropy), self.non_finite + other.non_finite)


class Known:
    """Scores of every prompt seen in a run, so that no prompt is evaluated twice."""

    def __init__(self) -> None:
        self._scores: dict[bytes, tuple[float, float]] = {}
        self._non_finite: list[np.ndarray] = []

    def add(self, ids: np.ndarray, value: np.ndarray, cross_entropy: np.ndarray) -> None:
        """Remember scores: ids `[K, n]`, value `[K]`, cross_entropy `[K]`; NaN where they were not finite."""
        for row, v, c in zip(
            np.ascontiguousarray(ids, dtype=np.int64), value.tolist(), cross_entropy.tolist(), strict=True
        ):
            self._scores[row.tobytes()] = (v, c)
            if not (np.isfinite(v) and np.isfinite(c)):
                self._non_finite.append(row[None])

    def evaluate(self, rows: np.ndarray) -> Generator[Ask, Scores, _New]:
        """Ask for scores of the prompts `[B, n]` that are new; they come once each, in the order in which they came."""
        fresh: dict[bytes, np.ndarray] = {}
        for row in np.ascontiguousarray(rows, dtype=np.int64):
            key = row.tobytes()
            if key not in self._scores:
                fresh.setdefault(key, row)
        n = rows.shape[1]
        ids = np.stack(list(fresh.values())) if fresh else np.empty((0, n), dtype=np.int64)
        if not len(ids):
            return _New((ids, np.empty(0, np.float32), np.empty(0, np.float32)), 0)
        found = yield Ask(False, ids)
        self.add(ids, found.value, found.cross_entropy)
        finite = np.isfinite(found.value) & np.isfinite(found.cross_entropy)
        return _New((ids[finite], found.value[finite], found.cross_entropy[finite]), int((~finite).sum()))

    def scores(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value and cross-entropy, float32 `[B]` each, of prompts `[B, n]` that were evaluated."""
        if not len(rows):
            return np.empty(0, np.float32), np.empty(0, np.float32)
        pairs = [self._scores[row.tobytes()] for row in np.ascontiguousarray(rows, dtype=np.int64)]
        value, cross_entropy = np.array(pairs, dtype=np.float32).T
        return value, cross_entropy

    def finite(self, rows: np.ndarray) -> np.ndarray:
        """Which prompts `[B, n]`, all evaluated, have finite scores: bool `[B]`."""
        value, cross_entropy = self.scores(rows)
        return np.isfinite(value) & np.isfinite(cross_entropy)

    def non_finite(self) -> np.ndarray:
        """Ids `[K, n]` of the prompts whose scores are not finite."""
        if len(self._non_finite) > 1:  # as one array, so that the next call copies no row by itself
            self._non_finite = [np.concatenate(self._non_finite)]
        return self._non_finite[0] if self._non_finite else np.empty((0, 0), dtype=np.int64)


def _only_finite(population: np.ndarray, known: Known, scorer: Scorer) -> np.ndarray:
    good = np.flatnonzero(known.finite(population))
    if not len(good):
        raise FeatureError(
            f"{scorer.bound.feature.label} is NaN or infinite on every one of the {len(known.non_finite())} initial "
            "prompts that were tried, so nothing can be selected. Check the feature with `dreamy-lens doctor`, or give "
            "a start where it is finite."
        )
    return population[np.where(np.isin(np.arange(len(population)), good), np.arange(len(population)), good[0])]


def _warn_if_flat(gradient: Any, scorer: Scorer) -> None:
    if all(not part.value.any() and not part.value_charge.any() for part in gradient.parts):
        warnings.warn(
            f"The gradient of {scorer.bound.feature.label} is exactly zero on every initial prompt, so at first it "
            "cannot guide the search. A latent or a neuron that is off, or a clip(), does this: try "
            "pre_activation=True, hook_pre, or another start.",
            RuntimeWarning,
            stacklevel=3,
        )


class _Clock:
    def __init__(self, offset: float) -> None:
        self._start = time.perf_counter() - offset

    def __call__(self) -> float:
        return time.perf_counter() - self._start

"""A new operator or optimiser is written in one file and registered in another; runs need no change."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.errors import RunFolderError, SettingsError
from dreamy_lens.search import (
    EPO,
    OPTIMIZERS,
    EPOOptimizer,
    Operator,
    ScoreCache,
    Search,
    State,
    config_from_dict,
    config_to_dict,
    epo,
    find_optimizer,
    replace_one,
)
from tests.helpers.dreams import FEATURE, SMALL, dream, same
from tests.helpers.toy import Toy, objective, search

# What a contributor writes in search/operators.py.


def replace_two(members, candidates, parents, positions, rng):
    """Replace the tokens at two positions."""
    children = replace_one(members, candidates, parents, positions, rng)
    return np.where(
        rng.random(children.shape) < 0.5, children, replace_one(members, candidates, parents, positions, rng)
    )


def cross_over(members, candidates, parents, positions, rng):
    """Replace one token, and take the tokens after a random position from another member."""
    children = replace_one(members, candidates, parents, positions, rng)
    others = members[rng.integers(len(members), size=len(parents))]
    behind = np.arange(children.shape[1]) >= rng.choice(positions, size=len(parents))[:, None]
    return np.where(behind, others, children)


@dataclass(frozen=True)
class CrossOverConfig(EPO):
    """Settings of EPO with an operator that crosses members."""


# What a contributor writes in a module of their own, search/hill_climbing.py.


@dataclass(frozen=True)
class HillClimbingConfig(EPO):
    """Settings of hill climbing.

    Attributes:
        neighbours: prompts tried for each member in one iteration, each with one random token.
    """

    neighbours: int = 3


class HillClimbing:
    """Optimiser without gradients: it changes one token at random, and keeps the prompt if that is not better."""

    def search(
        self,
        scorer: Any,
        config: HillClimbingConfig,
        constraints: Any,
        start: np.ndarray | None = None,
        cache: ScoreCache | None = None,
        state: State | None = None,
    ) -> Search:
        rng, cache = np.random.default_rng(config.seed), cache or ScoreCache()
        if state is None:
            population = constraints.random(config.population, rng)
            new = yield from cache.evaluate(population)
            state = State(0, population, dict(rng.bit_generator.state), 0.0, cache.non_finite())
            yield new.step(state, None, 0)
        rng.bit_generator.state = state.rng
        population, every = state.population, np.flatnonzero(constraints.allowed)
        for iteration in range(state.iteration + 1, config.iterations + 1):
            shape = (*population.shape, len(every))
            parents = np.repeat(np.arange(len(population)), config.neighbours)
            tokens = np.broadcast_to(every, shape)
            pool = replace_one(population, tokens, parents, constraints.free_positions, rng)
            new = yield from cache.evaluate(pool)
            everyone = np.concatenate([population, pool])
            owners = np.concatenate([np.arange(len(population)), parents])
            value, cross_entropy = cache.scores(everyone)
            gain = np.where(
                owners == np.arange(len(population))[:, None], value - config.lambda_min * cross_entropy, -np.inf
            )
            population = everyone[gain.argmax(axis=1)]
            state = State(iteration, population, dict(rng.bit_generator.state), float(iteration), cache.non_finite())
            yield new.step(state, None, 0)


# What a contributor writes in search/optimizers.py.


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, CrossOverConfig, EPOOptimizer(cross_over))
    monkeypatch.setitem(OPTIMIZERS, HillClimbingConfig, HillClimbing())


# An operator.


@pytest.mark.parametrize("operator", [replace_two, cross_over])
def test_children_are_the_operator_s(operator: Operator):
    toy = Toy()
    log = search(toy, optimizer=EPOOptimizer(operator), iterations=12)
    changed = np.concatenate(
        [
            (pool != np.repeat(members, 8, axis=0)).sum(axis=1)
            for members, pool in zip(log.members, log.pools, strict=True)
        ]
    )
    assert changed.max() > 1  # the paper's operator changes one token only
    best = [objective(toy, step.population, 0.1).max() for step in log.steps]
    assert best[-1] > best[0]


def test_the_paper_s_operator_is_the_usual_one():
    log, same_log = search(), search(optimizer=EPOOptimizer(replace_one))
    np.testing.assert_array_equal(log.ids, same_log.ids)


def test_a_dream_s_settings_choose_the_operator(gpt2):
    plain = dream(gpt2.bridge)
    crossed = dream(gpt2.bridge, search=CrossOverConfig())
    np.testing.assert_array_equal(crossed.history.ids[:3], plain.history.ids[:3])  # equal initial populations
    assert not np.array_equal(crossed.history.ids[-3:], plain.history.ids[-3:])


def test_both_orders_of_work_use_the_operator(gpt2, monkeypatch):
    plain = dream(gpt2.bridge, search=CrossOverConfig())
    monkeypatch.setattr(epo, "PIPELINED", ("cpu",))
    same(dream(gpt2.bridge, search=CrossOverConfig()).history, plain.history)


# An optimiser.


def test_a_dream_s_settings_choose_the_optimiser(gpt2):
    run = dream(gpt2.bridge, search=HillClimbingConfig(neighbours=5))
    assert run.finished and run.iteration == 8 and run.config.neighbours == 5
    best = [run.history.value[rows].max() for rows in run.history.population]
    assert best == sorted(best)
    assert len(run.history) <= run.config.population * (1 + 5 * 8)


@pytest.mark.parametrize(
    "config", [CrossOverConfig(), HillClimbingConfig(neighbours=4)], ids=lambda c: type(c).__name__
)
def test_it_is_saved_and_goes_on_as_if_it_had_never_stopped(gpt2, tmp_path, config):
    whole = dream(gpt2.bridge, search=config)
    dream(gpt2.bridge, search=config, iterations=3).save(tmp_path / "run")
    again = dl.load_run(tmp_path / "run", gpt2.bridge).resume(5, progress=False)
    assert again.config == whole.config
    same(again.history, whole.history)


def test_several_of_them_run_side_by_side(gpt2):
    config = HillClimbingConfig(iterations=4)
    runs = dl.dream(FEATURE, gpt2.bridge, seeds=[0, 1], search=config, **SMALL)
    for run in runs:
        alone = dream(gpt2.bridge, seed=run.config.seed, search=config, iterations=4)
        np.testing.assert_array_equal(run.history.ids, alone.history.ids)


def test_settings_of_a_saved_run_name_their_class_unless_they_are_the_paper_s():
    assert "class" not in config_to_dict(EPO())
    values = json.loads(json.dumps(config_to_dict(HillClimbingConfig(neighbours=7))))
    assert values["class"] == "HillClimbingConfig" and config_from_dict(values) == HillClimbingConfig(neighbours=7)


def test_settings_without_an_optimiser_are_an_error(gpt2, tmp_path, monkeypatch):
    @dataclass(frozen=True)
    class Unknown(EPO):
        pass

    with pytest.raises(SettingsError, match="No optimiser is registered for settings of the class Unknown; there are"):
        dream(gpt2.bridge, search=Unknown())
    assert find_optimizer(EPO()) == EPOOptimizer(replace_one)
    dream(gpt2.bridge, search=HillClimbingConfig(), iterations=1).save(tmp_path / "run")
    monkeypatch.delitem(OPTIMIZERS, HillClimbingConfig)
    with pytest.raises(RunFolderError, match="No optimiser is registered for settings of the class HillClimbingConfig"):
        dl.load_run(tmp_path / "run")


def test_a_wrong_setting_of_an_optimiser_s_own_is_named(gpt2):
    with pytest.raises(SettingsError, match="There is no setting 'neigbours'; did you mean neighbours"):
        dream(gpt2.bridge, search=HillClimbingConfig(), neigbours=3)

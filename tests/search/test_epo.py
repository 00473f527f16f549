"""The search does what Section 2 of the paper says, step by step, on a made-up objective whose gradient is exact."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens import constraints as rules_of
from dreamy_lens.errors import ConstraintError
from dreamy_lens.scoring import top_candidates
from dreamy_lens.search import (
    EPO,
    GCG,
    ConstraintSet,
    EPOOptimizer,
    drive,
    first_population,
    hypervolume,
    non_dominated,
)
from tests.helpers.scorers import make_scorer
from tests.helpers.toy import LENGTH, VOCABULARY, Toy, objective, search

# The loop.


def test_step_zero_is_the_initial_population_and_the_others_follow():
    log = search()
    assert [step.iteration for step in log.steps] == list(range(8))
    np.testing.assert_array_equal(log.steps[0].population, log.steps[0].ids)
    assert all(step.population.shape == (4, LENGTH) for step in log.steps)
    assert [step.seconds for step in log.steps] == sorted(step.seconds for step in log.steps)
    assert all(len(pool) == 4 * 8 for pool in log.pools)


def test_each_child_changes_one_position_of_its_parent_to_one_of_the_proposals():
    log = search()
    for members, proposals, pool in zip(log.members, log.proposals, log.pools, strict=True):
        for child, parent in zip(pool, np.repeat(np.arange(4), 8), strict=True):
            (at,) = np.flatnonzero(child != members[parent])
            assert child[at] in proposals[parent, at]


def test_positions_and_candidates_are_drawn_uniformly():
    log = search(children=4000, iterations=1, population=1, top_k=10)
    changed = log.pools[0] != log.members[0]
    share = changed.mean(0)
    np.testing.assert_allclose(share, 1 / LENGTH, atol=0.03)
    for at in range(LENGTH):
        _, counts = np.unique(log.pools[0][changed[:, at], at], return_counts=True)
        assert len(counts) == 10 and counts.min() > 0.5 * counts.mean()


def test_proposals_rank_by_the_gradient_of_each_slot_s_own_objective():
    toy = Toy()
    log = search(toy, restart_every=2)
    lambdas = EPO(population=4).lambdas
    rules = ConstraintSet([], VOCABULARY, LENGTH)
    for members, proposals in zip(log.members, log.proposals, strict=True):
        for slot, weight in enumerate(lambdas):
            gain = (toy.worth - float(weight) * toy.cost).numpy().copy()
            gain[:, ~rules.allowed] = -np.inf
            gain[np.arange(LENGTH), members[slot]] = -np.inf
            best = np.sort(gain, axis=1)[:, ::-1][:, :12]
            np.testing.assert_allclose(np.take_along_axis(gain, proposals[slot], axis=1), best, rtol=1e-5)


@pytest.mark.parametrize("bos", [True, False])
def test_on_a_real_model_they_equal_those_of_the_member_alone(gpt2, bos):
    scorer = make_scorer("L1.N3", gpt2.bridge, prepend_bos=bos)
    rules = ConstraintSet([], scorer.vocabulary, LENGTH, scorer.allowed)
    log = search(scorer, rules, restart_every=3, iterations=5)
    allowed = torch.from_numpy(rules.allowed)
    shared = 0
    for members, proposals in zip(log.members, log.proposals, strict=True):
        shared += len(members) - len(np.unique(members, axis=0))
        for slot, weight in enumerate(EPO(population=4).lambdas):
            alone = scorer.gradient(members[slot : slot + 1]).objective(
                torch.tensor([0]), torch.tensor([float(weight)])
            )
            ranked = top_candidates(alone.clone(), torch.from_numpy(members[slot : slot + 1]), allowed, 12)
            mine, own = (alone[0].gather(-1, torch.as_tensor(x)) for x in (proposals[slot], ranked[0]))
            torch.testing.assert_close(mine, own, atol=1e-4, rtol=1e-4)
    assert shared, "no two slots had the same member, so sharing a backward pass was not tested"


def test_members_that_are_the_same_prompt_share_one_backward_pass():
    toy = Toy()
    log = search(toy, restart_every=2)
    for members, differentiated in zip(log.members, toy.differentiated, strict=True):
        assert len(np.unique(differentiated, axis=0)) == len(differentiated)
        assert {row.tobytes() for row in members} == {row.tobytes() for row in differentiated}
    assert len(toy.differentiated[2]) == 1  # right after a restart there is one member


def test_the_best_child_is_selected_for_each_slot_with_replacement():
    toy = Toy()
    log = search(toy, iterations=12)
    lambdas = EPO(population=4).lambdas
    repeated = 0
    for step, pool in zip(log.steps[1:], log.pools, strict=True):
        for slot, weight in enumerate(lambdas):
            found, best = objective(toy, step.population[slot : slot + 1], weight), objective(toy, pool, weight).max()
            assert found == pytest.approx(best, abs=1e-5)
            assert (pool == step.population[slot]).all(1).any()
        repeated += len(np.unique(step.population, axis=0)) < 4
    assert repeated


def best_prompt(toy: Toy) -> np.ndarray:
    worth = toy.worth.numpy().copy()
    worth[:, ~VOCABULARY.allowed] = -np.inf
    return worth.argmax(1)[None]


@pytest.mark.parametrize("keep", [False, True])
def test_parents_compete_with_their_children_only_if_asked(keep):
    toy = Toy()
    best = best_prompt(toy)
    log = search(toy, start=best, iterations=1, lambda_min=0, lambda_max=0, keep_parents=keep)
    stayed = (log.steps[1].population == best).all(1)
    assert stayed.all() if keep else not stayed.any()


def test_with_parents_kept_no_slot_ever_gets_worse():
    toy = Toy()
    log = search(toy, keep_parents=True, iterations=15)
    for slot, weight in enumerate(EPO(population=4).lambdas):
        course = [objective(toy, step.population, weight)[slot] for step in log.steps]
        assert all(b >= a - 1e-5 for a, b in itertools.pairwise(course))


# Restarts.


def test_restarts_come_every_so_many_iterations_and_never_first():
    log = search(iterations=10, restart_every=3)
    assert [step.iteration for step in log.steps if step.restart is not None] == [4, 7, 10]
    assert all(len(np.unique(log.members[i - 1], axis=0)) == 1 for i in (4, 7, 10))
    assert all(step.restart is None for step in search(restart_every=0).steps)


def test_every_initial_prompt_has_children():
    log = search(iterations=1, restart_every=1)
    np.testing.assert_array_equal(log.members[0], log.steps[0].population)
    assert len(np.unique(log.members[0], axis=0)) == 4


def test_the_drawn_weight_is_the_one_that_chooses_the_survivor():
    toy = Toy()
    drawn, chose_strongest, chose_fluent = [], 0, 0
    for seed in range(8):
        log = search(toy, iterations=9, restart_every=2, seed=seed, restart_lambda_min=0.1, restart_lambda_max=9)
        for before, step in itertools.pairwise(log.steps):
            if step.restart is None:
                continue
            scores = objective(toy, before.population, step.restart)
            survivor = before.population[scores.argmax()]
            assert (log.members[step.iteration - 1] == survivor).all()
            drawn.append(step.restart)
            chose_strongest += (
                survivor.tolist() == before.population[toy.of(toy.worth, before.population).argmax()].tolist()
            )
            chose_fluent += (
                survivor.tolist() == before.population[toy.of(toy.cost, before.population).argmin()].tolist()
            )
    assert len(set(drawn)) == len(drawn) and 0.1 <= min(drawn) < 2 and 7 < max(drawn) <= 9
    assert chose_strongest < len(drawn) and chose_fluent < len(drawn)  # the weight decided


@pytest.mark.parametrize(("weight", "table", "sign"), [(0.0, "worth", 1), (1e4, "cost", -1)])
def test_extreme_weights_keep_the_strongest_or_the_most_fluent_member(weight, table, sign):
    toy = Toy()
    log = search(toy, iterations=3, restart_every=2, restart_lambda_min=weight, restart_lambda_max=weight)
    before = log.steps[2].population
    best = (sign * toy.of(getattr(toy, table), before)).argmax()
    assert (log.members[2] == before[best]).all()


# Initial populations.


def test_fewer_starts_than_members_are_repeated_in_turn_and_more_are_subsampled():
    rules = ConstraintSet([], VOCABULARY, LENGTH)
    rows = rules.random(9, np.random.default_rng(4))
    assert (search(start=rows[:1], iterations=0).steps[0].population == rows[0]).all()
    two = search(start=rows[:2], iterations=0, population=5)
    np.testing.assert_array_equal(two.steps[0].population, rows[[0, 1, 0, 1, 0]])
    assert len(two.ids) == 2
    exact = search(start=rows[:4], iterations=0)
    np.testing.assert_array_equal(exact.steps[0].population, rows[:4])
    chosen = {seed: search(start=rows, iterations=0, seed=seed).steps[0].population for seed in range(4)}
    for population in chosen.values():
        assert len(np.unique(population, axis=0)) == 4
        assert all((rows == member).all(1).any() for member in population)
    assert len({population.tobytes() for population in chosen.values()}) > 1


def test_a_start_obeys_the_rules():
    rules = ConstraintSet([rules_of.forbid_tokens(20)], VOCABULARY, LENGTH)
    with pytest.raises(ConstraintError, match="which may not be used here"):
        first_population(np.full((1, LENGTH), 20), 4, rules, np.random.default_rng(0))


def test_no_iterations_score_the_start_only():
    log = search(iterations=0)
    assert len(log.steps) == 1 and not log.pools


# GCG, and seeds.


def test_gcg_is_one_member_without_fluency_or_restarts():
    config = GCG(iterations=6, top_k=9, length=LENGTH)
    assert config.lambdas.tolist() == [0.0] and config.population * config.children == 8 * 32
    settings: dict[str, Any] = {
        "population": 1,
        "children": 256,
        "lambda_min": 0,
        "lambda_max": 0,
        "top_k": 9,
        "iterations": 6,
    }
    toy, other = Toy(), Toy(cost=torch.rand(LENGTH, VOCABULARY.size, generator=torch.Generator().manual_seed(9)) * 7)
    log = search(toy, **settings)
    for step, pool, members, proposals in zip(log.steps[1:], log.pools, log.members, log.proposals, strict=True):
        assert toy.of(toy.worth, step.population) == toy.of(toy.worth, pool).max()
        gain = toy.worth.numpy().copy()
        gain[:, ~VOCABULARY.allowed] = -np.inf
        gain[np.arange(LENGTH), members[0]] = -np.inf
        np.testing.assert_array_equal(proposals[0], np.argsort(-gain, axis=1)[:, :9])
    np.testing.assert_array_equal(search(other, **settings).ids, log.ids)  # whatever the cross-entropy
    toy: Any = Toy()
    steps = list(drive(EPOOptimizer().search(toy, config, ConstraintSet([], VOCABULARY, LENGTH)), toy))
    np.testing.assert_array_equal(np.concatenate([step.ids for step in steps]), log.ids)


def test_one_seed_gives_one_history_and_another_seed_another():
    first, again, other = (search(restart_every=2, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.ids, again.ids)
    assert [s.restart for s in first.steps] == [s.restart for s in again.steps]
    assert not np.array_equal(first.ids, other.ids)


def test_the_optimum_is_found_where_the_gradient_is_exact():
    toy = Toy()
    log = search(toy, iterations=60, children=16, top_k=4, keep_parents=True, lambda_min=0, lambda_max=0)
    np.testing.assert_array_equal(log.steps[-1].population[0], best_prompt(toy)[0])


@pytest.mark.parametrize("seed", range(3))
def test_a_search_beats_as_many_random_prompts(gpt2, seed):
    settings = {"population": 4, "children": 16, "top_k": 48, "length": 8, "restart_every": 15}
    run = dl.dream("L1.N3", gpt2.bridge, iterations=30, seed=seed, progress=False, **settings)
    random = np.random.default_rng(seed).integers(1, len(gpt2.tokenizer), size=(len(run.history), 8))
    scores = dl.score("L1.N3", random, gpt2.bridge)
    assert run.history.value.max() > scores.value.max() + 0.5 * scores.value.std()
    reference = float(scores.value.min()), float(scores.cross_entropy.max())
    rows = non_dominated(scores.value, scores.cross_entropy)
    at_random = hypervolume(scores.value[rows], scores.cross_entropy[rows], reference)
    assert run.frontier.hypervolume(reference) > 1.2 * at_random

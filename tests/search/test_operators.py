"""Proposals and evaluation: every prompt obeys the constraints, and no prompt is scored twice."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from dreamy_lens import constraints as rules_of
from dreamy_lens.errors import FeatureError
from dreamy_lens.search import ConstraintSet, ScoreCache, make_children, replace_one
from tests.helpers import models
from tests.helpers.toy import LENGTH, VOCABULARY, Log, Toy, search

# Proposals.


def allowed_everywhere(log: Log, rules: ConstraintSet) -> bool:
    return bool(rules.allowed[log.ids[:, rules.free_positions]].all())


def test_special_and_padded_tokens_are_never_proposed_however_good():
    toy = Toy()
    toy.worth[:, 0] = 100.0
    toy.worth[:, len(models.tokenizer()) :] = 100.0
    log = search(toy, iterations=15, top_k=400)
    assert allowed_everywhere(log, ConstraintSet([], VOCABULARY, LENGTH))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nor_where_the_gradient_is_not_finite(bad):
    toy = Toy()
    finite = toy.worth.clone()
    rules = ConstraintSet([rules_of.forbid_tokens(*range(30))], VOCABULARY, LENGTH)

    class Broken(Toy):
        def gradient(self, ids: np.ndarray) -> Any:
            found = super().gradient(ids)
            found.objective = lambda rows, lambdas: torch.full((len(rows), LENGTH, VOCABULARY.size), bad)
            return found

    log = search(Broken(worth=finite), rules, iterations=5)
    assert allowed_everywhere(log, rules) and len(log.ids) > 20


def test_two_allowed_tokens_are_enough_to_search():
    rules = ConstraintSet(
        [rules_of.forbid_tokens(*(i for i in range(VOCABULARY.size) if i not in (40, 41)))], VOCABULARY, LENGTH
    )
    log = search(rules=rules, iterations=20)
    assert set(np.unique(log.ids)) == {40, 41} and len(log.ids) <= 2**LENGTH


def test_fixed_positions_stay():
    rules = ConstraintSet([rules_of.fix({1: " dog", -1: 50})], VOCABULARY, LENGTH)
    log = search(rules=rules, iterations=10)
    assert (log.ids[:, 1] == VOCABULARY.token_id(" dog")).all() and (log.ids[:, -1] == 50).all()
    assert len(np.unique(log.ids[:, 0])) > 3


def test_rules_of_whole_prompts_hold_for_every_prompt_that_is_evaluated():
    # Few letters, all with high values, so that the forbidden word is always close.
    letters = [VOCABULARY.token_id(c) for c in "dogDOG ae"]
    only = rules_of.forbid_tokens(*(i for i in range(VOCABULARY.size) if i not in letters))
    rules = ConstraintSet([rules_of.forbid_text("dog"), only], VOCABULARY, LENGTH)
    toy = Toy()
    log = search(toy, rules, iterations=25, children=16)
    texts = [VOCABULARY.text(row) for row in toy.all_scored]
    assert not any("dog" in text.lower() for text in texts)
    assert sum(step.rejected for step in log.steps) > 0
    free = search(Toy(), ConstraintSet([only], VOCABULARY, LENGTH), iterations=25, children=16)
    assert any("dog" in VOCABULARY.text(row).lower() for row in free.ids)
    assert sum(step.rejected for step in free.steps) == 0


def test_every_prompt_that_is_evaluated_round_trips_if_asked():
    toy = Toy()
    log = search(toy, ConstraintSet([rules_of.round_trip()], VOCABULARY, LENGTH), iterations=10)
    assert all(VOCABULARY.encode(VOCABULARY.text(row)) == row.tolist() for row in toy.all_scored)
    assert sum(step.rejected for step in log.steps) > 0


def test_a_child_that_cannot_obey_is_left_out_and_the_population_stays():
    rules = ConstraintSet([], VOCABULARY, LENGTH)
    start = rules.random(4, np.random.default_rng(0))
    rules.check = lambda rows: np.zeros(len(rows), dtype=bool)  # type: ignore[method-assign]
    log = search(rules=rules, start=start, iterations=2)
    assert [len(step.ids) for step in log.steps] == [4, 0, 0]
    assert all(step.rejected == 4 * 8 * 17 for step in log.steps[1:])
    np.testing.assert_array_equal(log.steps[2].population, start)


def test_children_that_break_a_rule_are_drawn_again():
    rules = ConstraintSet([], VOCABULARY, LENGTH)
    rules.check = lambda rows: rows[:, 0] % 2 == 0  # type: ignore[method-assign]
    members = np.full((2, LENGTH), 20)
    proposals = np.tile(np.arange(30, 40), (2, LENGTH, 1))
    pool, rejected = make_children(replace_one, members, proposals, 50, rules, np.random.default_rng(0))
    assert len(pool) == 100 and (pool[:, 0] % 2 == 0).all() and ((pool != 20).sum(1) == 1).all()
    assert 0 < rejected < 40


# Evaluation.


def test_no_prompt_is_scored_twice():
    toy = Toy()
    few = ConstraintSet([rules_of.forbid_tokens(*range(12, VOCABULARY.size))], VOCABULARY, LENGTH)
    log = search(toy, few, iterations=30, restart_every=4)
    assert len(np.unique(toy.all_scored, axis=0)) == len(toy.all_scored) == len(log.ids)
    assert len(toy.all_scored) < 30 * 32  # some children occur twice
    np.testing.assert_array_equal(log.ids, toy.all_scored)


def test_scores_are_those_of_the_prompts():
    toy = Toy()
    for step in search(toy).steps:
        np.testing.assert_array_equal(step.value, toy.of(toy.worth, step.ids))
        np.testing.assert_array_equal(step.cross_entropy, toy.of(toy.cost, step.ids))
        assert step.value.dtype == step.cross_entropy.dtype == np.float32


def test_non_finite_prompts_are_counted_and_never_selected():
    toy = Toy(nan=range(20, 60), infinite=range(60, 90))
    toy.worth[:, 20:90] = 50.0  # the gradient favours these tokens
    log = search(toy, iterations=12, population=6, top_k=200)
    bad = np.isin(toy.all_scored, range(20, 90)).any(1)
    assert sum(step.non_finite for step in log.steps) == bad.sum() > 50
    assert sum(len(step.ids) for step in log.steps) == (~bad).sum()
    for step in log.steps:
        assert np.isfinite(step.value).all() and np.isfinite(step.cross_entropy).all()
        assert not np.isin(step.population, range(20, 90)).any()
    assert len(log.steps[-1].state.non_finite) == bad.sum()


def test_where_no_child_is_finite_the_population_stays():
    toy = Toy()
    start = ConstraintSet([], VOCABULARY, LENGTH).random(4, np.random.default_rng(1))
    toy.score(start)
    others = [i for i in range(VOCABULARY.size) if i not in start]
    toy.nan = others
    log = search(toy, start=start, iterations=2, top_k=3, lambda_min=0, lambda_max=0)
    if not len(log.steps[1].ids):
        np.testing.assert_array_equal(log.steps[1].population, start)
    assert not np.isin(log.steps[-1].population, others).any()


def test_a_feature_that_is_finite_nowhere_cannot_be_searched():
    with pytest.raises(
        FeatureError, match="toy is NaN or infinite on every one of the 68 initial prompts that were tried"
    ):
        search(Toy(nan=range(VOCABULARY.size)))


def test_a_flat_start_is_warned_of():
    flat = torch.zeros(LENGTH, VOCABULARY.size)
    with pytest.warns(RuntimeWarning, match="The gradient of toy is exactly zero on every initial prompt"):
        search(Toy(worth=flat))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search()


def evaluated(known: ScoreCache, toy: Toy, rows: np.ndarray) -> Any:
    """Return the new scores among the rows, after the toy has answered the request."""
    asking = known.evaluate(rows)
    try:
        ask = next(asking)
        asking.send(ask.answer(toy))  # type: ignore[arg-type]
    except StopIteration as done:
        return done.value
    raise AssertionError("it asked twice")


def test_known_scores_come_back_in_the_order_asked():
    toy = Toy()
    known = ScoreCache()
    rows = ConstraintSet([], VOCABULARY, LENGTH).random(6, np.random.default_rng(2))
    evaluated(known, toy, rows[[0, 1, 1, 2]])
    new = evaluated(known, toy, rows[[2, 3, 0, 3]])
    np.testing.assert_array_equal(new.ids, rows[[3]])
    value, cross_entropy = known.scores(rows[[3, 0, 3]])
    np.testing.assert_array_equal(value, toy.of(toy.worth, rows[[3, 0, 3]]))
    np.testing.assert_array_equal(cross_entropy, toy.of(toy.cost, rows[[3, 0, 3]]))

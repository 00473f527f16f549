"""Budgets: a run ends at the first that is used up, after the iteration in progress, and can be continued beyond it."""

from __future__ import annotations

import dataclasses
import json
import pickle
import time

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.errors import SettingsError
from dreamy_lens.models import as_hooked
from dreamy_lens.results import History, merge
from dreamy_lens.search import UNLIMITED, Budget, budgets
from tests.helpers.dreams import SMALL, dream, same


def test_without_another_budget_a_run_has_300_iterations_and_with_one_as_many_as_it_takes():
    assert dl.EPO().iterations == dl.RandomSearch().iterations == 300
    assert dl.EPO(seconds=5).iterations == dl.GCG(prompts=5).iterations == dl.EPO(until=0.1).iterations == UNLIMITED
    assert dl.EPO(seconds=5, iterations=7).iterations == 7
    for named, given in ((300, dl.EPO(iterations=300)), (UNLIMITED, dl.EPO())):
        assert dl.EPO.from_settings(given, {"seconds": 3}).iterations == named
    assert dataclasses.replace(dl.EPO(), seed=4).iterations == 300
    assert repr(dl.EPO(seconds=5)).startswith("EPO(iterations=UNLIMITED, ") and json.dumps(UNLIMITED) == "1000000000"
    assert pickle.loads(pickle.dumps(dl.EPO(seconds=5))) == dl.EPO(seconds=5) == dl.EPO(seconds=5, iterations=10**9)


def test_prompts_end_a_run_after_the_iteration_in_which_they_are_reached(gpt2):
    whole = dream(gpt2.bridge, iterations=6)
    counts = np.bincount(whole.history.iteration).cumsum()
    run = dream(gpt2.bridge, iterations=None, prompts=int(counts[2]) + 1)
    assert run.iteration == 3 and run.finished and run.config.iterations == 3 and run.config.prompts == counts[2] + 1
    assert run.resume(progress=False).iteration == 3
    same(run.resume(3, progress=False).history, whole.history)


def test_seconds_end_a_run(gpt2):
    run = dream(gpt2.bridge, iterations=None, seconds=1e-6)
    assert run.iteration == 0 and run.status == "done" and run.finished


def test_a_run_that_is_loaded_keeps_what_is_left_of_its_budget(gpt2, tmp_path):
    run = dream(gpt2.bridge, iterations=1, prompts=10**6, save_to=tmp_path / "run")
    again = dl.load_run(tmp_path / "run", gpt2.bridge)
    assert again.config.prompts == 10**6 and again.resume(2, progress=False).iteration == 3
    assert len(run.history) < len(again.history)


def test_runs_side_by_side_end_each_at_its_own_budget(gpt2):
    alone = [dream(gpt2.bridge, seed=seed, iterations=None, prompts=60) for seed in (0, 1)]
    for run, other in zip(dream(gpt2.bridge, seeds=[0, 1], iterations=None, prompts=60), alone, strict=True):
        same(run.history, other.history)
        assert run.finished and run.status == "done"


@pytest.mark.parametrize("budget", [{"until": 0.2}, {"prompts": 400}], ids=str)
def test_frontier_searches_of_several_features_and_seeds_end_each_at_its_own_budget(gpt2, budget):
    features = ["L1.N3", "blocks.0.hook_resid_post[:, 3].max()"]
    search = dl.FrontierSearch(iterations=400, length=6, children=40, parents=3, samples=24)
    settings = {"search": search, "progress": False, **budget}
    runs = dl.dream(features, gpt2.bridge, seeds=[0, 1], **settings)
    assert [run.config.seed for run in runs] == [0, 1, 0, 1] and len({len(run.history) for run in runs}) > 1
    for run in runs:
        alone = dl.dream(run.feature, gpt2.bridge, seed=run.config.seed, **settings)
        np.testing.assert_array_equal(run.history.ids, alone.history.ids)
        assert run.iteration == run.config.iterations == alone.iteration < 400 and run.status == "done"
    for feature in features:
        several = [run for run in runs if run.feature == dl.parse(feature)]
        frontier = merge(several).frontier
        prompts = {prompt.ids: prompt.value for run in several for prompt in run.frontier}
        assert frontier.best().value == max(prompts.values()) and {prompt.ids for prompt in frontier} <= set(prompts)


def test_growth_is_measured_over_the_last_quarter_of_the_steps():
    budget = Budget(dl.EPO(until=0.1))
    ended = [budget.add(np.array([float(min(i, 10))]), np.array([5.0 if i else 6.0]), float(i)) for i in range(60)]
    # After step 10 nothing grows: the growth over the last quarter is zero once that quarter begins at step 10.
    first = ended.index(True)
    assert first >= 20 and all(ended[first:]) and not any(ended[:20])


def test_a_setting_of_another_search_is_told_from_one_that_does_not_exist(gpt2):
    with pytest.raises(SettingsError, match=r"top_k is a setting of EPO, GCG.* and not of RandomSearch"):
        dl.dream("L1.N3", gpt2.bridge, search=dl.RandomSearch(), top_k=3)


def test_random_search_scores_new_random_prompts_and_goes_on_as_if_it_had_not_stopped(gpt2, tmp_path):
    settings = {"search": dl.RandomSearch(children=20, length=5), "seed": 3, "progress": False}
    whole = dl.dream("L1.N3", gpt2.bridge, iterations=4, **settings)
    assert len(whole.history) == 100 and whole.history.population.shape == (5, 0) and not whole.history.restarts
    dl.dream("L1.N3", gpt2.bridge, iterations=2, save_to=tmp_path / "run", **settings)
    same(dl.load_run(tmp_path / "run", gpt2.bridge).resume(2, progress=False).history, whole.history)
    started = dl.dream("L1.N3", gpt2.bridge, iterations=1, start="one two", **settings)
    assert started.history.ids.shape[1] == len(started.history.ids[0]) and (started.history.iteration == 0).sum() == 1


def test_every_step_notes_the_work_so_far_in_tokens_times_layers(gpt2):
    layers, settings = gpt2.raw.config.n_layer, {"share_prefixes": False, "length": 5, "search": dl.RandomSearch()}
    run = dl.dream("L1.N3", gpt2.bridge, iterations=2, children=20, progress=False, **settings)
    # Twenty rows of BOS and five tokens in every step, through all layers, because cross-entropies need logits.
    assert run.history.token_layers.tolist() == [20 * 6 * layers * step for step in (1, 2, 3)]
    assert run.resume(1, progress=False).history.token_layers[-1] == 20 * 6 * layers * 4
    assert run.evolution()["token_layers"].tolist() == run.history.token_layers.tolist()


def test_a_gradient_is_worth_three_passes_and_a_shared_token_counts_once(gpt2):
    layers = gpt2.raw.config.n_layer
    plain = dream(gpt2.bridge, iterations=1, share_prefixes=False).history
    rows = np.bincount(plain.iteration)
    assert plain.token_layers[0] == rows[0] * 6 * layers
    members = len(np.unique(plain.ids[plain.population[0]], axis=0))
    assert plain.token_layers[1] - plain.token_layers[0] == (rows[1] + 3 * members) * 6 * layers
    many = [dream(gpt2.bridge, iterations=1, children=60, share_prefixes=share).history for share in (None, False)]
    assert many[0].token_layers[-1] < 0.8 * many[1].token_layers[-1]


def test_runs_side_by_side_share_the_account(gpt2):
    alone = [dream(gpt2.bridge, feature, share_prefixes=False).history for feature in ("L1.N3", 'logit(" the")')]
    together = dl.dream(["L1.N3", 'logit(" the")'], gpt2.bridge, iterations=8, share_prefixes=False, **SMALL)
    for run, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(run.history.token_layers, other.token_layers)


def test_a_history_of_an_earlier_version_has_no_account(gpt2):
    arrays = dream(gpt2.bridge, iterations=1).history.arrays()
    del arrays["token_layers"]
    assert np.isnan(History.from_arrays(arrays).token_layers).all()


def test_a_pause_takes_no_time_of_the_search(gpt2):
    run = dream(gpt2.bridge, iterations=0)
    steps = run.steps(3)
    for _ in range(2):
        run.take(next(steps))
        time.sleep(0.5)
    run.take(next(steps))
    assert run.history.seconds[-1] - run.history.seconds[0] < 0.9 and (np.diff(run.history.seconds) > 0).all()


def test_a_search_is_named_by_its_settings_their_class_or_its_name(gpt2):
    for search in ("random", dl.RandomSearch, dl.RandomSearch()):
        run = dl.dream("L1.N3", gpt2.bridge, search=search, iterations=1, children=5, progress=False)
        assert isinstance(run.config, dl.RandomSearch) and run.config.children == 5
    with pytest.raises(SettingsError, match=r"There is no search 'best'; there are: frontier, epo, gcg, random"):
        dl.dream("L1.N3", gpt2.bridge, search="best")
    with pytest.raises(SettingsError, match=r"search must be settings such as dl.EPO"):
        dl.dream("L1.N3", gpt2.bridge, search=3)


def test_without_a_name_the_frontier_search_runs_or_the_one_whose_settings_are_given(gpt2):
    common = {"iterations": 1, "children": 4, "length": 4, "progress": False}
    run = dl.dream("L1.N3", gpt2.bridge, **common)
    assert type(run.config) is dl.FrontierSearch
    assert type(dl.dream("L1.N3", gpt2.bridge, population=2, **common).config) is dl.EPO
    assert type(dl.dream("L1.N3", gpt2.bridge, samples=8, parents=1, **common).config) is dl.FrontierSearch
    with pytest.raises(SettingsError, match=r"population is a setting of EPO, GCG.*, and not of FrontierSearch"):
        dl.dream("L1.N3", gpt2.bridge, population=2, samples=8)
    with pytest.raises(SettingsError, match=r"populatoin.*population"):
        dl.dream("L1.N3", gpt2.bridge, populatoin=2)


def test_a_run_ends_when_there_is_no_other_prompt_to_try(gpt2, monkeypatch):
    monkeypatch.setattr(budgets, "STALLED", 5)
    others = np.flatnonzero(as_hooked(gpt2.bridge).vocabulary.allowed)[2:]
    rule = dl.constraints.forbid_tokens(*others.tolist())
    for search in ("epo", "frontier", "random"):
        run = dl.dream(
            "L1.N3", gpt2.bridge, search=search, prompts=100, length=2, children=4, constraints=rule, progress=False
        )
        assert run.finished and len(run.history) <= 4


def test_a_feature_that_never_moves_has_stopped_growing(gpt2):
    run = dl.dream("L1.N3 * 0", gpt2.bridge, search="random", until=0.05, children=5, progress=False)
    assert run.finished and run.iteration == 20

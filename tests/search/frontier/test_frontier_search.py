"""The frontier search: it works for every kind of feature, goes on after an interruption, and finds more than EPO."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens import constraints as rules_of
from dreamy_lens.errors import FeatureError, RunFolderError, SettingsError
from dreamy_lens.search import FrontierSearch, hypervolume
from dreamy_lens.search.frontier import optimizer
from tests.helpers import models, waiting
from tests.helpers.dreams import same

SMALL = FrontierSearch(iterations=6, length=6, children=40, parents=3, samples=24)
FEATURES = [
    "L1.N3",
    'logit(" the")',
    "log_prob(9)",
    "blocks.0.hook_resid_post[:, 3].max()",
    "blocks.1.hook_resid_post[-1] @ data:float32,[1,-1,2,0,1,0,-1,1,1,-1,2,0,1,0,-1,1]",
    "blocks.0.attn.hook_z[-2, 0, 1]",
]


def search(model: Any, feature: Any = "L1.N3", **settings: Any) -> Any:
    """Run a small frontier search."""
    return dl.dream(feature, model, search=SMALL, progress=False, **settings)


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave an island after every second iteration."""
    monkeypatch.setattr(optimizer, "PATIENCE", 1)
    monkeypatch.setattr(optimizer, "GROWTH", 100.0)


@pytest.mark.parametrize("name", ["gpt2", "neox"])
@pytest.mark.parametrize("feature", FEATURES[:4])
def test_every_kind_of_feature_is_searched_and_every_score_is_right(name, feature):
    model = models.family(name).bridge
    run = search(model, feature)
    history = run.history
    assert run.iteration == 6 and history.population.shape == (7, 0)
    assert len(np.unique(history.ids, axis=0)) == len(history) > 150
    assert (np.bincount(history.iteration)[1:] <= 40).all()
    rows = np.random.default_rng(0).choice(len(history), 40, replace=False)
    scores = dl.score(feature, history.ids[rows], model)
    np.testing.assert_allclose(scores.value, history.value[rows], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(scores.cross_entropy, history.cross_entropy[rows], atol=1e-4)
    # Later prompts are better than the samples of the start.
    first, last = history.iteration == 0, history.iteration > 3
    reference = float(np.median(history.value[first])), float(history.cross_entropy.max())
    areas = [hypervolume(history.value[which], history.cross_entropy[which], reference) for which in (first, last)]
    assert areas[1] > areas[0]


def test_a_seed_decides_everything(gpt2):
    same(search(gpt2.bridge, seed=4).history, search(gpt2.bridge, seed=4).history)
    assert not np.array_equal(search(gpt2.bridge, seed=4).history.ids, search(gpt2.bridge, seed=5).history.ids)


@pytest.mark.parametrize("scale", [2.0**-10, 2.0**10])
def test_the_scale_of_the_feature_changes_nothing(gpt2, scale):
    plain, scaled = search(gpt2.bridge), search(gpt2.bridge, f"L1.N3 * {scale}")
    np.testing.assert_array_equal(scaled.history.ids, plain.history.ids)
    np.testing.assert_array_equal(scaled.history.value, plain.history.value * np.float32(scale))


@pytest.mark.parametrize(
    "rules",
    [
        [],
        [rules_of.template("The dog{dream} and the cat"), rules_of.round_trip()],
        [rules_of.fix({2: " the"}), rules_of.forbid_tokens(" a")],
        [rules_of.fix({0: " the", 2: " the", 4: " the"})],
    ],
    ids=["none", "template", "fixed", "no neighbours free"],
)
def test_constraints_hold_for_every_prompt(gpt2, rules):
    run = search(gpt2.bridge, constraints=rules)
    constraints = run.session.constraint_set
    ids = run.history.ids
    assert len(ids) > 60 and constraints.check(ids).all()
    assert constraints.allowed[ids[:, constraints.free_positions]].all()
    for position, token in constraints.fixed.items():
        assert (ids[:, position] == token).all()


@pytest.mark.parametrize("settings", [{"length": 1}, {"length": 2}, {"prepend_bos": False}, {"start": "one two three"}])
def test_short_prompts_no_bos_and_a_start_are_served(gpt2, settings):
    run = search(gpt2.bridge, **settings)
    assert run.iteration == 6 and len(run.frontier)
    if "start" in settings:
        assert run.history.ids[0].tolist() == gpt2.bridge.tokenizer.encode("one two three", add_special_tokens=False)


def test_a_search_with_a_start_begins_there_and_later_joins_what_the_samples_lead_to(gpt2):
    start = np.array([[20, 30, 40, 50, 60, 70]])
    run = search(gpt2.bridge, start=start, iterations=20)
    history = run.history
    shared = (history.ids[:, None] == start).sum(-1)[:, 0]
    early = history.iteration == 1
    assert history.ids[0].tolist() == start[0].tolist() and np.median(shared[early]) >= 4
    assert np.median(shared[history.iteration == 0]) <= 1  # the samples, which are scored too
    assert (shared[history.iteration >= 15] <= 2).any()


def test_fluency_is_that_of_the_fluency_model(gpt2):
    other = models.family("neox").bridge
    run = search(gpt2.bridge, fluency_model=other)
    some = run.history.ids[-20:]
    expected = dl.score("L1.N3", some, gpt2.bridge, fluency_model=other).cross_entropy
    np.testing.assert_allclose(run.history.cross_entropy[-20:], expected, atol=1e-4)


@pytest.mark.parametrize("padded", [0, 40])
def test_the_fluency_model_may_have_fewer_or_more_rows_in_its_vocabulary(gpt2, monkeypatch, padded):
    monkeypatch.setattr(models, "PADDED", padded)
    other = models.new_bridge("neox", models.raw_model("neox"))
    for model, fluency in ((gpt2.bridge, other), (other, gpt2.bridge)):
        run = search(model, fluency_model=fluency)
        expected = dl.score("L1.N3", run.history.ids[-20:], model, fluency_model=fluency)
        np.testing.assert_allclose(run.history.cross_entropy[-20:], expected.cross_entropy, atol=1e-4)
        assert run.iteration == 6


@pytest.mark.usefixtures("restless")
def test_when_no_sample_obeys_the_constraints_the_search_goes_on_with_what_it_has(gpt2):
    tokens = gpt2.bridge.tokenizer.encode(" the dog runs over the hill", add_special_tokens=False)
    rules = rules_of.fix(dict(enumerate(tokens[:-1])))  # soon, every sample has been scored before
    run = search(gpt2.bridge, start=" the dog runs over the hill", iterations=12, constraints=rules, samples=400)
    assert run.iteration == 12 and run.session.constraint_set.check(run.history.ids).all()


@pytest.mark.parametrize("scale", ["1e20", "1e-25"])
def test_huge_and_tiny_features_are_searched_too(gpt2, scale):
    plain, scaled = search(gpt2.bridge), search(gpt2.bridge, f"L1.N3 * {scale}")
    assert scaled.history.value.max() / float(scale) > 0.9 * plain.history.value.max()


# Going on.


@pytest.mark.parametrize("rules", [(), (rules_of.template("Over{dream} it"), rules_of.round_trip())])
@pytest.mark.parametrize("cut", [0, 1, 7])
@pytest.mark.usefixtures("restless")
def test_a_search_that_was_saved_and_loaded_goes_on_as_if_it_had_not_stopped(gpt2, tmp_path, rules, cut):
    whole = search(gpt2.bridge, iterations=14, constraints=rules)
    search(gpt2.bridge, iterations=cut, constraints=rules, save_to=tmp_path / "run")
    same(dl.load_run(tmp_path / "run", gpt2.bridge).resume(14 - cut, progress=False).history, whole.history)


def test_a_damaged_memory_is_told(gpt2):
    run = search(gpt2.bridge, iterations=2)
    state = run._state
    state = dataclasses.replace(state, memory={"scale": state.memory["scale"]})
    with pytest.raises(RunFolderError, match=r"What the search had learned cannot be read .KeyError.*Copy it again"):
        next(iter(run.session.steps(4, state, run.history)))


@pytest.mark.usefixtures("restless")
def test_searches_side_by_side_are_the_searches_they_would_be_alone(gpt2):
    features = [FEATURES[0], FEATURES[1], FEATURES[3]]
    for run, feature in zip(search(gpt2.bridge, features), features, strict=True):
        alone = search(gpt2.bridge, feature)
        np.testing.assert_array_equal(run.history.ids, alone.history.ids)
        np.testing.assert_allclose(run.history.value, alone.history.value, atol=1e-4, rtol=1e-4)


def test_the_host_waits_once_in_an_iteration_for_an_accelerator(gpt2):
    plain = search(gpt2.bridge)
    with waiting.accelerator() as waits:
        model = waiting.moved(models.new_bridge("gpt2", gpt2.raw))
        run = search(model, iterations=0)
        found = []
        for step in run.steps(6):
            if step.iteration:
                run.take(step)
                found.append(len(waits.seen))
                seen = list(waits.seen)
            waits.seen.clear()
    assert found[1:] == [1] * 5, seen  # the first one verifies the faster passes
    np.testing.assert_array_equal(run.history.ids, plain.history.ids)


# What cannot be searched.


def test_a_feature_without_finite_values_is_refused(gpt2):
    class Endless:
        """An object that encodes everything as infinity."""

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return torch.full((*x.shape[:-1], 3), torch.inf) + x.sum(-1, keepdim=True)

    with pytest.raises(FeatureError, match="NaN or infinite on every one of the"):
        search(gpt2.bridge, dl.sae_latent(Endless(), 1, hook="blocks.0.hook_resid_post"))


@pytest.mark.parametrize("setting", ["parents", "children", "samples"])
def test_settings_outside_their_range_are_refused(setting):
    with pytest.raises(SettingsError, match=f"{setting} is 0; it must be at least"):
        FrontierSearch(**{setting: 0})


# Quality, on a trained model.


def test_it_finds_more_than_epo_with_as_many_prompts():
    embedded, settings = dl.load_model(), {"prompts": 1500, "length": 8}
    frontier = dl.dream("L2.N812", embedded, search=FrontierSearch(**settings), progress=False).history
    epo = dl.dream("L2.N812", embedded, search=dl.EPO(**settings), progress=False).history
    areas = [hypervolume(h.value, h.cross_entropy, (0.0, 9.0)) for h in (frontier, epo)]
    assert areas[0] > 1.3 * areas[1]

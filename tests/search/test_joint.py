"""Several runs side by side: each is the run it would be alone, and their prompts are scored in the same passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens import constraints as rules_of
from dreamy_lens.errors import FeatureError, RunFolderError, SettingsError
from dreamy_lens.html.escaping import escape
from dreamy_lens.models import PackedModel
from dreamy_lens.results import History, Merged
from dreamy_lens.runs import Dream, Dreams
from dreamy_lens.scoring import BackwardScorer, ForwardScorer, JointScorer
from dreamy_lens.search import EPO, ConstraintSet, EPOOptimizer, drive_together
from tests.helpers import models
from tests.helpers.dreams import SMALL, dream, interrupt_after, same
from tests.helpers.scorers import make_scorer
from tests.helpers.toy import LENGTH, VOCABULARY, Toy
from tests.helpers.toy import search as toy_search

PLAIN = ["L1.N3", "blocks.0.hook_resid_post[:, 3].max()"]
LOGITS = ['logit(" the")', "log_prob(9)"]
MIXED = [PLAIN[0], LOGITS[0], PLAIN[1]]


def dreams(model: Any, features: Any = MIXED, **settings: Any) -> Dreams:
    """Run dreams of eight iterations by default; restarts begin iterations 4 and 7."""
    return dl.dream(features, model, **(SMALL | {"iterations": 8} | settings))


def alike(a: History, b: History) -> None:
    """Assert equal prompts and populations in equal order; numbers may differ by rounding."""
    first, second = a.arrays(), b.arrays()
    assert set(first) == set(second)
    for name in set(first) - {"seconds", "token_layers"}:
        if first[name].dtype.kind == "f" and name != "restarts":
            np.testing.assert_allclose(first[name], second[name], atol=1e-4, rtol=1e-4, err_msg=name)
        else:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.fixture(scope="module")
def runs() -> Dreams:
    """Runs of two features with two seeds each."""
    return dreams(models.family("gpt2").bridge, [PLAIN[0], LOGITS[0]], seeds=[0, 1])


# Equal runs.


@pytest.mark.parametrize("name", ["gpt2", "neox"])
@pytest.mark.parametrize("features", [PLAIN, LOGITS, MIXED], ids=["plain", "logits", "mixed"])
def test_each_feature_s_run_is_the_run_it_would_be_alone(name, features):
    bridge = models.family(name).bridge
    found = dreams(bridge, features)
    for run, feature in zip(found, features, strict=True):
        alone = dream(bridge, feature)
        assert run.provenance == alone.provenance and run.config == alone.config and run.finished
        assert len(run.history.restarts) == 2
        alike(run.history, alone.history)


@pytest.mark.parametrize("name", ["gpt2", "neox"])
def test_each_seed_s_run_is_the_run_it_would_be_alone(name):
    bridge = models.family(name).bridge
    found = dreams(bridge, PLAIN[0], seeds=(3, 0))
    assert [run.config.seed for run in found] == [3, 0]
    for run in found:
        alike(run.history, dream(bridge, PLAIN[0], seed=run.config.seed).history)


@pytest.mark.parametrize(
    "settings",
    [
        {"constraints": rules_of.template("The dog{dream} and the cat")},
        {"constraints": [rules_of.template("Over{dream}"), rules_of.round_trip()], "restart_every": 2},
        {"start": [[33, 285, 268, 260, 9], [286, 297, 221, 314, 9]]},
        {"share_prefixes": False},
        {"batch_size": 5},
        {"keep_parents": True, "prepend_bos": False},
    ],
    ids=["template", "constraints", "start", "whole rows", "batches", "parents"],
)
def test_so_they_are_with_any_settings(gpt2, settings):
    found = dreams(gpt2.bridge, MIXED[:2], seeds=[0, 5], **settings)
    assert len(found) == 4
    for run in found:
        alike(run.history, dream(gpt2.bridge, run.feature, seed=run.config.seed, **settings).history)


def test_so_they_are_where_another_model_judges_fluency(gpt2, neox):
    settings = {"fluency_model": neox.bridge, "iterations": 4}
    for run in dreams(gpt2.bridge, MIXED, **settings):
        alike(run.history, dream(gpt2.bridge, run.feature, **settings).history)


def test_a_list_of_one_is_a_sequence_of_one_and_the_same_run(gpt2):
    for found in (dreams(gpt2.bridge, [PLAIN[0]]), dreams(gpt2.bridge, PLAIN[0], seeds=[0])):
        assert isinstance(found, Dreams) and len(found) == 1
        same(found[0].history, dream(gpt2.bridge, PLAIN[0]).history)


def test_expressions_and_texts_and_one_feature_twice_may_be_in_a_list(gpt2):
    found = dreams(gpt2.bridge, (dl.neuron(1, 3), PLAIN[0]), iterations=2)
    assert found[0].feature == found[1].feature == dl.parse(PLAIN[0])
    alike(found[0].history, found[1].history)


# Joint passes.


def test_prompts_of_all_runs_are_scored_in_the_same_passes(gpt2, monkeypatch):
    parts: list[set[int]] = []
    packed: list[int] = []
    slopes: list[set[int]] = []
    part, run, gradient = ForwardScorer._score_batch, PackedModel.run, BackwardScorer._gradient

    def scored(self, prompts, owner, *rest):
        parts.append(set(owner.tolist()))
        return part(self, prompts, owner, *rest)

    def passed(self, packing, *rest, **settings):
        packed.append(packing.rows)
        return run(self, packing, *rest, **settings)

    def differentiated(self, rows, owner, *rest):
        slopes.append(set(owner.tolist()))
        return gradient(self, rows, owner, *rest)

    monkeypatch.setattr(ForwardScorer, "_score_batch", scored)
    monkeypatch.setattr(PackedModel, "run", passed)
    monkeypatch.setattr(BackwardScorer, "_gradient", differentiated)
    dreams(gpt2.bridge, PLAIN, seeds=[0, 1])
    assert parts == [{0, 1, 2, 3}] * 9  # a pass for the initial populations, and one for each iteration
    assert len(packed) == 9 + 1  # and a trial pass
    assert slopes[-8:] == [{0, 1, 2, 3}] * 8 and len(slopes) < 4 * 8
    for seen in (parts, slopes):
        seen.clear()
    dreams(gpt2.bridge, MIXED)
    assert parts == [{0, 1}, {0}] * 9  # features that read logits have passes of their own
    assert slopes[-8:] == [{0, 1, 2}] * 8


def test_a_joint_scorer_answers_some_scorers_only(gpt2):
    scorers = [make_scorer(feature, gpt2.bridge) for feature in [*PLAIN, *LOGITS]]
    ids = np.random.default_rng(0).integers(1, 320, size=(9, 6))
    joint = JointScorer(scorers)
    for asked in ({1: ids[:4]}, {3: ids[:2], 0: ids[2:3]}, {2: ids, 1: ids[:1], 0: ids[5:], 3: ids[::2]}):
        found, slopes = joint.scores(asked), joint.gradients(asked)
        assert set(found) == set(slopes) == set(asked)
        for i, rows in asked.items():
            alone, slope = scorers[i].score(rows), scorers[i].gradient(rows)
            np.testing.assert_allclose(found[i].value, alone.value, atol=1e-5, rtol=1e-5)
            np.testing.assert_allclose(found[i].cross_entropy, alone.cross_entropy, atol=1e-5, rtol=1e-5)
            np.testing.assert_allclose(slopes[i].of_value(), slope.of_value(), atol=1e-4, rtol=1e-4)


def test_scorers_of_two_models_or_templates_do_not_work_together(gpt2, neox):
    first = make_scorer(PLAIN[0], gpt2.bridge)
    for other in (make_scorer(PLAIN[0], neox.bridge), make_scorer(PLAIN[0], gpt2.bridge, prefix=[5])):
        with pytest.raises(FeatureError, match="have one model, one fluency model, and one template"):
            JointScorer([first, other])


# The searches.


class Joint:
    """Joint scorer of several toys, which records the toys that it answers for."""

    def __init__(self, toys: list[Toy]) -> None:
        self.toys = toys
        self.scored: list[list[int]] = []
        self.differentiated: list[list[int]] = []

    def scores(self, ids: dict[int, np.ndarray]) -> dict[int, Any]:
        self.scored.append(sorted(ids))
        return {i: self.toys[i].score(rows) for i, rows in ids.items()}

    def gradients(self, ids: dict[int, np.ndarray]) -> dict[int, Any]:
        self.differentiated.append(sorted(ids))
        return {i: self.toys[i].gradient(rows) for i, rows in ids.items()}


def test_searches_of_different_lengths_end_when_they_are_done():
    lengths, worth = [2, 7, 0, 4], np.random.default_rng(0).normal(size=(4, LENGTH, VOCABULARY.size))
    settings = {"population": 4, "children": 8, "top_k": 12, "restart_every": 3}
    joint = Joint([Toy(w) for w in worth])
    rules = ConstraintSet([], VOCABULARY, LENGTH)
    searches = [
        EPOOptimizer().search(toy, EPO(iterations=n, length=LENGTH, seed=i, **settings), rules)  # pyright: ignore
        for i, (toy, n) in enumerate(zip(joint.toys, lengths, strict=True))
    ]
    steps: list[list[Any]] = [[], [], [], []]
    for number, step in drive_together(searches, joint):  # pyright: ignore[reportArgumentType]
        steps[number].append(step)
    assert [len(found) - 1 for found in steps] == lengths
    for i, (w, n) in enumerate(zip(worth, lengths, strict=True)):
        alone = toy_search(Toy(w), iterations=n, seed=i, **settings).steps
        for ours, own in zip(steps[i], alone, strict=True):
            assert (ours.iteration, ours.restart, ours.rejected) == (own.iteration, own.restart, own.rejected)
            for name in ("ids", "value", "cross_entropy", "population"):
                np.testing.assert_array_equal(getattr(ours, name), getattr(own, name))
    assert joint.scored[0] == [0, 1, 2, 3] and joint.differentiated == [[0, 1, 3]] * 2 + [[1, 3]] * 2 + [[1]] * 3
    assert len(joint.scored) == 8


def test_a_search_that_asks_more_often_does_not_hold_up_the_others():
    """One search draws initial prompts again and again until they are finite, while the other continues."""
    bad = np.flatnonzero(VOCABULARY.allowed)[::4]
    joint = Joint([Toy(), Toy(nan=bad)])
    config = EPO(iterations=3, population=4, children=8, top_k=12, length=LENGTH)
    rules = ConstraintSet([], VOCABULARY, LENGTH)
    order = []
    for number, step in drive_together([EPOOptimizer().search(toy, config, rules) for toy in joint.toys], joint):  # pyright: ignore
        order.append((number, step.iteration))
    assert sorted(order) == [(i, n) for i in (0, 1) for n in range(4)] and [0] not in joint.scored
    assert order.index((0, 1)) < order.index((1, 0))
    alone = toy_search(Toy(nan=bad), iterations=3, restart_every=config.restart_every).steps
    np.testing.assert_array_equal(np.unique(np.concatenate([s.ids for s in alone]), axis=0), finite(joint.toys[1], bad))


def finite(toy: Toy, bad: np.ndarray) -> np.ndarray:
    """Return the scored prompts with finite values, sorted by their tokens."""
    ids = toy.all_scored
    return np.unique(ids[~np.isin(ids, bad).any(1)], axis=0)


def test_no_searches_take_no_steps():
    assert list(drive_together([], Joint([]))) == []  # pyright: ignore[reportArgumentType]


# Results.


def test_runs_come_feature_by_feature_and_seed_by_seed(runs):
    assert len(runs) == 4 and isinstance(runs[0], Dream) and runs[-1] is runs.runs[3]
    assert [(run.provenance.feature, run.config.seed) for run in runs] == [
        ("blocks.1.mlp.hook_post[-1, 3]", 0),
        ("blocks.1.mlp.hook_post[-1, 3]", 1),
        ('logit(" the")', 0),
        ('logit(" the")', 1),
    ]
    with pytest.raises(IndexError):
        runs[4]
    assert runs[1] in runs and runs.index(runs[2]) == 2


def test_a_slice_is_several_runs(runs):
    assert isinstance(runs[1:3], Dreams) and list(runs[1:3]) == [runs[1], runs[2]]
    assert list(runs[::-1]) == list(reversed(runs)) and len(runs[9:]) == 0


def test_all_seeds_of_a_feature_are_one(runs):
    for feature in (PLAIN[0], dl.parse(PLAIN[0]), "blocks.1.mlp.hook_post[-1, 3]"):
        found = runs.of(feature)
        assert isinstance(found, Merged) and found.runs == (runs[0], runs[1])
    joint = runs.of(LOGITS[0]).frontier
    assert joint.best().value == max(run.frontier.best().value for run in runs[2:])
    assert [m.runs for m in runs.merged()] == [(runs[0], runs[1]), (runs[2], runs[3])]


def test_a_feature_that_is_not_there_is_an_error(runs):
    with pytest.raises(SettingsError):
        runs.of("L1.N4")


def test_the_table_has_every_run_s_frontier(runs):
    table = runs.to_pandas()
    assert table.columns[0] == "run" and list(table.index) == list(range(len(table)))
    assert table.groupby("run").size().to_dict() == {i: len(run.frontier) for i, run in enumerate(runs)}
    for i, run in enumerate(runs):
        mine = table[table["run"] == i].drop(columns="run").reset_index(drop=True)
        assert mine.equals(run.to_pandas().reset_index(drop=True))


def test_their_texts_show_every_run(runs):
    text = repr(runs)
    assert text.splitlines()[0].startswith("Dreams(4 runs") and len(text.splitlines()) == 5
    assert all(f"\n  seed {run.config.seed}: {run!r}" in text for run in runs)
    page = runs._repr_html_()
    assert "<p>4 runs</p>" in page and page.count("<li>") == 4
    assert all(escape(f"seed {run.config.seed}: {run!r}") in page for run in runs)


# Folders.


def test_each_run_is_saved_in_a_folder_of_its_own(gpt2, runs, tmp_path):
    folder = runs.save(tmp_path / "all")
    assert folder == tmp_path / "all"
    assert sorted(p.name for p in folder.iterdir()) == ["run-000", "run-001", "run-002", "run-003"]
    for place, run in zip(runs.run_folders(folder), runs, strict=True):
        again = dl.load_run(place, gpt2.bridge)
        same(again.history, run.history)
        assert again.provenance == run.provenance and again.config == run.config
    runs.save(folder)  # the folder belongs to these runs
    with pytest.raises(RunFolderError):
        Dreams(runs[::-1].runs).save(folder)
    other = dreams(gpt2.bridge, LOGITS, iterations=1)
    with pytest.raises(RunFolderError):
        other.save(folder)
    other.save(folder, overwrite=True)
    same(dl.load_run(folder / "run-001").history, other[1].history)


def test_a_file_in_the_place_of_the_folder_is_an_error(runs, tmp_path):
    (tmp_path / "file").write_text("mine", "utf-8")
    with pytest.raises(RunFolderError, match=r"file' is a file; name a folder for the 4 runs"):
        runs.save(tmp_path / "file", overwrite=True)
    assert (tmp_path / "file").read_text("utf-8") == "mine"


def test_runs_are_saved_while_they_go_on(gpt2, tmp_path):
    with interrupt_after(5):
        found = dreams(gpt2.bridge, MIXED, save_to=tmp_path / "all")
    for number, run in enumerate(found):
        again = dl.load_run(tmp_path / "all" / f"run-{number:03d}", gpt2.bridge)
        same(again.history, run.history)
        alike(again.resume(progress=False).history, dream(gpt2.bridge, MIXED[number]).history)


def test_a_folder_with_a_run_in_it_is_an_error_before_the_search(gpt2, runs, tmp_path, monkeypatch):
    runs[0].save(tmp_path / "all" / "run-001", overwrite=True)
    monkeypatch.setattr(Dream, "take", lambda run, step: pytest.fail("the search has begun"))
    with pytest.raises(RunFolderError, match="run-001"):
        dreams(gpt2.bridge, PLAIN, save_to=tmp_path / "all")
    assert [p.name for p in (tmp_path / "all").iterdir()] == ["run-001"]


# Continuing and stopping.


@pytest.mark.parametrize("which", range(3))
def test_one_of_them_goes_on_as_the_run_that_never_stopped(gpt2, which):
    run = dreams(gpt2.bridge, MIXED, iterations=5)[which]
    assert run.resume(3, progress=False) is run and run.iteration == run.config.iterations == 8
    alike(run.history, dream(gpt2.bridge, MIXED[which]).history)


def test_an_interrupt_keeps_everything_of_all_runs(gpt2, capsys):
    with interrupt_after(4):
        found = dreams(gpt2.bridge, MIXED)
    assert "Interrupted after 3 of 8 iterations. Everything found so far is kept" in capsys.readouterr().err
    assert [run.iteration for run in found] == [4, 3, 3]  # the first run had just recorded its fourth iteration
    for run, feature in zip(found, MIXED, strict=True):
        assert len(run.frontier) and not run.finished
        alike(run.resume(progress=False).history, dream(gpt2.bridge, feature).history)


def test_an_error_has_the_runs(gpt2, tmp_path):
    with interrupt_after(3, ValueError("broken")), pytest.raises(ValueError, match="broken") as caught:
        dreams(gpt2.bridge, MIXED, save_to=tmp_path / "all")
    found = caught.value.run  # type: ignore[attr-defined]
    assert isinstance(found, Dreams) and [run.iteration for run in found] == [3, 2, 2]
    for number, run in enumerate(found):
        same(dl.load_run(tmp_path / "all" / f"run-{number:03d}").history, run.history)
        alike(run.resume(progress=False).history, dream(gpt2.bridge, MIXED[number]).history)


# Errors.


@pytest.mark.parametrize(
    ("features", "settings", "text"),
    [
        ([], {}, "The list of features is empty; give at least one feature."),
        ((), {"seeds": [1]}, "The list of features is empty; give at least one feature."),
        (PLAIN[0], {"seeds": []}, "seeds is empty; give at least one."),
        (PLAIN, {"seeds": iter(())}, "seeds is empty; give at least one."),
        (PLAIN[0], {"seeds": -3}, r"seeds is -3; give the number of seeds, at least 1, or .*For one seed, use seed="),
        (
            PLAIN[0],
            {"seeds": np.int64(0)},
            r"seeds is 0; give the number of seeds, at least 1",
        ),
        (PLAIN[0], {"seeds": [0, 1], "seed": 2}, "Both seed= and seeds= are given; keep one."),
        (PLAIN, {"seeds": [4, 1, 4]}, r"seeds contains a seed twice: \[4, 1, 4\]; equal seeds make equal runs."),
        (PLAIN, {"seeds": [0, -1]}, "seed is -1"),
    ],
)
def test_settings_that_make_no_runs_are_refused_in_words(gpt2, features, settings, text):
    with pytest.raises(SettingsError, match=text):
        dreams(gpt2.bridge, features, **settings)


def test_one_feature_that_does_not_fit_is_an_error_before_the_search(gpt2, tmp_path):
    with pytest.raises(FeatureError):
        dreams(gpt2.bridge, [PLAIN[0], "L9.N3"], save_to=tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_runs_of_different_lengths_do_not_go_side_by_side(gpt2):
    runs = [dream(gpt2.bridge, iterations=0, length=length) for length in (5, 6)]
    with pytest.raises(SettingsError, match=r"need prompts of one length, and these have 5, 6 tokens"):
        Dreams(runs).resume(1, progress=False)

"""Runs: what they are, how they begin, what is told before anything is searched, and what can be done with them."""

from __future__ import annotations

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens import constraints as rules_of
from dreamy_lens.errors import ConstraintError, FeatureError, PromptError, SettingsError, UnknownHookError
from dreamy_lens.models import load as loading
from dreamy_lens.results import merge
from dreamy_lens.scoring import Scorer
from tests.helpers.dreams import FEATURE, SMALL, dream, same

# What a run is.


def test_a_run_is_what_it_says(gpt2, whole):
    assert whole.iteration == 8 and whole.finished and whole.config.iterations == 8
    assert str(whole.feature) == "blocks.1.mlp.hook_post[-1, 3]"
    assert repr(whole).startswith("Dream(L1.N3 on tiny-gpt2, 8 of 8 iterations, Frontier(")
    assert whole.model is gpt2.bridge and whole.provenance.seed == 0 and whole.provenance.prepend_bos
    assert len(whole.population) == 3 and len(whole.evolution()) == 9
    assert str(whole).splitlines()[0] == "L1.N3 on tiny-gpt2"
    assert str(whole).endswith(str(whole.frontier))
    np.testing.assert_array_equal(whole.history.frontier_rows(), whole.frontier_rows)


def test_its_numbers_are_those_of_its_prompts(gpt2, whole):
    history = whole.history
    again = dl.score(FEATURE, history.ids, gpt2.bridge)
    np.testing.assert_allclose(again.value, history.value, atol=1e-5)
    np.testing.assert_allclose(again.cross_entropy, history.cross_entropy, atol=1e-5)
    assert len(np.unique(history.ids, axis=0)) == len(history)
    assert [p.ids for p in whole.population] == [tuple(history.ids[row]) for row in history.population[-1]]
    best = whole.frontier.best()
    assert best.value == history.value.max() and best.text == gpt2.tokenizer.decode(best.ids)


def test_one_seed_is_one_history(gpt2, whole):
    same(dream(gpt2.bridge).history, whole.history)
    assert not np.array_equal(dream(gpt2.bridge, seed=1).history.ids, whole.history.ids)


def test_settings_come_by_name_or_as_a_whole(gpt2, whole):
    config = dl.EPO(iterations=8, **{k: v for k, v in SMALL.items() if k != "progress"})
    same(dl.dream(FEATURE, gpt2.bridge, search=config, progress=False).history, whole.history)
    other = dl.dream(FEATURE, gpt2.bridge, search=config, seed=4, progress=False)
    assert other.config.seed == 4 and other.config.top_k == 16


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batches_change_rounding_only(gpt2, whole, batch_size):
    run = dream(gpt2.bridge, batch_size=batch_size, iterations=1)
    np.testing.assert_allclose(run.history.value[:3], whole.history.value[:3], atol=1e-5)


# Starts.


def test_a_start_decides_the_length(gpt2):
    settings = {"iterations": 2, "population": 2, "children": 4, "progress": False}
    run = dl.dream(FEATURE, gpt2.bridge, start="The dog runs over", **settings)
    n = len(gpt2.tokenizer.encode("The dog runs over", add_special_tokens=False))
    assert run.config.length == n == run.history.ids.shape[1]
    assert run.history.ids[0].tolist() == gpt2.tokenizer.encode("The dog runs over", add_special_tokens=False)


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        (
            {"start": " dog", "length": 5},
            PromptError,
            "The start has 1 tokens, but length=5 was given; leave out length",
        ),
        (
            {"start": ["a dog", "a dog dog"]},
            PromptError,
            "Starts must have one length, and these have 2, 3 tokens; trim",
        ),
        ({"start": ""}, PromptError, "The text '' has no tokens"),
        ({"start": []}, PromptError, "There is no prompt"),
        ({"start": [[1, 2, 999]]}, PromptError, "contains id 999, outside the vocabulary"),
        (
            {"start": [[1] * 70]},
            PromptError,
            "A prompt of 70 tokens makes 71 with the BOS, and tiny-gpt2's context is 64",
        ),
        ({"start": [[5, 0]]}, ConstraintError, "which is special or unused"),
        ({"start": "a dog", "constraints": rules_of.forbid_text("dog")}, ConstraintError, "may not be used here"),
        ({"start": "a dog", "constraints": [rules_of.fix({0: "b"})]}, ConstraintError, "where 'b' is fixed"),
        ({"length": 64}, PromptError, "use at most 63"),
        ({"feature": "L1.N40"}, FeatureError, "there is no unit 40"),
        ({"feature": "blocks.1.mlp.hook_pst[-1, 2]"}, UnknownHookError, "nearest: blocks.1.mlp.hook_post"),
        ({"feature": "L1.N3 +"}, FeatureError, "The text ends too early"),
        ({"constraints": [rules_of.fix({9: " dog"})], "length": 5}, ConstraintError, "positions 0 to 4"),
        ({"constraints": rules_of.printable}, ConstraintError, r"printable is a function .* write printable\(\)\."),
        ({"constraints": [rules_of.printable]}, ConstraintError, r"it was not called: write printable\(\)\."),
        ({"constraints": 3, "start": "dog"}, ConstraintError, "3 is not a constraint; use those of dl.constraints"),
        ({"constraints": rules_of.fix}, ConstraintError, r'write fix\(\{0: "The"\}\)\.'),
        ({"length": 1, "prepend_bos": False}, PromptError, "has no cross-entropy. Use prepend_bos=True"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_searched(gpt2, monkeypatch, settings, error, said):
    monkeypatch.setattr(Scorer, "score", lambda *a: pytest.fail("it was searched"))
    with pytest.raises(error, match=said):
        dl.dream(**{"feature": FEATURE, "model": gpt2.bridge, "progress": False} | settings)


# Settings.


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"iteration": 3}, "There is no setting 'iteration'; did you mean iterations?"),
        ({"lambda_mn": 3}, "did you mean lambda_min?"),
        ({"constraint": ()}, "There is no setting 'constraint'; did you mean constraints?"),
        ({"colour": 3}, "There is no setting 'colour'; there are: iterations, length, "),
        ({"iterations": -1}, "iterations is -1; it must be a whole number, at least 0, or None for 300"),
        ({"population": 0}, "population is 0; it must be at least 1"),
        ({"children": 2.5}, "children is 2.5; it must be a whole number, at least 1"),
        ({"top_k": True}, "top_k is True"),
        ({"seed": None}, "seed is None"),
        ({"lambda_min": -1}, "lambda_min is -1; a negative λ would reward prompts for being unlikely"),
        ({"lambda_max": float("nan")}, "lambda_max is nan; it must be a finite number"),
        ({"lambda_min": 3, "lambda_max": 1}, "lambda_min is 3, above lambda_max, 1; swap them"),
        ({"restart_lambda_min": 7}, "restart_lambda_min is 7, above restart_lambda_max, 6; swap them"),
        ({"lambda_min": 0}, "use a small number such as 0.001"),
        ({"prepend_bos": 1}, "prepend_bos is 1; use True or False, or None for the"),
        ({"batch_size": 0}, "batch_size is 0; it must be a whole number, at least 1, or None"),
        ({"batch_size": True}, "batch_size is True"),
        (
            {"search": {"iterations": 3}},
            "search must be settings such as dl.EPO(iterations=100); got {'iter",
        ),
    ],
)
def test_settings_out_of_range(gpt2, settings, said):
    with pytest.raises(SettingsError) as caught:
        dl.dream(FEATURE, gpt2.bridge, progress=False, **settings)
    assert said in str(caught.value)


def test_numpy_numbers_are_numbers(gpt2):
    config = dl.EPO(iterations=np.int64(3), seed=np.int32(2), lambda_min=np.float32(0.5))
    assert config == dl.EPO(iterations=3, seed=2, lambda_min=0.5) and type(config.iterations) is int


def test_the_paper_s_table_1():
    config = dl.EPO()
    assert (config.iterations, config.population, config.children, config.top_k, config.length) == (300, 8, 32, 512, 12)
    assert (config.restart_lambda_min, config.restart_lambda_max, config.restart_every) == (0.667, 6.0, 30)
    ratios = config.lambdas[1:] / config.lambdas[:-1]
    np.testing.assert_allclose(config.lambdas[[0, -1]], [0.1, 10])
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-5)
    assert config.keep_parents is False and config.prepend_bos is None


# Several runs.


def test_runs_of_several_seeds_merge(gpt2, whole, tmp_path):
    other = dream(gpt2.bridge, seed=1)
    other.save(tmp_path / "run")
    merged = merge([whole, dl.load_run(tmp_path / "run")])
    assert {p.provenance.seed for p in merged.frontier} <= {0, 1}
    assert merged.frontier.best().value == max(whole.frontier.best().value, other.frontier.best().value)
    for prompt in merged.frontier:
        assert prompt in (*whole.frontier, *other.frontier)
    with pytest.raises(SettingsError, match="Runs 0 and 1 differ in feature"):
        merge([whole, dream(gpt2.bridge, "L1.N4", iterations=1)])
    with pytest.raises(SettingsError, match="differ in prepend_bos"):
        merge([whole, dream(gpt2.bridge, prepend_bos=False, iterations=1)])


# What can be done with a run.


def test_prompts_of_a_run_know_how_to_be_attributed(gpt2, monkeypatch):
    run = dream(gpt2.bridge, constraints=[rules_of.printable(), rules_of.template("The{dream}.")])
    monkeypatch.setattr(loading, "load_model", lambda *a, **k: pytest.fail("a model was loaded"))
    prompt = run.frontier.best()
    found = prompt.attribution(k=4)
    assert found.value == pytest.approx(prompt.value, abs=1e-5)
    assert found.cross_entropy == pytest.approx(prompt.cross_entropy, abs=1e-5)
    rules = run.session.constraint_set
    assert found.candidates.shape == (5, 4) and rules.allowed[found.candidates].all()
    again = run.attribution(" dog dog", k=3)
    assert again.candidates.shape == (2, 3)


def test_a_page_and_tables(gpt2, whole, tmp_path):
    page = whole.to_html(tmp_path / "page.html", k=2)
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page and "<html" in page
    assert len(whole.to_pandas()) == len(whole.frontier)
    assert whole.plot().to_plotly_json()


def test_progress_is_shown_if_asked(gpt2, capsys):
    dream(gpt2.bridge, iterations=2, progress=True)
    shown = capsys.readouterr().err
    assert "dreaming" in shown and "best value" in shown and "2/2" in shown
    dream(gpt2.bridge, iterations=2)
    assert capsys.readouterr().err == ""

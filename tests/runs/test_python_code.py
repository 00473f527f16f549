"""Code that panels copy: it runs in a new session, and makes what was shown."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.panels import AttributionPanel, DreamPanel, RunsPanel
from dreamy_lens.panels.cells import frozen_attribution
from dreamy_lens.runs.python_code import HOLE, run_code
from tests.helpers.frozen_pages import frozen_state
from tests.helpers.quick import quick_ones

pytestmark = pytest.mark.usefixtures("short_start")

SMALL: dict[str, Any] = {"iterations": 2, "length": 5}
RUNS = {
    "defaults but for the size": {},
    "seed": {"seed": 7},
    "budget": {"iterations": None, "prompts": 300},
    "epo": {"search": dl.EPO(population=4, children=8), "seed": 1},
    "random": {"search": "random"},
    "start": {"start": "the same as", "length": None},
    "starts": {"start": [[5, 6, 7], [8, 9, 10]], "length": None},
    "constraints": {
        "constraints": [
            dl.constraints.printable(),
            dl.constraints.template('Say "it\'s" {dream}\n!'),
            dl.constraints.fix({0: " the", -1: 17}),
            dl.constraints.forbid_text(" Dog"),
            dl.constraints.forbid_tokens(" a", 18),
            dl.constraints.varied(2, 0.5),
            dl.constraints.round_trip(),
        ],
        "length": 6,
    },
    "no BOS": {"prepend_bos": False},
}


def executed(code: str) -> dict[str, Any]:
    """What a program leaves behind in a new session."""
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(code, "<copied>", "exec"), names)
    return {**names, "said": said.getvalue()}


def dreamed(**settings: Any) -> Any:
    given = {name: value for name, value in (SMALL | settings).items() if value is not None}
    return dl.dream("L2.N812", **given)


def assert_same(run: Any, other: Any) -> None:
    assert np.array_equal(run.history.ids, other.history.ids)
    assert np.allclose(run.history.value, other.history.value, atol=1e-5)
    assert (run.config, run.constraints, run.provenance) == (other.config, other.constraints, other.provenance)


def filled(code: str, value: Any) -> str:
    assert code.count(HOLE) == 1
    return code.replace(HOLE, str(value))


def ids_of(prompt: Any) -> str:
    return ", ".join(map(str, prompt.ids))


@pytest.mark.parametrize("name", quick_ones(RUNS, ["constraints", "no BOS"]))
def test_the_code_of_a_run_makes_the_run_and_the_attribution_of_its_prompts(name: str):
    run = dreamed(**RUNS[name])
    code = frozen_state(DreamPanel(run).to_html())["python"]
    assert code == DreamPanel(run).python
    prompt = run.frontier[len(run.frontier) // 2]
    again = executed(f"{code['run']}\n{filled(code['best'], prompt.cross_entropy + 1e-4)}")
    assert_same(run, again["run"])
    assert again["prompt"].ids == prompt.ids and again["prompt"].text.strip()[:3] in again["said"]
    ours, theirs = run.attribution(prompt), executed(filled(code["prompt"], ids_of(prompt)))["attribution"]
    assert np.array_equal(ours.candidates, theirs.candidates) and np.allclose(ours.values, theirs.values, atol=1e-5)
    assert ours.cross_entropy == pytest.approx(theirs.cross_entropy, rel=1e-5)


def test_only_settings_that_differ_from_the_defaults_are_written():
    assert run_code(dreamed()) == 'import dreamy_lens as dl\n\nrun = dl.dream("L2.N812", iterations=2, length=5)'
    assert 'dl.dream("L2.N812", seed=1, search=dl.EPO(iterations=2, ' in run_code(dreamed(**RUNS["epo"]))


def test_a_run_that_was_stopped_says_how_far_it_came():
    run = dreamed(iterations=50, wait=False, progress=False)
    run.stop()
    run.wait()
    assert f"# The run that was shown had completed {run.done_text}." in DreamPanel(run).python["run"]


def test_a_run_that_ends_in_front_of_its_panel_has_the_code_of_its_end():
    run = dreamed(iterations=1)
    panel = DreamPanel(run)
    run.resume(2)
    assert "iterations=3" in panel.python["run"]


def test_a_model_from_a_folder_is_named_and_a_model_in_memory_is_loaded_by_its_name(gpt2, tmp_path: Path):
    by_object = dl.dream("L1.N3", gpt2.bridge, iterations=1, length=4)
    name = by_object.provenance.model
    code = run_code(by_object)
    assert f'model = dl.load_model("{name}")  # if its weights' in code and '"L1.N3", model=model, ' in code
    bridge = dl.load_model()
    assert "model" not in run_code(dl.dream("L1.N3", bridge, iterations=0, length=4)).partition("dl.dream")[2]
    half = dl.dream("L1.N3", dl.load_model(dtype="bfloat16"), iterations=0, length=4)
    assert_same(half, executed(run_code(half))["run"])
    half.save(tmp_path / "run")
    assert_same(half, executed(run_code(dl.load_run(tmp_path / "run")))["run"])


@pytest.mark.slow
def test_several_runs_are_one_call_if_they_differ_in_feature_and_seed_only():
    runs = dl.dream(["L2.N812", 'logit("\\"")'], seeds=[3, 1], **SMALL)
    code = frozen_state(RunsPanel(runs).to_html())["python"]["run"]
    assert code.count("dl.dream(") == 1 and "seeds=[3, 1]" in code
    for ours, theirs in zip(runs, executed(code)["runs"], strict=True):
        assert_same(ours, theirs)
    mixed = [runs[0], dreamed(seed=9, length=4)]
    again = executed(RunsPanel(mixed).python["run"])
    for ours, theirs in zip(mixed, again["runs"], strict=True):
        assert_same(ours, theirs)
    assert isinstance(again["panel"], RunsPanel)


@pytest.mark.parametrize("options", [{}, {"prepend_bos": False}, {"prefix": [5, 6], "suffix": [7]}, {"k": 5}])
def test_the_code_of_an_attribution_makes_it_again(options: dict[str, Any]):
    ours = dl.attribution("L2.N812", " the same as described", **options)
    code = frozen_state(frozen_attribution(ours))["python"]["prompt"]
    theirs = executed(filled(code, ", ".join(map(str, ours.ids))))["attribution"]
    assert np.array_equal(ours.candidates, theirs.candidates) and np.allclose(ours.values, theirs.values, atol=1e-5)
    if "k" not in options:
        panel = AttributionPanel("L2.N812", " the same as described", **options).wait()
        live = executed(filled(panel.python["prompt"], ", ".join(map(str, ours.ids))))["attribution"]
        assert np.allclose(ours.values, live.values, atol=1e-5)


def test_an_attribution_keeps_what_makes_it_again_in_its_file(tmp_path: Path):
    ours = dl.attribution("L2.N812", " the same", prepend_bos=False, prefix=[5], k=4)
    again = dl.results.Attribution.load(ours.save(tmp_path / "a.json"))
    names = ("model", "prepend_bos", "prefix", "suffix")
    assert [getattr(again, n) for n in names] == [getattr(ours, n) for n in names] == ["embedded", False, (5,), ()]


def test_a_feature_that_is_an_object_is_named_in_a_comment():
    feature = dl.custom("mine", ["blocks.2.mlp.hook_post"], lambda h: h["blocks.2.mlp.hook_post"][:, -1, 812])
    code = run_code(dl.dream(feature, **SMALL))
    assert "# feature is an object of your own Python session" in code and "dl.dream(feature, " in code

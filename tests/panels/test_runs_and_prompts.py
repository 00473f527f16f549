"""Panels of several runs, and of one prompt to explore; starred prompts."""

from __future__ import annotations

import copy
import math
import re
import time

import anywidget
import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.errors import FileWriteError, SettingsError
from dreamy_lens.models import as_hooked
from dreamy_lens.panels import (
    AttributionPanel,
    DreamPanel,
    FeatureForm,
    RunsPanel,
    frozen_attribution,
    state,
)
from dreamy_lens.panels.pages import page_of_runs as runs_page
from dreamy_lens.runs import Dream
from dreamy_lens.scoring import Scorer
from tests.helpers import models
from tests.helpers.dreams import dream, same
from tests.helpers.frozen_pages import frozen_state
from tests.helpers.panel_messages import plain

FEATURE = "L1.N3"


# Several runs, and one prompt.


def test_several_runs_are_shown_side_by_side_by_feature(gpt2):
    runs = dream(gpt2.bridge, [FEATURE, "L0.N1"], seeds=[0, 1], iterations=2)
    panel = RunsPanel(runs)
    assert panel.groups == [run.feature_label for run in runs[::2]]
    assert [run["group"] for run in panel.runs] == [0, 0, 1, 1] and panel.status == "done"
    assert [run["name"] for run in panel.runs] == ["seed 0", "seed 1"] * 2
    for shown, run in zip(panel.runs, runs, strict=True):
        assert [e["key"] for e in shown["frontier"]] == [state.key(p.ids) for p in run.frontier]
    assert plain(panel.runs) and len(panel.to_html()) < 100_000


def test_a_unit_that_never_fired_is_noted_once_for_all_seeds(gpt2):
    raw = copy.deepcopy(gpt2.raw)
    with torch.no_grad():
        raw.transformer.h[0].mlp.c_fc.bias[1] = -1e3
    with pytest.warns(RuntimeWarning, match="exactly zero on every initial prompt"):
        runs = dream(models.new_bridge("gpt2", raw), [FEATURE, "L0.N1"], seeds=[0, 1], iterations=1)
    panel, tried = RunsPanel(runs), sum(len(run.history) for run in runs[2:])
    assert (
        panel.note.startswith(f"L0.N1 never rose above 0 in {tried:,} prompts") and panel.note.count("never rose") == 1
    )
    page = runs_page(runs)
    assert page.count("<h2>Settings</h2>") == 1 and page.count("<dt>iterations</dt>") == 1
    table = page.partition("<h2>Differences</h2>")[2]
    assert re.findall(r"<t[dh](?: [^>]*)?>([^<]*)", table) == [
        *("run", "seed", "feature"),
        *(cell for i, run in enumerate(runs) for cell in (str(i), str(run.provenance.seed), run.feature_names[1])),
    ]


def test_a_prompt_to_play_with(gpt2, monkeypatch):
    panel = AttributionPanel(FEATURE, [30, 31, 32], gpt2.bridge).wait()
    expected = dl.attribution(FEATURE, [30, 31, 32], gpt2.bridge)
    np.testing.assert_allclose(panel.found["drop"], expected.drop_to_worst, rtol=1e-3, atol=1e-5)
    assert len(panel.found["series"]) == 3 and plain(panel.found)
    assert panel.to_html() and frozen_attribution(expected)


def start_from(panel, ids) -> Dream:
    """Press "dream from here" in a panel of one prompt, and return the run that it starts, stopped after a step."""
    panel._handle_custom_msg({"type": "start", "ids": list(ids)}, [])
    until(lambda: panel.started)
    (run,) = panel.started
    until(lambda: len(run.so_far.history))
    return run.stop().wait()


def until(happened, seconds=60.0) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.01)


def test_an_explored_prompt_is_written_as_a_page(gpt2, tmp_path):
    panel = dl.explore(FEATURE, [1, 2, 3], gpt2.bridge)
    page = panel.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page and page.startswith("<!DOCTYPE html>")
    assert page.count("<h1>Attribution of ") == 1 and frozen_state(page)["found"]["tokens"]
    assert not panel.to_html().startswith("<!DOCTYPE")  # a cell has the view alone
    with pytest.raises(FileWriteError, match=r"explore\.svg.*dl\.attribution"):
        panel.to_html(tmp_path / "explore.svg")


def test_an_unknown_option_of_explore_is_named(gpt2):
    with pytest.raises(SettingsError, match="There is no setting 'prefixes'; did you mean prefix"):
        dl.explore("L1.N3", "a prompt", gpt2, prefixes=[1])


def test_a_dream_from_an_explored_prompt_keeps_the_template(gpt2):
    vocabulary = as_hooked(gpt2.bridge).vocabulary
    prefix, suffix = vocabulary.encode("In short:"), vocabulary.encode(" and so on.")
    panel = AttributionPanel(FEATURE, [30, 31, 32], gpt2.bridge, prefix=prefix, suffix=suffix, prepend_bos=True).wait()
    run = start_from(panel, [30, 31, 33])
    assert (list(run.provenance.prefix), list(run.provenance.suffix)) == (prefix, suffix)
    assert run.history.ids[0].tolist() == [30, 31, 33] and run.provenance.prepend_bos is True
    assert run.constraints == (dl.constraints.template("In short:{dream} and so on."),)
    scorer = Scorer(dl.parse(FEATURE), as_hooked(gpt2.bridge), prefix=prefix, suffix=suffix, prepend_bos=True)
    assert run.history.value[0] == pytest.approx(float(scorer.values([30, 31, 33])[0]), rel=1e-4)


def test_a_template_that_no_text_stands_for_starts_no_dream(gpt2, monkeypatch):
    """Tokens that encode otherwise when they are read as text would be another template."""
    vocabulary = as_hooked(gpt2.bridge).vocabulary
    split = [i for letter in "short" for i in vocabulary.encode(letter)]
    assert vocabulary.encode(vocabulary.text(split)) != split
    panel, said = AttributionPanel(FEATURE, [30, 31, 32], gpt2.bridge, prefix=split).wait(), []
    monkeypatch.setattr(panel, "send", lambda content, buffers=None: said.append(content))
    panel._handle_custom_msg({"type": "start", "ids": [30, 31, 32]}, [])
    until(lambda: said or panel.started)
    assert not panel.started and "template" in said[-1]["text"] and said[-1]["type"] == "notice"


def test_a_dream_from_a_prompt_that_a_run_explores_is_like_the_run(gpt2):
    """It has the run's constraints, template and settings, as one that is started in the run's own panel."""
    rules = [dl.constraints.template("In short:{dream} and so on."), dl.constraints.fix({0: 40})]
    run = dream(gpt2.bridge, constraints=rules, iterations=2)
    ids = list(run.frontier[0].ids)
    panel = run.explore(run.frontier[0])
    started = start_from(panel, ids)
    own = DreamPanel(run)
    own._handle_custom_msg({"type": "start", "ids": ids}, [])
    run.ask(lambda: None).result(60)
    (other,) = own.started
    assert started.config == other.config == run.config and started.constraints == other.constraints == run.constraints
    assert started.provenance == other.provenance
    same(started.resume(wait=True).history, other.wait().history)


def test_a_feature_without_a_gradient_is_shown_with_its_scores(gpt2):
    hook = "blocks.0.hook_resid_post"
    feature = dl.custom("steps", [hook], lambda a: a[hook][:, -1, 0].round())
    panel = AttributionPanel(feature, [30, 31, 32], gpt2.bridge).wait()
    assert panel.found["value"] is not None and (panel.error or panel.found["drop"])


def test_numbers_that_json_has_not_are_left_out():
    assert state.rounded(math.nan) is None and state.rounded(-math.inf) is None and state.rounded(1 / 3, 3) == 0.333


def test_no_trait_has_the_name_of_a_trait_of_ipywidgets():
    """JupyterLab draws nothing if a panel replaces the trait `tooltip` of every widget, for example."""
    usual = set(anywidget.AnyWidget.class_traits())
    for kind in (DreamPanel, RunsPanel, AttributionPanel, FeatureForm):
        own = {name for each in kind.__mro__ if each.__module__.startswith("dreamy_lens") for name in vars(each)}
        assert not own & usual, kind


# Starred prompts.


def test_starred_prompts_are_known_to_the_run_and_to_its_other_views(gpt2):
    run = dream(gpt2.bridge)
    panel, (first, *_, last) = DreamPanel(run), run.frontier
    found = run.ask(lambda: panel.inspector.attribution(np.array([5, 6, 7]))).result()
    names = ("key", "ids", "tokens", "text", "trips", "value", "ce")
    own = {name: found[name] for name in names}
    listed = state.frontier_entry(last)
    known = {**{n: listed[n] for n in names[:-2]}, "value": listed["y"], "ce": listed["x"]}
    panel.view_state = {"stars": {known["key"]: known, own["key"]: own}}
    assert run.starred == [last, run.starred[1]] and run.starred[1].ids == (5, 6, 7)
    assert run.starred[1].attribution(k=4).value == pytest.approx(found["value"], rel=1e-4)
    shown = frozen_state(panel.to_html())
    assert list(shown["view_state"]["stars"]) == [known["key"], own["key"]] and own["key"] in shown["attributions"]
    again = DreamPanel(run)
    assert list(again.view_state["stars"]) == [known["key"], own["key"]]
    assert again.view_state["stars"][own["key"]]["value"] == pytest.approx(own["value"])
    again.view_state = {**again.view_state, "stars": {}}
    assert run.starred == [] and first in run.frontier


def test_prompts_that_are_starred_in_a_view_of_several_runs_belong_to_the_run_that_found_them(gpt2):
    runs = dream(gpt2.bridge, [FEATURE, "L0.N1"], seeds=[0, 1], iterations=1)
    last = [run.frontier.best() for run in runs]
    runs[3].starred = [last[3]]
    panel = RunsPanel(runs)
    (name,) = panel.view_state["stars"]
    assert name == f"1 {state.key(last[3].ids)}" and panel.view_state["stars"][name]["run"] == 3
    found = panel.view_state["stars"]
    own = {**found[name], **{k: v for k, v in state.frontier_entry(last[0]).items() if k in found[name]}}
    own |= {"value": last[0].value, "ce": last[0].cross_entropy, "run": 0}
    panel.view_state = {"stars": {**found, f"0 {own['key']}": own}}
    assert [run.starred for run in runs] == [[last[0]], [], [], [last[3]]]
    panel.view_state = {"stars": {f"0 {own['key']}": own}}
    assert [run.starred for run in runs] == [[last[0]], [], [], []]
    assert list(RunsPanel(runs).view_state["stars"]) == [f"0 {own['key']}"]


def test_edits_of_an_explored_prompt_are_written_to_its_cell(gpt2, monkeypatch):
    shown = []

    class Handle:
        def update(self, content, raw):
            shown.append(content)

    def display(content, raw, display_id):
        shown.append(content)
        return Handle()

    panel = AttributionPanel(FEATURE, [1, 2, 3], gpt2.bridge).wait()
    with pytest.raises(NotImplementedError):
        panel._ipython_display_()
    monkeypatch.setattr("dreamy_lens.panels.attribution.in_kernel", lambda: True)
    monkeypatch.setattr("IPython.display.display", display)
    panel._ipython_display_()
    assert len(shown) == 1 and "AttributionPanel" in shown[0]["text/plain"]
    new = panel._thread.ask(lambda: panel._inspector.attribution(np.array([1, 2, 7]))).result()
    step = {name: new[name] for name in ("key", "ids", "tokens", "text", "trips", "value", "ce")}
    base = {**step, "key": panel.found["key"]}
    edit = {"base": base, "now": step, "trail": [base], "chosen": -1, "grid": False, "typed": {}}
    panel.view_state = {"edits": {base["key"]: edit}}
    panel._handle_custom_msg({"type": "keep"}, [])
    panel._thread.ask(lambda: None).result()
    kept = frozen_state(shown[1]["text/html"])
    assert kept["view_state"] == panel.view_state and kept["attributions"][new["key"]]["subs"]

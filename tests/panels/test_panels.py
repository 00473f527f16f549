"""Panels without a browser: what they show as a run goes on, what they answer, and what a frozen one keeps."""

from __future__ import annotations

import copy
import gc
import json
import math
import re
import threading
import time
import weakref

import anywidget
import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.errors import FileWriteError, SettingsError
from dreamy_lens.html.escaping import escape
from dreamy_lens.models import as_hooked
from dreamy_lens.panels import (
    AttributionPanel,
    DreamPanel,
    FeatureForm,
    RunsPanel,
    frozen_attribution,
    frozen_run,
    inspector_of,
    state,
)
from dreamy_lens.panels.follower import RunFollower
from dreamy_lens.panels.messages import QUICK, SUBSTITUTES
from dreamy_lens.panels.pages import page_of_runs as runs_page
from dreamy_lens.results import Frontier, Prompt, Provenance
from dreamy_lens.runs import Dream
from dreamy_lens.scoring import Scorer
from dreamy_lens.search import non_dominated
from tests.helpers import models
from tests.helpers.dreams import dream, same
from tests.helpers.frozen_pages import frozen_state

FEATURE = "L1.N3"


@pytest.fixture
def run(gpt2):
    return dream(gpt2.bridge)


class Heard:
    """What a panel sends to its view."""

    def __init__(self, panel, monkeypatch):
        self.said = []
        monkeypatch.setattr(panel, "send", lambda content, buffers=None: self.said.append(content))
        panel._handler._send = panel.send

    def answers(self, number):
        return [one for one in self.said if one.get("id") == number]


def plain(value) -> bool:
    """Whether a browser's JSON has it, NaN and infinities included in what it has not."""
    return json.loads(json.dumps(value, allow_nan=False)) == value


# What is shown.


def test_a_panel_shows_the_run_as_it_is(run):
    panel = DreamPanel(run)
    assert (panel.status, panel.step, panel.steps) == ("done", 8, 8)
    assert panel.evaluated == len(run.history) and panel.hypervolume == pytest.approx(run.hypervolume, rel=1e-4)
    assert [entry["key"] for entry in panel.frontier] == [".".join(map(str, p.ids)) for p in run.frontier]
    np.testing.assert_allclose([e["y"] for e in panel.frontier], run.frontier.values, rtol=1e-5)
    np.testing.assert_allclose([e["x"] for e in panel.frontier], run.frontier.cross_entropies, rtol=1e-5)
    assert [p[3] for p in panel.population] == [p.text for p in run.population]
    assert panel.restarts == [[i, pytest.approx(w, rel=1e-3)] for i, w in run.history.restarts]
    growth = run.evolution()
    assert panel.growth["iteration"] == growth["iteration"].tolist()
    np.testing.assert_allclose(panel.growth["best"], growth["best_value"], rtol=1e-4)
    assert all(plain(value) for name, value in panel.get_state().items() if not name.startswith("_"))


OTHERS = [
    dl.FrontierSearch(children=8, parents=2, samples=8, length=4),
    dl.RandomSearch(children=8, length=4),
]


@pytest.mark.parametrize("search", OTHERS, ids=lambda search: search.name)
@pytest.mark.parametrize("budget", [{"prompts": 500}, {"seconds": 0.3}, {"until": 0.9}], ids=str)
def test_a_run_of_another_search_that_a_budget_ends_is_shown_everywhere(gpt2, search, budget):
    run = dl.dream(FEATURE, gpt2.bridge, search=search, **budget, wait=False, progress=False)
    panel, several = DreamPanel(run), RunsPanel([run])
    run.wait()
    panel.update()
    several.update()
    assert panel.status == "done" and panel.step == panel.steps == several.steps == run.iteration
    assert panel.population == [] == run.population and panel.restarts == [] and panel.previous is None
    assert len(panel.frontier) == len(run.frontier) > 0 and panel.budget == {}
    unlimited = "1000000000"
    for page in (run.to_html(), run.to_html(static=True), frozen_run(run), several.to_html(), run._repr_html_()):
        assert unlimited not in page and "1,000,000,000" not in page
    assert f"<dt>search</dt><dd>{type(search).__name__}</dd>" in run.to_html(static=True)
    (name,) = budget
    assert f"<dt>{name}</dt><dd>{getattr(run.config, name)}</dd>" in run.to_html()
    assert "<dt>seconds taken</dt>" in run.to_html() and unlimited not in repr(run) + str(run)
    figure = dl.figures.evolution_figure(run.history)
    assert len(figure.data) == 2 and len(run.evolution()) == run.iteration + 1
    if run.iteration:
        dl.figures.frontiers_figure(run.history)


def paused_at(run, iteration):
    """Pause a run in the background once it has completed an iteration."""
    reached = threading.Event()
    leave = run.listen(lambda run: (run.pause(), reached.set()) if run.so_far.iteration >= iteration else None, every=0)
    assert reached.wait(20)
    leave()
    while run.status != "paused":
        time.sleep(0.01)
    return run


@pytest.mark.parametrize("search", OTHERS, ids=lambda search: search.name)
def test_what_is_left_of_a_budget_is_shown(gpt2, search):
    settings = {"search": search, "wait": False, "progress": False}
    run = paused_at(dl.dream(FEATURE, gpt2.bridge, prompts=100_000, **settings), 5)
    panel, several = DreamPanel(run), RunsPanel([run])
    assert panel.steps == several.steps == 0 and panel.budget == {"prompts": 100_000}
    assert panel.used == several.used == pytest.approx(len(run.so_far.history) / 100_000, abs=1e-4)
    history = run.so_far.history
    assert panel.left > 0.5 * (100_000 - len(history)) / len(history) * float(np.median(np.diff(history.seconds)))
    assert " of 1" not in panel.title and "of 100,000 prompts" in run.budget_text
    run.stop().wait()
    panel.update()
    assert panel.status == "stopped" and panel.left == 0 and panel.steps == 0
    assert "1000000000" not in run.to_html() + run.to_html(static=True) + frozen_run(run) + repr(run) + str(run)
    timed = paused_at(dl.dream(FEATURE, gpt2.bridge, seconds=500, iterations=10_000, **settings), 1)
    panel = DreamPanel(timed)
    assert panel.steps == 10_000 and panel.budget == {"seconds": 500} and 0 <= panel.left <= 500
    assert panel.used == pytest.approx(max(panel.step / 10_000, timed.so_far.history.seconds[-1] / 500), abs=1e-4)
    timed.stop().wait()
    open_ended = paused_at(dl.dream(FEATURE, gpt2.bridge, until=1e-9, **settings), 1)
    panel = DreamPanel(open_ended)
    assert (panel.steps, panel.used, panel.left, panel.budget) == (0, -1.0, -1.0, {})
    open_ended.stop().wait()


def test_a_panel_gives_the_values_a_scale_when_it_is_asked_to(gpt2, run, monkeypatch):
    panel = DreamPanel(run)
    assert panel.calibration == {}
    Heard(panel, monkeypatch)
    panel._handler.hear(panel, {"type": "calibrate"})
    run.ask(lambda: None).result()
    ((name, title, mean, deviation),) = panel.calibration["scales"]
    assert name == "z, random" and title.startswith("standard deviations above the mean of 1,024 random prompts: ")
    assert panel.calibration["fluency"] == ""
    assert (mean, deviation) == pytest.approx((run.baselines.random.mean, run.baselines.random.deviation), rel=1e-5)
    dl.baselines(run, corpus=["The dog runs over the hill and the cat sleeps."], prompts=8, fluency_model=gpt2.bridge)
    panel.update()
    assert [scale[0] for scale in panel.calibration["scales"]] == ["z, random", "z, corpus"]
    assert set(panel.calibration["held"]) == {entry["key"] for entry in panel.frontier} and plain(panel.calibration)
    assert frozen_state(frozen_run(run))["calibration"] == panel.calibration


def test_a_panel_follows_a_run_step_by_step(gpt2):
    """Every state it shows is one that the run was in."""
    seen = []
    run = dream(gpt2.bridge, wait=False)
    run.pause()
    panel = DreamPanel(run)
    panel.observe(lambda change: seen.append((change["new"], run.worker.is_mine)), "step")
    run.resume()
    run.wait()
    run.ask(lambda: None).result()
    assert panel.status == "done" and panel.step == 8 and all(mine for _, mine in seen)
    assert [step for step, _ in seen] == sorted(step for step, _ in seen)
    assert [e["key"] for e in panel.frontier] == [state.key(p.ids) for p in run.frontier]


def test_the_frontier_of_any_moment_can_be_worked_out_from_the_past(run):
    past, history = RunFollower(run).past(), run.history
    points = past["points"]
    for t in range(history.iterations + 1):
        then = [p for p in points if p[2] <= t]
        rows = non_dominated([p[1] for p in then], [p[0] for p in then])
        at = history.frontier_rows(t)
        np.testing.assert_allclose([then[i][1] for i in rows], history.value[at], rtol=1e-3)
        assert [past["texts"][then[i][3]] for i in rows] == [run._decoder.text(ids) for ids in history.ids[at].tolist()]
    assert set(past["population"]) == {str(t) for t in range(9)} and plain(past)


def test_the_earlier_frontier_is_the_one_before_the_last_restart(run):
    panel, (iteration, _) = DreamPanel(run), run.history.restarts[-1]
    rows = run.history.frontier_rows(iteration - 1)
    assert panel.previous["iteration"] == iteration - 1 == 6
    np.testing.assert_allclose([y for _, y in panel.previous["points"]], run.history.value[rows], rtol=1e-4)


# What is asked.


def test_a_look_is_answered_with_scores_then_few_substitutes_then_all_then_values_at_every_position(run, monkeypatch):
    panel = DreamPanel(run)
    heard = Heard(panel, monkeypatch)
    prompt = run.frontier[0]
    panel._handler.hear(panel, {"type": "look", "id": 1, "ids": list(prompt.ids)})
    run.ask(lambda: None).result()
    first, quick, second, third = (one["found"] for one in heard.answers(1))
    assert first["value"] == pytest.approx(prompt.value, rel=1e-3) and first["subs"] is None
    assert [one["tried"] for one in (first, quick, second, third)] == [None, QUICK, SUBSTITUTES, SUBSTITUTES]
    assert [one["partial"] for one in (first, quick, second, third)] == [False, True, False, False]
    assert inspector_of(run).known == {first["key"]: third}
    attribution = prompt.attribution()
    np.testing.assert_allclose(second["drop"], attribution.drop_to_worst, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(second["floor"], attribution.drop_to_best, rtol=1e-3, atol=1e-4)
    best = attribution.top(2)[0]
    assert second["subs"][2][0][:2] == [best.token, best.token_id] and second["series"] is None
    scorer = run.session.scorer
    values = [float(scorer.values(np.array(prompt.ids[:end]))[0]) for end in range(1, 6)]
    np.testing.assert_allclose(third["series"], values, rtol=1e-3, atol=1e-5)
    assert all(plain(one) for one in heard.said)


def test_the_quick_strip_is_of_substitutes_that_the_whole_one_has_too(run, monkeypatch):
    panel = DreamPanel(run)
    heard = Heard(panel, monkeypatch)
    ids = list(run.frontier[0].ids)
    panel._handler.hear(panel, {"type": "look", "id": 1, "ids": ids})
    run.ask(lambda: None).result()
    _, quick, whole, _ = (one["found"] for one in heard.answers(1))
    for few, every in zip(quick["subs"], whole["subs"], strict=True):
        assert 0 < len(few) <= QUICK < len(every) and all(one in every for one in few)
        assert few[0][2] <= every[0][2] and few[-1][2] >= every[-1][2]
    assert (quick["value"], quick["ce"]) == (whole["value"], whole["ce"])
    assert all(a <= b for a, b in zip(quick["drop"], whole["drop"], strict=True))
    assert all(a >= b for a, b in zip(quick["floor"], whole["floor"], strict=True))
    same_all_at_once = run.attribution(ids, k=SUBSTITUTES)
    np.testing.assert_allclose(whole["drop"], same_all_at_once.drop_to_worst, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("asked_after", [1, 2, 3])
def test_what_is_asked_between_two_answers_ends_the_first_question(run, monkeypatch, asked_after):
    panel = DreamPanel(run)
    heard, ids = Heard(panel, monkeypatch), list(run.frontier[0].ids)
    say = panel.send

    def then_ask(message):
        say(message)
        if len(heard.answers(1)) == asked_after and message["id"] == 1:
            panel._handler.hear(panel, {"type": "look", "id": 2, "ids": ids[::-1]})

    panel._handler._send = then_ask
    panel._handler.hear(panel, {"type": "look", "id": 1, "ids": ids})
    run.ask(lambda: None).result()
    assert len(heard.answers(1)) == asked_after and len(heard.answers(2)) == 4
    # What was known when it ended is kept only if it was of all substitutes.
    assert [one["tried"] for one in inspector_of(run).known.values()] == [SUBSTITUTES] * (2 if asked_after == 3 else 1)
    panel._handler.hear(panel, {"type": "look", "id": 3, "ids": ids})
    run.ask(lambda: None).result()
    assert [one["found"]["tried"] for one in heard.answers(3)][-1] == SUBSTITUTES
    assert len(heard.answers(3)) == (2 if asked_after == 3 else 4)


def test_a_frozen_run_has_no_quick_strip(run):
    panel = DreamPanel(run)
    seen = []
    panel._handler._send = lambda message: seen.append((panel.to_html(), dict(panel.attributions)))
    panel._handler.hear(panel, {"type": "look", "id": 1, "ids": list(run.frontier[0].ids)})
    run.ask(lambda: None).result()
    assert [len(known) for _, known in seen] == [0, 0, 1, 1]


def test_a_token_or_a_whole_prompt_can_be_typed(gpt2, run, monkeypatch):
    panel = DreamPanel(run)
    heard = Heard(panel, monkeypatch)
    vocabulary, ids = run.session.scorer.vocabulary, list(run.frontier[0].ids)
    panel._handler.hear(panel, {"type": "try", "id": 1, "ids": ids, "position": 1, "text": vocabulary.text([40, 41])})
    panel._handler.hear(panel, {"type": "edit", "id": 2, "text": vocabulary.text([50, 51, 52])})
    run.ask(lambda: None).result()
    put = vocabulary.encode(vocabulary.text([40, 41]))
    (tried, *_), typed = heard.answers(1), heard.answers(2)[-1]
    assert tried["found"]["ids"] == [ids[0], *put, *ids[2:]]
    one = dl.score(FEATURE, [np.array(tried["found"]["ids"])], gpt2.bridge)
    assert tried["found"]["value"] == pytest.approx(float(one.value[0]), rel=1e-4)
    assert tried["found"]["ce"] == pytest.approx(float(one.cross_entropy[0]), rel=1e-4)
    assert typed["found"]["ids"] == vocabulary.encode(vocabulary.text([50, 51, 52])) and typed["found"]["drop"]
    # The second question came before the first was answered whole, so the rest of that answer was not worked out.
    assert len(heard.answers(1)) == 1


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"type": "edit", "text": ""}, "at least one token"),
        ({"type": "edit", "text": "a " * 500}, "context is"),
        ({"type": "look", "ids": [10**7]}, "10000000"),
        ({"type": "look", "ids": []}, "at least one token"),
    ],
)
def test_bad_questions_are_answered_with_a_sentence(run, monkeypatch, message, said):
    panel = DreamPanel(run)
    heard = Heard(panel, monkeypatch)
    panel._handler.hear(panel, {**message, "id": 5})
    run.ask(lambda: None).result()
    (answer,) = heard.answers(5)
    assert said in answer["error"]


def test_nonsense_is_not_answered_and_breaks_nothing(run, monkeypatch):
    panel = DreamPanel(run)
    heard = Heard(panel, monkeypatch)
    for message in (None, "stop", {}, {"type": "quit"}, {"type": ["look"]} | {"type": "lo"}):
        panel._handler.hear(panel, message)
    assert not heard.said


def test_pause_resume_and_stop_from_a_panel(gpt2):
    run = dream(gpt2.bridge, iterations=10_000, wait=False)
    panel = DreamPanel(run)
    reached = {name: threading.Event() for name in ("paused", "running", "stopped")}
    run.listen(lambda run: reached[run.status].set() if run.status in reached else None, every=0.0)
    panel._handler.hear(panel, {"type": "pause"})
    assert reached["paused"].wait(20)
    reached["running"].clear()
    panel._handler.hear(panel, {"type": "resume"})
    assert reached["running"].wait(20)
    panel._handler.hear(panel, {"type": "stop"})
    assert run.wait(20).status == "stopped"
    run.ask(lambda: None).result()
    assert panel.status == "stopped" and len(run.frontier)


def test_going_on_from_a_panel_is_the_run_that_never_stopped(gpt2):
    run = dream(gpt2.bridge)
    panel = DreamPanel(run)
    panel._handler.hear(panel, {"type": "more", "iterations": 4})
    run.ask(lambda: None).result()
    assert run.wait().iteration == 12
    run.ask(lambda: None).result()
    assert panel.step == panel.steps == 12 and panel.status == "done"
    same(run.history, dream(gpt2.bridge, iterations=12).history)


def test_a_new_dream_can_start_from_a_prompt_of_a_panel(gpt2, run):
    panel = DreamPanel(run)
    ids = list(run.frontier[-1].ids)[:4]
    panel._handler.hear(panel, {"type": "start", "ids": ids})
    run.ask(lambda: None).result()
    (started,) = panel.started
    started.wait()
    assert started.history.ids[0].tolist() == ids and started.config.length == 4
    same(started.history, dream(gpt2.bridge, start=[ids], length=4).history)


def test_a_started_run_says_where_it_started(gpt2, run, tmp_path):
    panel, prompt = DreamPanel(run), run.frontier[-1]
    panel._handler.hear(panel, {"type": "start", "ids": list(prompt.ids)})
    run.ask(lambda: None).result()
    (started,) = panel.started
    started.wait()
    assert "from" not in panel.subtitle and run.start_text == ""
    shown = prompt.text.removeprefix(" ")
    assert started.start_text == f"“{shown}”"
    assert DreamPanel(started).subtitle.endswith(f" tokens · from: “{shown}”")
    assert f"<dt>start</dt><dd>{escape(started.start_text)}</dd>" in started.to_html(static=True)
    started.save(tmp_path / "run")
    again = dl.load_run(tmp_path / "run", gpt2.bridge)  # a title loads no model
    assert again.start_text in (started.start_text, f"a prompt of {started.config.length} tokens")
    assert not again.has_session and again.session and again.start_text == started.start_text
    several = dream(gpt2.bridge, start=[[1, 2], [3, 4]], length=2, iterations=1)
    assert DreamPanel(several).subtitle.endswith("from: 2 prompts")
    long = dream(gpt2.bridge, start=[[262] * 60], length=60, iterations=0)
    assert len(long.start_text) <= 83 and long.start_text.endswith("…”")


# What is picked and edited.


def expected_pick(frontier) -> str:
    fluent = [p for p in frontier if p.cross_entropy <= 5]
    return state.key((fluent[-1] if fluent else frontier[len(frontier) // 2]).ids)


def test_the_best_fluent_prompt_is_picked_when_a_run_has_ended(gpt2, monkeypatch):
    run = dream(gpt2.bridge, wait=False)
    run.pause()
    panel, several = DreamPanel(run), RunsPanel([run])
    chosen = DreamPanel(run)
    assert panel.picked == several.picked == ""
    chosen.picked = "1.2.3"
    run.resume()
    run.wait()
    run.ask(lambda: None).result()
    assert panel.picked == several.picked == DreamPanel(run).picked == expected_pick(run.frontier)
    assert chosen.picked == "1.2.3"  # what the user picked stays
    for futures in (panel.prepare(), several.prepare()):
        for future in futures:
            future.result()
    for page in (panel.to_html(), several.to_html(), frozen_run(run), run.to_html()):
        shown = frozen_state(page)
        assert shown["picked"] == panel.picked and shown["attributions"][panel.picked]["subs"]


def test_the_pick_is_fluent_or_in_the_middle():
    origin = Provenance("f", "m", 0, 0, True)
    prompts = [Prompt((i,), ("a",), "a", float(i), 3.0 + i, True, origin) for i in range(5)]
    assert Frontier(prompts).representative() == prompts[2]
    assert Frontier(prompts[3:]).representative() == prompts[4] and Frontier([]).representative() is None


def test_what_is_edited_is_kept_in_the_frozen_view(run):
    panel = DreamPanel(run)
    base = inspector_of(run).attribution(np.array(run.frontier[0].ids))
    new = inspector_of(run).attribution(np.array([*run.frontier[0].ids[:-1], 7]))
    step = {name: new[name] for name in ("key", "ids", "tokens", "text", "trips", "value", "ce")}
    edit = {"base": {**step, "key": base["key"]}, "now": step, "trail": [], "chosen": 1, "grid": False, "typed": {}}
    panel.view_state = {"at": 3, "edits": {base["key"]: edit}}
    for one, view_state in ((panel, panel.view_state), (RunsPanel([run]), panel.view_state)):
        one.view_state = view_state
        shown = frozen_state(one.to_html())
        assert shown["view_state"] == view_state and shown["attributions"][new["key"]]["subs"]
        assert new["key"] in one.attributions
    explored = AttributionPanel(FEATURE, [1, 2, 3], run.session.scorer.model)
    explored.view_state = panel.view_state
    assert frozen_state(explored.to_html())["view_state"] == panel.view_state


def test_a_live_view_knows_the_ids_of_the_past_and_a_page_its_texts(run):
    past = RunFollower(run).past()
    ids = {tuple(row) for row in past["ids"]}
    assert len(past["ids"]) == len(past["texts"]) == len(ids)
    assert {p.ids for p in run.frontier} <= ids
    kept = frozen_state(frozen_run(run))["past"]
    assert "ids" not in kept and kept["texts"] == past["texts"]


def test_a_view_that_fails_ends_nothing(gpt2, monkeypatch, caplog):
    whole = dream(gpt2.bridge)
    run = dream(gpt2.bridge, wait=False)
    run.pause()
    panel = DreamPanel(run)
    monkeypatch.setattr(panel, "update", lambda: 1 / 0)
    run.resume()
    same(run.history, whole.history)
    assert "not called again" in caplog.text


def test_a_panel_does_not_keep_a_run_or_its_model(gpt2, monkeypatch):
    """ipywidgets keeps every widget; what is large goes all the same."""
    run = dream(gpt2.bridge)
    panel = DreamPanel(run)
    for future in panel.prepare():
        future.result()
    heard, there = Heard(panel, monkeypatch), weakref.ref(run)
    run.ask(lambda: None).result()
    del run
    gc.collect()
    assert there() is None
    panel._handler.hear(panel, {"type": "look", "id": 1, "ids": [1, 2]})
    assert "This run is no longer in the kernel's memory." in heard.said[0]["text"]


# Frozen.


def test_a_frozen_run_has_its_prompts_and_says_so_without_a_script(run):
    html = frozen_run(run)
    assert html.index("<table") < html.index('<script type="module">') and len(html) < 100_000


def test_the_attributions_of_a_frozen_run_are_spread_over_its_frontier(run):
    panel = DreamPanel(run)
    for future in panel.prepare():
        future.result()
    known = inspector_of(run).known
    assert {state.key(p.ids) for p in run.frontier.spread(20)} <= set(known)
    assert all(one["series"] for one in known.values())
    assert not panel.prepare()  # nothing is worked out twice
    page = run.to_html()
    assert page.startswith("<!DOCTYPE html>") and "script-src" in page
    assert "<script" not in run.to_html(static=True)


def test_substitutes_that_are_kept_are_the_best_and_the_worst(run):
    one = inspector_of(run).attribution(np.array(run.frontier[0].ids))
    few = state.trimmed(one, 3, 2)
    for kept, row in zip(few["subs"], one["subs"], strict=True):
        assert kept == [*row[:3], *row[-2:]] and [s[2] for s in row] == sorted((s[2] for s in row), reverse=True)


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


# The cloud.


def test_the_cloud_keeps_the_outline_and_is_small(run):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=40_000), rng.normal(size=40_000)
    kept = state.outlined(x, y)
    assert len(kept) == len(set(kept.tolist())) <= state.CLOUD and (np.diff(kept) > 0).all()
    for values in (x, y, x + y, x - y):  # from every side, and from the corners
        assert values[kept].max() > 0.97 * values.max() and values[kept].min() < 0.97 * values.min()
    assert state.outlined(x[:5], y[:5]).tolist() == [0, 1, 2, 3, 4]
    same = np.zeros(5000)
    assert 0 < len(state.outlined(same, same)) <= state.CLOUD


def test_a_panel_sends_the_cloud_when_it_is_asked_and_a_frozen_view_keeps_it(run):
    panel = DreamPanel(run)
    assert panel.cloud is None
    panel._handler.hear(panel, {"type": "cloud"})
    run.ask(lambda: None).result()
    kept = frozen_state(panel.to_html())["cloud"]
    assert panel.cloud == kept and kept["of"] == np.isfinite(run.history.value).sum()
    assert len(kept["data"]) == 6 * kept["at"]
    assert kept["at"] == min(kept["of"], state.CLOUD)


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

"""The panel of a run shows it as it is, live and frozen."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.panels import (
    DreamPanel,
    RunsPanel,
    frozen_run,
    inspector_of,
    state,
)
from dreamy_lens.panels.follower import RunFollower
from dreamy_lens.search import non_dominated
from tests.helpers.dreams import dream
from tests.helpers.frozen_pages import frozen_state
from tests.helpers.panel_messages import Heard, plain

FEATURE = "L1.N3"


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

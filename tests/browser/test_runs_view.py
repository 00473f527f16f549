"""Several runs in one view: whose prompt it is, which feature is shown, and what stays as they go on."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.fake_states import found, runs_state
from tests.browser.mounted import Mounted
from tests.browser.test_dream_view import column, keys, number

Mount = Callable[..., Mounted]
TWO = ("L2.N812", "L3.N5")


def of(state: dict[str, Any], number: int) -> list[dict[str, Any]]:
    return state["runs"][number]["frontier"]


def pick(view: Mounted, key: str) -> None:
    view.find(f'.dlp-table tr[data-key="{key}"]').click()
    view.frames()


def shared() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Two runs of two features that have a prompt in common, which has another value for each."""
    state = runs_state(1, TWO, step=40, attributions={})
    first = of(state, 0)[0]
    second = {**copy.deepcopy(first), "y": first["y"] + 0.5, "x": first["x"]}
    state["runs"][1]["frontier"] = [second, *(e for e in of(state, 1) if e["x"] > first["x"] and e["y"] > second["y"])]
    return state, first, second


@pytest.mark.parametrize(
    ("status", "words", "buttons"),
    [
        ("ready", "starting", ["Pause all", "Stop all"]),
        ("running", "dreaming", ["Pause all", "Stop all"]),
        ("paused", "paused", ["Resume all", "Stop all"]),
        ("stopped", "stopped", []),
        ("done", "done", []),
        ("failed", "failed", []),
    ],
)
def test_every_status_has_its_words_and_buttons(mount: Mount, status: str, words: str, buttons: list[str]):
    view = mount(
        "runs", runs_state(2, step=20, status=status, error="OSError: disk full" if status == "failed" else "")
    )
    assert view.text(".dlp-state").startswith(f"{words} · iteration 20 of 300 · 10,242 prompts")
    assert view.find(".dlp-bar button").all_inner_texts() == [*buttons, "Copy as Python"]
    assert view.find(".dlp-wrong").first.is_visible() == (status == "failed")


def test_runs_without_a_limit_of_iterations_show_the_share_of_their_budget(mount: Mount):
    view = mount("runs", runs_state(2, step=20, steps=0, used=0.257, status="running"))
    assert view.text(".dlp-state") == "dreaming · iteration 20 · 10,242 prompts · 25 % of the budget"
    assert view.find("progress").evaluate("(bar) => bar.value") == 0.257
    view.change(used=-1, step=20)
    assert view.text(".dlp-state") == "dreaming · iteration 20 · 10,242 prompts"
    assert view.find("progress").evaluate("(bar) => bar.position") == -1
    view.change(status="done", steps=23, step=23)
    assert view.text(".dlp-state") == "done · iteration 23 of 23 · 10,242 prompts"


def test_nothing_is_known_yet(mount: Mount):
    state = runs_state(2, step=1, status="ready", attributions={})
    for run in state["runs"]:
        run.update(frontier=[], evaluated=0, step=0)
    view = mount("runs", state)
    assert view.find(".dlp-plot text").text_content() == "The frontiers grow here."
    assert "The prompts of the merged frontier appear here." in view.text(".dlp-table") and view.sent() == []


def test_what_is_picked_is_asked_of_the_run_that_found_it_also_when_it_is_beaten_since(mount: Mount):
    state = runs_state(3, step=40, attributions={})
    rows = {e["key"]: number for number in range(3) for e in of(state, number)}
    view = mount("runs", state)
    key = next(key for key in keys(view) if rows[key] == 2)
    pick(view, key)
    assert [(m["type"], m["run"]) for m in view.sent()] == [("look", 2)]
    later = copy.deepcopy(state["runs"])
    later[2]["frontier"] = [e for e in later[2]["frontier"] if e["key"] != key]
    view.change(runs=later, step=41)
    assert view.find(".dlp-token").count() == 12
    box = view.page.get_by_label("edit the whole prompt")
    box.fill(" something else")
    box.press("Enter")
    assert [(m["type"], m["run"]) for m in view.sent()] == [("look", 2), ("edit", 2)]
    view.button("Dream from here").click()
    assert view.sent("start")[0]["run"] == 2


def test_a_question_is_asked_once_however_often_the_frontiers_come(mount: Mount):
    state = runs_state(2, step=40, attributions={})
    view = mount("runs", state)
    pick(view, keys(view)[1])
    for step in range(41, 46):
        view.change(runs=copy.deepcopy(state["runs"]), step=step)
    assert len(view.sent("look")) == 1


def test_the_same_prompt_under_two_features_is_not_mistaken(mount: Mount):
    state, first, second = shared()
    known = [found(e, random.Random(3)) for e in (first, second)]
    view = mount("runs", state)
    pick(view, first["key"])
    view.say(type="answer", id=view.sent()[-1]["id"], found=known[0])
    assert view.find(".dlp-token > small").count() == 12
    view.page.get_by_label("feature").select_option(label=TWO[1])
    view.frames()
    (_, asked) = view.sent("look")
    assert asked["run"] == 1 and asked["ids"] == second["ids"]
    assert view.find(".dlp-token > small").count() == 0
    view.say(type="answer", id=asked["id"], found=known[1])
    assert number(view.text(".dlp-numbers b")) == pytest.approx(second["y"], abs=1e-3)
    view.page.get_by_label("feature").select_option(label=TWO[0])
    view.frames()
    assert len(view.sent("look")) == 2  # both are known now
    assert number(view.text(".dlp-numbers b")) == pytest.approx(first["y"], abs=1e-3)


def test_it_opens_at_the_feature_of_what_is_picked(mount: Mount):
    state = runs_state(1, TWO, step=40)
    key = of(state, 1)[2]["key"]
    view = mount("runs", {**state, "picked": key})
    assert view.page.get_by_label("feature").input_value() == "1"
    assert view.find(".dlp-table tr.dlp-on").get_attribute("data-key") == key
    view.change(picked=of(state, 0)[1]["key"])
    assert view.page.get_by_label("feature").input_value() == "0" and view.find(".dlp-table tr.dlp-on").count() == 1


def test_another_feature_lets_go_of_the_prompt_that_is_not_its_own(mount: Mount):
    state = runs_state(1, TWO, step=40)
    view = mount("runs", state)
    pick(view, of(state, 0)[0]["key"])
    view.page.get_by_label("feature").focus()
    view.page.get_by_label("feature").select_option(label=TWO[1])
    view.frames()
    assert view.find(".dlp-token").count() == 0 and "Pick a point" in view.text(".dlp-one")
    assert view.page.evaluate("() => document.activeElement.tagName") == "SELECT"


def test_one_run_alone_and_all_again_by_keys(mount: Mount):
    state = runs_state(3, step=40)
    view = mount("runs", state)
    everyone = keys(view)
    view.button("seed 1").focus()
    view.page.keyboard.press("Enter")
    view.frames()
    assert keys(view) == [e["key"] for e in of(state, 1)] and view.focused == "seed 1"
    assert view.find(".dlp-line.dlp-run").count() == 1
    view.change(step=41, runs=copy.deepcopy(state["runs"]))
    assert keys(view) == [e["key"] for e in of(state, 1)] and view.focused == "seed 1"
    view.page.keyboard.press("Enter")
    view.frames()
    assert keys(view) == everyone and view.button("All runs").get_attribute("aria-pressed") == "true"


def test_the_merged_table_sorts_by_run(mount: Mount):
    view = mount("runs", runs_state(3, step=40))
    view.find("[data-by=run]").click()
    assert column(view, "run") == sorted(column(view, "run"))
    view.find("[data-by=run]").click()
    assert column(view, "run") == sorted(column(view, "run"), reverse=True)


def test_many_runs_are_told_apart_by_more_than_colour(mount: Mount):
    view = mount("runs", runs_state(6, step=20))
    style = "(all) => all.map((one) => getComputedStyle(one).strokeDasharray)"
    assert len(set(view.find(".dlp-line.dlp-run").evaluate_all(style))) == 6


def test_pausing_keeps_the_focus_and_stopping_leaves_it_where_enter_does_nothing(mount: Mount):
    view = mount("runs", runs_state(2, step=20))
    view.button("Pause all").focus()
    view.page.keyboard.press("Enter")
    view.change(status="paused")
    assert view.focused == "Resume all"
    view.button("Stop all").focus()
    view.page.keyboard.press("Enter")
    view.change(status="stopped")
    assert view.focused.startswith("stopped · ") and view.text("[aria-live=polite].dlp-away") == "stopped"
    view.page.keyboard.press("Enter")
    assert view.sent() == [{"type": "pause"}, {"type": "stop"}]


def test_every_way_of_picking_writes_it_once(mount: Mount):
    state = runs_state(2, step=40)
    view = mount("runs", state)
    rows, front = view.find(".dlp-table tbody tr"), keys(view)
    rows.nth(1).click()
    view.frames()
    view.page.keyboard.press("ArrowDown")
    view.frames()
    view.find(f'.dlp-dot[data-key="{front[2]}"]').focus()
    view.page.keyboard.press("ArrowRight")
    view.frames()
    view.page.keyboard.press("Enter")
    view.frames()
    view.find(".dlp-dot").nth(0).click(force=True)
    view.frames()
    assert view.page.evaluate("() => host.saved") == [["picked", front[i]] for i in (1, 2, 3, 3, 0)]


def starred(view: Mounted) -> dict[str, Any]:
    return view.page.evaluate("() => host.state.view_state.stars ?? {}")


def test_prompts_are_starred_for_the_feature_and_the_run_that_they_are_of(mount: Mount):
    state, first, second = shared()
    view = mount("runs", {**state, "picked": first["key"]})
    view.button("☆ Star").click()
    view.frames()
    stars = starred(view)
    assert list(stars) == [f"0 {first['key']}"] and stars[f"0 {first['key']}"]["run"] == 0
    assert view.find(".dlp-table .dlp-star").count() == 1
    view.find(".dlp-starred input").click()
    assert column(view, "run") == [state["runs"][0]["name"]]
    assert [number(value) for value in column(view, "value")] == [pytest.approx(first["y"], rel=1e-3)]
    view.find(".dlp-choice select").select_option(label=state["groups"][1])
    view.frames()
    assert view.find(".dlp-star").count() == 0 and view.find(".dlp-starred").count() == 0  # it has none of its own
    pick(view, second["key"])
    view.button("☆ Star").click()
    view.frames()
    assert starred(view)[f"1 {second['key']}"]["run"] == 1
    view.button("★ Starred").click()
    view.frames()
    assert list(starred(view)) == [f"0 {first['key']}"]

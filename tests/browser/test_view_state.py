"""What a user sets and edits in a view stays when the notebook draws the view again, and when it freezes."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest

from dreamy_lens.panels.frozen import frozen
from tests.browser.fake_states import attribution_state, entry, found, frontier_of, run_state, runs_state
from tests.browser.mounted import Mounted
from tests.browser.test_dream_view import column, keys, number, slide
from tests.browser.test_prompt_view import changed, numbers, tokens

Mount = Callable[..., Mounted]
LIMIT, TIMES = ".dlp-row input[type=range]", ".dlp-times input"
BOX = "maximum cross-entropy, as a number"


def stood(state: dict[str, Any], iteration: int) -> list[dict[str, Any]]:
    """The frontier after an iteration, as entries with keys."""
    past = state["past"]
    points = [p for p in past["points"] if p[2] <= iteration]
    return frontier_of([entry(past["ids"][text], x, y, it) for x, y, it, text in points])


def gone(state: dict[str, Any], iteration: int) -> dict[str, Any]:
    """A prompt that was on the frontier after an iteration, and is not any more."""
    now = {e["key"] for e in state["frontier"]}
    return next(e for e in stood(state, iteration)[2:] if e["key"] not in now)


# Picking at any iteration.


@pytest.mark.parametrize("by", ["row", "point"])
def test_what_is_shown_of_the_past_can_be_picked(mount: Mount, by: str):
    state = run_state(120)
    view, one = mount("dream", state), gone(state, 50)
    slide(view, TIMES, 50)
    assert keys(view) == [e["key"] for e in stood(state, 50)]
    if by == "row":
        view.find(f".dlp-table tr[data-key='{one['key']}']").click()
    else:
        view.find(f".dlp-dot[data-key='{one['key']}']").click(force=True)
    view.frames()
    assert view.saved()["picked"] == one["key"] and [m["ids"] for m in view.sent("look")] == [one["ids"]]
    assert view.find(".dlp-dot.dlp-on").get_attribute("data-key") == one["key"]
    assert view.find(".dlp-table tr.dlp-on").get_attribute("data-key") == one["key"]
    view.say(type="answer", id=view.sent("look")[0]["id"], found=found(one, random.Random(0)))
    assert tokens(view) == [t.replace("\n", "↵") for t in one["tokens"]]
    view.button("now").click()
    view.frames()
    assert view.find(".dlp-stray .dlp-ring").count() == 1 and "not on the frontier shown" in view.text(".dlp-numbers")
    view.again()
    assert view.find(".dlp-stray .dlp-ring").count() == 1 and len(tokens(view)) == 12  # and it is still picked


def test_the_past_of_a_page_can_be_picked_too(mount: Mount):
    state = run_state(60, steps=60, live=False)
    for past in ({**state["past"], "ids": None}, {**state["past"], "ids": None, "texts": []}):
        if not past["texts"]:
            past["points"] = [p[:3] for p in past["points"]]
        view = mount("dream", {**state, "past": past})
        slide(view, TIMES, 20)
        at, one = next((i, e) for i, e in enumerate(stood(state, 20)) if e not in state["frontier"])
        view.find(".dlp-table tbody tr").nth(at).click()
        view.frames()
        assert view.find(".dlp-dot.dlp-on").count() == view.find(".dlp-ring").count() == 1
        assert numbers(view)[1] == f"{one['x']:.2f} cross-entropy"
        assert "Only the text and the scores" in view.text(".dlp-legend")
        assert not view.button("copy as ids").count() and view.find("tr.dlp-on").count() == 1


def test_every_row_and_point_that_looks_clickable_is(mount: Mount):
    state = run_state(60, steps=60, live=False)
    past = {**state["past"], "ids": None, "texts": [], "points": [p[:3] for p in state["past"]["points"]]}
    view = mount("dream", {**state, "past": past})
    for iteration in (0, 20, 40):
        slide(view, TIMES, iteration)
        assert view.find(".dlp-table tr[data-key='']").count() == view.find(".dlp-dot[data-key='']").count() == 0
        for row in range(view.find(".dlp-table tbody tr").count()):
            view.find(".dlp-table tbody tr").nth(row).click()
            view.frames()
            assert view.find(".dlp-table tbody tr").nth(row).get_attribute("aria-selected") == "true"


@pytest.mark.parametrize("kind", ["dream", "runs"])
def test_a_picked_prompt_that_leaves_the_frontier_keeps_its_ring(mount: Mount, kind: str):
    state = run_state(60) if kind == "dream" else runs_state(2, step=60)
    view = mount(kind, state)
    key = keys(view)[3]
    view.find(f".dlp-table tr[data-key='{key}']").click()
    view.frames()
    without = lambda front: [e for e in front if e["key"] != key]  # noqa: E731
    if kind == "dream":
        view.change(frontier=without(state["frontier"]))
    else:
        view.change(runs=[{**run, "frontier": without(run["frontier"])} for run in copy.deepcopy(state["runs"])])
    assert key not in keys(view) and view.find(".dlp-stray .dlp-ring").count() == 1
    assert view.find(".dlp-dot.dlp-on").count() == 0
    view.again()
    assert view.find(".dlp-stray .dlp-ring").count() == 1 and len(tokens(view)) == 12


def test_the_best_under_a_limit_is_that_of_the_iteration_shown(mount: Mount):
    state = run_state(120)
    view = mount("dream", state)
    slide(view, LIMIT, 5.0)
    for iteration in (80, 50, 20):
        slide(view, TIMES, iteration)
        best = [e for e in stood(state, iteration) if e["x"] <= 5.0][-1]
        said = view.text(".dlp-row output")
        assert said.startswith(f"Best under 5.00 after iteration {iteration}: value ")
        assert number(said.split()[-1]) == pytest.approx(best["y"], abs=1e-3)
        assert view.saved()["picked"] == best["key"]
        assert view.find(".dlp-dot.dlp-on").get_attribute("data-key") == best["key"]
        assert view.find(LIMIT).input_value() == "5"
    first = stood(state, 20)[0]
    view.find(f".dlp-table tr[data-key='{first['key']}']").click()
    slide(view, TIMES, 50)
    assert view.saved()["picked"] == first["key"]  # the user's own pick stays


# Edits.


def edited(view: Mounted, one: dict[str, Any]) -> dict[str, Any]:
    """Try a substitute, and type a text that is not sent yet."""
    view.find(".dlp-token").nth(2).click()
    view.find(".dlp-ledger tbody button").first.click()
    new = changed(one, 2, one["subs"][2][0][1], one["value"] + 1.5)
    view.say(type="answer", id=view.sent("look")[-1]["id"], found=new)
    view.page.get_by_label("edit the whole prompt").fill(" something that I think of")
    view.page.wait_for_function("() => host.saved.some(([name]) => name === 'view_state')")
    return new


@pytest.mark.parametrize("kind", ["dream", "runs", "attribution"])
def test_an_edit_stays_when_the_view_is_drawn_again(mount: Mount, kind: str):
    state = {"dream": run_state(60, steps=60), "runs": runs_state(2, step=60), "attribution": attribution_state()}[kind]
    name, one = next(iter(state["attributions"].items()))
    view = mount(kind, {**state, "picked": name, "view_state": {}})
    before, new = tokens(view), edited(view, one)
    after = tokens(view)
    view.again()
    assert tokens(view) == after != before and view.find(".dlp-changed").count() == 1
    assert view.page.get_by_label("edit the whole prompt").input_value() == " something that I think of"
    assert view.find(".dlp-token.dlp-on").get_attribute("data-focus") == "token-2"
    if kind != "attribution":
        view.find(f".dlp-table tr:not([data-key='{name}'])").first.click()
        view.frames()
        view.find(f".dlp-table tr[data-key='{name}']").click()
        view.frames()
        assert tokens(view) == after  # the edit is there again with its prompt
    view.button("Dream from here").click()
    assert view.sent("start")[0]["ids"] == new["ids"] and tokens(view) == after
    view.button("Undo").click()
    assert tokens(view) == before and view.button("Undo").count() == 0


def test_an_edit_is_kept_in_the_frozen_view(mount: Mount):
    state = run_state(60, steps=60)
    name, one = next(iter(state["attributions"].items()))
    view = mount("dream", {**state, "picked": name})
    new = edited(view, one)
    after = tokens(view)
    slide(view, TIMES, 30)
    view.page.wait_for_function("() => host.saved.at(-1)?.[1].at === 30")
    kept = view.saved()["view_state"]
    known = {**state["attributions"], new["key"]: new}
    page = frozen("dream", {**state, "picked": name, "live": False, "view_state": kept, "attributions": known})
    add = "(html) => document.body.replaceChildren(document.createRange().createContextualFragment(html))"
    view.page.evaluate("() => host.leave()")
    view.page.evaluate(add, page)
    view.page.wait_for_selector(".dlp-token")
    assert tokens(view) == after and view.find(".dlp-changed").count() == 1 and view.find(".dlp-ramp").count() == 1
    assert "Frontier after iteration 30" in view.text(".dlp-times output")
    view.button("Undo").click()
    assert tokens(view) == [t.replace("\n", "↵") for t in one["tokens"]]


def test_sliders_and_the_order_of_the_table_stay_when_the_view_is_drawn_again(mount: Mount):
    state = run_state(120)
    view = mount("dream", state)
    slide(view, LIMIT, 5.0)
    slide(view, TIMES, 50)
    view.find("[data-by=value]").click()
    order, row = keys(view), view.text(".dlp-table tr.dlp-on")
    view.again()
    assert view.find(TIMES).input_value() == "50" and view.find(LIMIT).input_value() == "5"
    assert keys(view) == order and view.text(".dlp-table tr.dlp-on") == row
    assert view.find("th.dlp-c-value").get_attribute("aria-sort") == "ascending"


def test_a_past_that_is_not_there_after_drawing_again_is_asked_for(mount: Mount):
    view = mount("dream", run_state(120, past=None, view_state={"at": 40}))
    assert view.sent("past") == [{"type": "past"}] and "after iteration 40, loading…" in view.text(".dlp-times output")


def test_the_run_that_is_shown_alone_stays(mount: Mount):
    view = mount("runs", runs_state(2, ("L2.N812", "L3.N5"), step=20))
    view.page.get_by_label("feature").select_option(label="L3.N5")
    view.frames()
    view.button("seed 1").click()
    view.frames()
    before = keys(view)
    view.again()
    assert keys(view) == before and view.button("seed 1").get_attribute("aria-pressed") == "true"
    assert view.page.get_by_label("feature").input_value() == "1"


# Numbers and texts that are typed.


def test_a_typed_number_and_the_slider_are_one_value(mount: Mount):
    state = run_state(120)
    view = mount("dream", state)
    box = view.page.get_by_label(BOX)
    for typed, value in (("5", 5), ("4.37", 4.37), ("4,5", 4.5), ("0.1", 0.1), ("40", 40)):
        box.fill(typed)
        view.frames()
        assert float(view.find(LIMIT).input_value()) == value and box.input_value() == typed  # before Enter
        assert f"under {value:.2f}" in view.text(".dlp-row output")
        assert box.get_attribute("aria-invalid") == "false"
    box.fill("5")
    box.press("Enter")
    view.frames()
    assert box.input_value() == "5.00"
    box.press("ArrowUp")
    view.frames()
    assert box.input_value() == "5.05" and float(view.find(LIMIT).input_value()) == 5.05
    slide(view, LIMIT, 6.2)
    assert box.input_value() == "6.20"
    box.fill("")
    view.frames()
    assert view.find(".dlp-plot .dlp-limit").count() == 0


def test_a_number_that_is_none_is_marked_while_it_is_typed(mount: Mount):
    view = mount("dream", run_state(120))
    box = view.page.get_by_label(BOX)
    box.fill("5")
    box.press_sequentially("x")
    view.frames()
    assert box.get_attribute("aria-invalid") == "true" and view.text(".dlp-row output") == "“5x” is not a number"
    plain = view.find("textarea, .dlp-bar button").first.evaluate("(one) => getComputedStyle(one).borderColor")
    assert box.evaluate("(one) => getComputedStyle(one).borderColor") != plain
    view.change(population=[[3.0, 1.0, 1.0, "a"]])  # the run goes on
    assert box.input_value() == "5x" and view.text(".dlp-row output") == "“5x” is not a number"
    box.press("Enter")
    view.frames()
    assert box.input_value() == "5.00" and box.get_attribute("aria-invalid") == "false"


@pytest.mark.parametrize(("label", "words"), [("edit the whole prompt", "prompt"), ("another token", "token")])
def test_an_empty_prompt_is_answered(mount: Mount, label: str, words: str):
    state = run_state(60, steps=60)
    view = mount("dream", {**state, "picked": next(iter(state["attributions"]))})
    view.find(".dlp-token").first.click()
    box = view.page.get_by_label(label)
    box.fill("x")
    box.fill("")
    if words == "prompt":
        assert box.get_attribute("aria-invalid") == "true"
        assert view.text(".dlp-edit .dlp-reading") == "A prompt needs at least one token"
    box.press("Enter")
    assert view.text(".dlp-one .dlp-wrong") == f"Type a {words} first: a prompt needs at least one token."
    assert view.sent() == []
    box.press_sequentially(" now")
    assert view.find(".dlp-one .dlp-wrong").count() == 0 and box.input_value() == " now"


# Near-duplicates.


def twins() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A run whose frontier has three prompts that differ from a fourth in one token; the strongest comes last."""
    state, ids = run_state(30, steps=30), list(range(20, 32))
    last = state["frontier"][-1]
    rows = [[*ids[:i], 3, *ids[i + 1 :]] for i in (1, 4, 7)] + [ids]
    same = [entry(row, last["x"] + 0.1 * (i + 1), last["y"] + 0.1 * (i + 1), 30) for i, row in enumerate(rows)]
    return {**state, "frontier": [*state["frontier"], *same]}, same


def test_near_duplicates_are_folded_under_their_strongest(mount: Mount):
    state, same = twins()
    view, best = mount("dream", state), same[-1]["key"]
    folded = [e["key"] for e in same[:-1]]
    everything = [e["key"] for e in state["frontier"]]
    assert keys(view) == [key for key in everything if key not in folded]
    assert f"3 of {len(everything)} rows" in view.text(".dlp-fold")
    more = view.page.get_by_role("button", name="3 near-duplicates of this prompt")
    assert more.inner_text() == "+3" and more.get_attribute("aria-expanded") == "false"
    assert view.find(".dlp-table tbody [tabindex='0']").count() == 1  # one stop of the Tab key
    more.press("Enter")
    view.frames()
    assert keys(view)[-4:] == [best, *folded] and "picked" not in view.saved()
    assert view.focused == "3 near-duplicates of this prompt"
    more.click()
    view.find(f".dlp-dot[data-key='{folded[1]}']").click(force=True)  # its point is there all the same
    view.frames()
    assert keys(view)[-2:] == [best, folded[1]] and view.find("tr.dlp-on").get_attribute("data-key") == folded[1]
    box = view.page.get_by_label("fold near-duplicates")
    box.uncheck()
    view.frames()
    assert keys(view) == everything
    view.again()
    assert keys(view) == everything  # the choice stays
    box.check()
    view.frames()
    assert keys(view)[-2:] == [best, folded[1]]


def test_a_table_without_near_duplicates_says_nothing_of_them(mount: Mount):
    state = run_state(60, steps=60)
    view = mount("dream", state)
    assert len(keys(view)) == len(state["frontier"]) and view.find(".dlp-fold").count() == 0


# Room.


@pytest.mark.parametrize("kind", ["dream", "runs"])
def test_the_text_of_a_table_has_the_room(mount: Mount, kind: str):
    state = run_state(120) if kind == "dream" else runs_state(3, step=60)
    view = mount(kind, state)
    widths = "() => ['.dlp', '.dlp-table', 'td.dlp-c-text'].map((s) => document.querySelector(s).clientWidth)"
    for width, least in ((400, 200), (700, 400), (859, 500), (1000, 320), (1400, 450)):
        view.page.set_viewport_size({"width": width, "height": 900})
        view.frames()
        whole, table, text = view.page.evaluate(widths)
        assert text >= (least if kind == "dream" else 0.8 * least), (width, text)
        assert table > (0.9 if whole < 860 else 0.55) * whole, (width, table)
    assert column(view, "text")


# The plot.


def test_no_word_lies_in_the_plane(mount: Mount):
    state = run_state(120)
    view = mount("dream", state)
    texts = view.find(".dlp-plot > text, .dlp-plot > g:not(.dlp-axes) text").count()
    assert texts == 0 and f"dotted: iteration {state['previous']['iteration']}" in view.text(".dlp-marks")


def test_a_click_ends_the_tip_until_the_pointer_leaves(mount: Mount):
    state = run_state(60, steps=60)
    view = mount("dream", state)
    dots = view.find(".dlp-dot")
    dots.nth(3).hover(force=True)
    assert view.find(".dlp-tip").is_visible()
    dots.nth(3).click(force=True)
    view.frames()
    assert view.find(".dlp-tip").is_hidden() and view.find(".dlp-ring").count() == 1
    view.change(population=[[3.0, 1.0, 1.0, "a"]])
    assert view.find(".dlp-tip").is_hidden()
    dots.last.hover(force=True)
    assert view.find(".dlp-tip").is_visible()
    box = view.find(".dlp-tip").bounding_box()
    plane = view.find(".dlp-plane").bounding_box()
    assert box and plane and box["width"] * box["height"] < 0.25 * plane["width"] * plane["height"]


def test_python_is_told_once_that_an_edited_view_was_left(mount: Mount):
    state = run_state(60, steps=60)
    name, one = next(iter(state["attributions"].items()))
    view = mount("dream", {**state, "picked": name})
    view.find(".dlp-table tbody tr").nth(2).hover()
    view.page.mouse.move(0, 0)
    view.page.wait_for_timeout(1700)
    assert view.sent("keep") == []  # nothing was edited
    view.find(".dlp-token").nth(2).hover()
    edited(view, one)
    view.page.wait_for_timeout(1700)
    assert view.sent("keep") == []  # the user is still there
    view.page.mouse.move(0, 0)
    view.page.evaluate("() => document.activeElement.blur()")
    view.page.wait_for_function("() => host.sent.some((m) => m.type === 'keep')")
    assert view.saved()["view_state"]["edits"][name]["typed"]["edit"]["value"] == " something that I think of"
    view.find(".dlp-token").nth(2).hover()
    view.page.mouse.move(0, 0)
    view.page.wait_for_timeout(1700)
    assert len(view.sent("keep")) == 1

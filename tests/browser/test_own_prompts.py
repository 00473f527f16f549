"""Prompts of the user's own in the view of a run: edited, starred, and compared with another one."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.fake_states import attribution_state, entry, found, run_state, runs_state
from tests.browser.mounted import Mounted

Mount = Callable[..., Mounted]
TYPED = found(entry([40, 41, 42, 43, 44], 5.5, 6.25, 0), random.Random(5))


def state_of(kind: str = "dream") -> dict[str, Any]:
    """A run, or several, with a prompt of the frontier picked."""
    state = run_state(60, steps=60) if kind == "dream" else runs_state(2)
    return {**state, "picked": next(iter(state["attributions"]))}


def edited(view: Mounted) -> None:
    """Type another prompt, to which Python answers."""
    box = view.page.get_by_label("Edit the whole prompt")
    box.fill(TYPED["text"])
    box.press("Enter")
    view.say(type="answer", id=view.sent("edit")[-1]["id"], found=TYPED)


def stars(view: Mounted) -> dict[str, Any]:
    return view.page.evaluate("() => host.state.view_state.stars ?? {}")


@pytest.mark.parametrize("kind", ["dream", "runs"])
def test_an_edited_prompt_has_a_mark_of_its_own_in_the_plane_until_it_is_undone(mount: Mount, kind: str):
    state = state_of(kind)
    view = mount(kind, state)
    mark = view.find(".dlp-own")
    assert not mark.count()
    edited(view)
    assert mark.get_attribute("aria-label") == "the edited prompt: value 6.25, cross-entropy 5.50"
    assert mark.locator("text").text_content() == "edited"
    x, y, wide, high = (view.find(".dlp-plot").bounding_box()[name] for name in ("x", "y", "width", "height"))
    box = mark.locator("path").bounding_box()
    assert x < box["x"] < x + wide and y < box["y"] < y + high
    view.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    view.frames()
    assert "edited" in view.text(".dlp-tip") and TYPED["text"].strip()[:12] in view.text(".dlp-tip")
    view.again()  # also when the notebook draws the view again, and in a frozen view
    assert mark.count() == 1
    view.button("Undo").click()
    view.frames()
    assert not mark.count()


@pytest.mark.parametrize("kind", ["dream", "runs"])
def test_another_prompt_that_is_picked_is_no_edit_of_the_one_before(mount: Mount, kind: str):
    view = mount(kind, {**state_of(kind), "live": False})
    rows = view.find(".dlp-table tbody tr")
    for number in (2, 5, 3):
        rows.nth(number).click()
        view.frames()
        view.frames()
        assert not view.find(".dlp-own").count()


def test_a_typed_prompt_that_is_outside_the_plane_makes_it_larger(mount: Mount):
    view = mount("dream", state_of())
    far = {**TYPED, "value": 90.0, "ce": 14.0}
    box = view.page.get_by_label("Edit the whole prompt")
    box.fill(TYPED["text"])
    box.press("Enter")
    view.say(type="answer", id=view.sent("edit")[-1]["id"], found=far)
    box, plane = view.find(".dlp-own path").bounding_box(), view.find(".dlp-plot").bounding_box()
    assert plane["y"] < box["y"] and box["x"] + box["width"] < plane["x"] + plane["width"]


def test_prompts_are_starred_marked_and_shown_alone(mount: Mount):
    state = state_of()
    view = mount("dream", state)
    rows = view.find(".dlp-table tbody tr")
    many = rows.count()
    assert not view.find(".dlp-starred").count()
    view.button("☆ Star").click()
    view.frames()
    assert list(stars(view)) == [state["picked"]] and view.find(".dlp-table .dlp-star").count() == 1
    assert view.button("★ Starred").get_attribute("aria-pressed") == "true"
    edited(view)
    view.button("☆ Star").click()
    view.frames()
    assert list(stars(view)) == [state["picked"], TYPED["key"]]
    view.button("Undo").click()
    view.frames()
    assert view.button("★ Starred").is_visible()
    view.page.get_by_label("Only starred prompts (2)").check()
    view.frames()
    assert rows.count() == 2
    rows.filter(has_text=TYPED["text"].strip()[:14]).click()
    view.frames()
    assert view.text(".dlp-text") == TYPED["text"].strip() and view.find(".dlp-stray").count() == 1
    view.again()
    assert rows.count() == 2 and view.find(".dlp-table .dlp-on").count() == 1
    for _ in range(2):
        rows.first.click()
        view.frames()
        view.button("★ Starred").click()
        view.frames()
    assert stars(view) == {} and rows.count() == many and not view.find(".dlp-starred").count()


def test_starred_prompts_are_kept_in_a_frozen_view(mount: Mount):
    state = state_of()
    kept = {TYPED["key"]: {name: TYPED[name] for name in ("key", "ids", "tokens", "text", "trips", "value", "ce")}}
    view = mount("dream", {**state, "live": False, "view_state": {"stars": kept, "starred": True}})
    assert view.find(".dlp-table tbody tr").count() == 1
    view.find(".dlp-table tbody tr").click()
    view.frames()
    assert view.text(".dlp-text") == TYPED["text"].strip() and not view.sent()


def test_two_prompts_are_compared_token_by_token(mount: Mount):
    state = state_of()
    one, other = list(state["attributions"].values())[:2]
    view = mount("dream", {**state, "picked": one["key"], "live": False})
    view.button("Compare").click()
    assert view.page.get_by_text("This prompt is pinned").is_visible()
    view.find(f'.dlp-table tr[data-key="{other["key"]}"]').click()
    view.frames()
    region = view.page.get_by_role("region", name="comparison with the pinned prompt")
    cells = region.locator("tbody tr").evaluate_all("(rows) => rows.map((r) => [...r.cells].map((c) => c.textContent))")
    signed = lambda x, n: ("−" if x < 0 else "+") + f"{abs(x):.{n}f}"  # noqa: E731
    assert [row[0] for row in cells] == ["pinned", "shown", "change"]
    assert cells[0][2] == f"{one['ce']:.2f}" and cells[1][2] == f"{other['ce']:.2f}"
    assert cells[2][2] == signed(other["ce"] - one["ce"], 2)
    places = len(cells[0][1].partition(".")[2])
    assert cells[2][1] == signed(other["value"] - one["value"], places)
    differ = sum(a != b for a, b in zip(one["ids"], other["ids"], strict=True))
    assert region.locator(".dlp-columns > span").count() == 12 and region.locator(".dlp-diff").count() == differ
    assert region.get_by_text(f"{differ} of 12 tokens differ").is_visible()
    view.again()
    assert region.count() == 1
    view.button("End comparison").click()
    assert not region.count()


@pytest.mark.parametrize(
    ("one", "other", "columns", "differ"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 4, 0),
        ([1, 2, 3, 4], [1, 9, 3, 4], 4, 1),
        ([1, 2, 3, 4], [1, 3, 4], 4, 1),  # the tokens after a missing one are beside each other again
        ([1, 3, 4], [1, 2, 3, 4], 4, 1),
        ([1, 2, 3], [7, 8], 3, 3),
        ([5], [1, 2, 5, 6], 4, 3),
    ],
)
def test_tokens_that_two_prompts_share_are_in_one_column(mount: Mount, one, other, columns, differ):
    first, second = (found(entry(ids, 3.0, 2.0 + len(ids), 0), random.Random(1)) for ids in (one, other))
    pinned = {name: first[name] for name in ("key", "ids", "tokens", "text", "trips", "value", "ce")}
    kept = {"pinned": {**pinned, "key": "pinned", "slot": "pinned"}}
    view = mount("attribution", attribution_state(found=second, attributions={}, view_state=kept))
    assert view.find(".dlp-columns > span").count() == columns
    assert view.find(".dlp-columns > .dlp-diff").count() == differ


def test_a_gain_that_is_zero_as_a_number_has_no_bar_and_no_dotted_line(mount: Mount):
    one = found(run_state(30)["frontier"][-1], random.Random(0))
    one["drop"], one["floor"] = [5.0] * 12, [0.0004, -0.0004, 0.0, -0.0, 0.2, -0.2, *[0.0] * 6]
    view = mount("attribution", attribution_state(found=one, attributions={}))
    heights = "(all) => all.map((one) => Number(one.style.getPropertyValue('--h')) > 0)"
    dotted = "(all) => all.map((one) => one.classList.contains('dlp-better'))"
    tokens = view.find(".dlp-token")
    assert tokens.evaluate_all(heights)[:6] == [False, False, False, False, True, False]
    assert tokens.evaluate_all(dotted)[:6] == [False, False, False, False, False, True]

"""Views without a kernel, from files and without a network; and every view with the worst of texts."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dreamy_lens.panels import bundle
from dreamy_lens.panels.frozen import frozen
from tests.browser.fake_states import attribution_state, hostile_state, run_state, runs_state
from tests.browser.mounted import FRAMES, Mounted
from tests.helpers.fakes import HOSTILE, Reader

if TYPE_CHECKING:
    from playwright.sync_api import Page

Mount = Callable[..., Mounted]
Open = Callable[..., "Page"]
LIMIT = 100_000  # characters of a frozen run of the paper's length, and bytes, as all of them are ASCII


def picked(state: dict[str, Any]) -> dict[str, Any]:
    """A run with one of its attributed prompts picked, as a page would have it."""
    names = list(state["attributions"])
    return {**state, "picked": names[len(names) // 2], "live": False}


def page_of(*views: str, policy: str = "") -> str:
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">' if policy else ""
    body = "".join(f"<section>{view}</section>" for view in views)
    return f'<!DOCTYPE html><html lang="en"><meta charset="utf-8">{meta}<title>views</title><body>{body}</body></html>'


@pytest.fixture
def shown(offline_page: Open, tmp_path: Path) -> Callable[..., Page]:
    """`shown(*views)` opens a page with frozen views from a file, and waits until each is drawn."""

    def show(*views: str, policy: str = "", wait: bool = True, **more: Any) -> Page:
        path = tmp_path / "page.html"
        path.write_text(page_of(*views, policy=policy), encoding="utf-8")
        page = offline_page(path, **more)
        page.set_default_timeout(5000)
        if wait:
            page.wait_for_function("(n) => document.querySelectorAll('.dlp').length === n", arg=len(views))
        return page

    return show


# Where it is drawn.


def test_a_script_whose_place_is_gone_does_nothing(shown):
    """A program may give a cell its content twice before the first script runs; then two scripts find one place."""
    view = frozen("attribution", attribution_state())
    script = view[view.index("<script") :]
    page = shown(f"{view}{script}")
    page.evaluate(FRAMES)
    assert page.locator(".dlp").count() == 1


# What it weighs.


def test_the_scripts_are_small_and_one_module_each():
    for name in ("dream", "attribution", "runs"):
        module = bundle.view_module(name)
        assert len(gzip.compress(module.encode())) <= 20 * 1024 and not re.search(
            r"^\s*(import\b|//|/\*)", module, re.MULTILINE
        )
        assert module.count("export ") == 1 and "innerHTML" not in module and "eval(" not in module
    assert "/*" not in bundle.view_stylesheet() and len(bundle.view_stylesheet()) < 16_000


def test_a_long_run_is_light_and_always_the_same():
    state = picked(run_state(k=8, draws=6))
    assert len(state["attributions"]) == 20 and len(state["past"]["points"]) > 550
    page = frozen("dream", state, "0f" * 8)
    assert page.isascii() and len(page) <= LIMIT
    assert page == frozen("dream", state, "0f" * 8)


# Without scripts.


def test_without_scripts_there_are_tokens_and_a_table():
    state = picked(run_state(60, steps=60))
    inert = frozen("dream", state).partition("<script")[0]
    read = Reader(inert)
    assert set(read.tags) <= {"div", "span", "table", "thead", "tbody", "tr", "th", "td", "bdi", "p"}
    assert read.attributes <= {"data-dreamy", "style", "title", "dir"}
    assert '<table style="table-layout:auto;width:100%">' in inert and "text-align:left;width:99%" in inert
    one = state["attributions"][state["picked"]]
    assert inert.count('title="worst substitute ') == len(one["tokens"])
    assert "Colour: drop in value with the worst of 32 substitutes (max " in inert
    assert f"{one['ce']:.2f} nats per token" in "".join(read.said)


def test_a_page_that_runs_no_scripts_keeps_them(shown: Callable[..., Page]):
    state = picked(run_state(60, steps=60))
    page = shown(frozen("dream", state), policy="script-src 'none'", wait=False)
    assert page.locator("table tbody tr").count() > 5 and page.locator(".dlp").count() == 0


# With scripts, without a kernel.


def test_a_frozen_run_answers(shown: Callable[..., Page]):
    state = picked(run_state(60, steps=60))
    page = shown(frozen("dream", state))
    assert page.locator(".dlp-dot").count() == len(state["frontier"])
    page.locator(".dlp-token").nth(3).click()
    rows = page.locator(".dlp-ledger tbody tr")
    assert rows.count() == len(state["attributions"][state["picked"]]["subs"][3])
    one = state["attributions"][state["picked"]]
    assert f"{one['subs'][3][0][2]:.3f}" in rows.first.inner_text()
    page.locator(".dlp-table tbody tr").first.click()
    page.evaluate(FRAMES)
    assert page.locator(".dlp-table tr.dlp-on").get_attribute("data-key") == state["frontier"][0]["key"]
    page.locator(".dlp-times input").focus()
    page.keyboard.press("Home")
    page.evaluate(FRAMES)
    assert "after iteration 0" in page.locator(".dlp-times output").inner_text()
    assert page.locator("input[type=text]:not(.dlp-number), textarea").count() == 0
    assert not page.get_by_role("button", name=re.compile("Pause|Stop|more iterations|dream from")).count()


@pytest.mark.parametrize(("view", "state"), [("attribution", attribution_state), ("runs", runs_state)])
def test_the_other_views_freeze_too(shown: Callable[..., Page], view: str, state: Callable[..., dict[str, Any]]):
    given = state(live=False)
    page = shown(frozen(view, {**given, "picked": next(iter(given["attributions"]))}))
    page.locator(".dlp-token").first.click()
    assert page.locator(".dlp-ledger tbody tr").count() == 8


def test_several_in_one_page_do_not_meet(shown: Callable[..., Page]):
    one, other = picked(run_state(60, steps=60)), picked(run_state(60, seed=1, steps=60))
    page = shown(frozen("dream", one), frozen("dream", other), frozen("dream", one))
    views = page.locator("body > section")
    assert [views.nth(i).locator(".dlp").count() for i in range(3)] == [1, 1, 1]
    views.nth(2).locator(".dlp-table tbody tr").first.click()
    page.evaluate(FRAMES)
    on = [views.nth(i).locator("tr.dlp-on").get_attribute("data-key") for i in range(3)]
    assert on == [one["picked"], other["picked"], one["frontier"][0]["key"]]
    clips = page.locator("clipPath").evaluate_all("(all) => all.map((one) => one.id)")
    assert len(set(clips)) == 3


def test_a_page_with_a_strict_policy_shows_them(shown: Callable[..., Page]):
    policy = "default-src 'none'; script-src 'unsafe-inline' blob:; style-src 'unsafe-inline'; base-uri 'none'"
    shown(frozen("dream", picked(run_state(60, steps=60))), policy=policy).locator(".dlp-token").first.click()


# With a kernel after all.


def test_a_frozen_view_is_the_living_one_while_there_is_one(mount: Mount):
    state = run_state(60, steps=60)
    still = picked(state)
    view = mount("dream", {**state, "live_id": "", "title": "somebody else"})
    add = """(html) => {
      const place = document.body.appendChild(document.createElement("section"));
      place.append(document.createRange().createContextualFragment(html));
    }"""
    view.page.evaluate(add, frozen("dream", still, "abcd1234"))
    page = view.page.locator("section .dlp")
    page.wait_for()
    assert page.get_by_role("button", name="100 more iterations").count() == 0
    call = """async ([id, esm]) => {
      Object.assign(host.state, { live_id: id, title: "alive" });
      const { default: view } = await import(URL.createObjectURL(new Blob([esm], { type: "text/javascript" })));
      host.forget = await view.initialize({ model });
    }"""
    view.page.evaluate(call, ["abcd9999", bundle.view_module("dream")])  # not its own
    assert page.get_by_role("button", name="100 more iterations").count() == 0
    view.page.evaluate(call, ["abcd1234", bundle.view_module("dream")])
    assert page.locator("h3").inner_text() == "alive"
    page.get_by_role("button", name="100 more iterations").click()
    assert view.sent() == [{"type": "more", "iterations": 100}]
    last = state["frontier"][-1]["key"]
    page.locator(f".dlp-table tr[data-key='{last}']").click()
    for _ in range(2):  # JupyterLab says the same when the kernel goes and when it comes back
        view.page.evaluate("() => host.fire('comm_live_update')")
    assert page.locator("h3").inner_text() == "alive"
    view.page.evaluate("() => host.forget()")
    assert page.locator("h3").inner_text() == state["title"]
    assert page.get_by_role("button", name="100 more iterations").count() == 0
    assert page.locator("tr.dlp-on").get_attribute("data-key") == last


# The worst of texts.

INTRUDERS = "() => document.querySelectorAll('.dlp :is(img, script, b b, [onerror], [onmouseover])').length"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hostile_texts_stay_texts(mount: Mount, scheme: str):
    state = hostile_state()
    view = mount("dream", state, scheme=scheme)
    view.find(".dlp-token").nth(2).click()
    view.find(".dlp-dot").first.hover(force=True)
    view.button("Heat map").click()
    view.say(type="notice", text="".join(HOSTILE))
    for e in state["frontier"]:
        view.change(picked=e["key"], error=e["text"])
    view.page.get_by_label("edit the whole prompt").fill("".join(HOSTILE[:6]))
    assert view.page.evaluate(INTRUDERS) == 0
    assert view.page.evaluate("() => document.title") == "a view"
    assert HOSTILE[0] in view.text("h3")
    said = view.page.evaluate("() => document.querySelector('.dlp').textContent")
    assert not re.search("[\u2028\u2029\u202e\u2066\u200f\x00\x1b\ufeff]", said) and "[U+202E]" in said


@pytest.mark.parametrize("view", ["dream", "runs", "attribution"])
def test_hostile_texts_do_not_break_a_page(shown: Callable[..., Page], view: str):
    state = {**hostile_state(), "live": False}
    if view == "runs":
        of = {"name": HOSTILE[0], "group": 0, **state}
        state = {**state, "runs": [of, {**of, "name": HOSTILE[1]}], "groups": [HOSTILE[1]], "attributions": {}}
    if view == "attribution":
        state = {**state, "found": state["attributions"][state["picked"]]}
    made = frozen(view, state, HOSTILE[1])
    assert made.isascii() and made.count("<script") == made.count("</script") == 1
    page = shown(made)
    assert page.evaluate(INTRUDERS) == 0 and page.locator("body > section > *").count() == 2
    assert HOSTILE[0] in page.locator("h3").inner_text()

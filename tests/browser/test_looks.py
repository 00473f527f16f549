"""Room and words: nothing lies over anything else, nothing is cut off, and colour never says anything alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.fake_states import attribution_state, found, run_state, runs_state
from tests.browser.mounted import Mounted
from tests.browser.test_views_for_everyone import CONTRAST, SCENES, scene

Mount = Callable[..., Mounted]

# Boxes of what is read or used, pairwise; one within the other is no overlap. The points of a plot may lie close.
OVERLAPS = """
() => {
  const kinds = ["button", "input", "textarea", "select", "progress", "output"].map((kind) => `.dlp ${kind}`).join();
  const used = [...document.querySelectorAll(kinds)];
  const walker = document.createTreeWalker(document.querySelector(".dlp"), NodeFilter.SHOW_TEXT), boxes = [];
  const hidden = (e) => !e.checkVisibility() || e.closest(".dlp-away, .dlp-tip, option") || e.closest(".dlp-scroll *");
  while (walker.nextNode()) {
    const node = walker.currentNode, range = document.createRange();
    if (!node.data.trim() || hidden(node.parentElement)) continue;
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) boxes.push({ e: node.parentElement, box, said: node.data.slice(0, 30) });
  }
  for (const e of used)
    if (!hidden(e)) boxes.push({ e, box: e.getBoundingClientRect(), said: e.getAttribute("aria-label") ?? e.tagName });
  const found = [];
  boxes.forEach((a, i) => boxes.slice(i + 1).forEach((b) => {
    if (a.e === b.e || a.e.contains(b.e) || b.e.contains(a.e)) return;
    const wide = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
    const high = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
    if (wide > 1 && high > 3) found.push(`${a.said} × ${b.said}: ${wide.toFixed()} by ${high.toFixed()}`);
  }));
  return found;
}
"""
# Texts of the plot may stand out of their drawing, not of the view.
CUT = """
(width) => {
  const whole = document.querySelector(".dlp").getBoundingClientRect();
  const out = [...document.querySelectorAll(".dlp svg text")].filter((t) => {
    const box = t.getBoundingClientRect();
    return box.left < whole.left + 2 || box.right > whole.right - 2;
  });
  const kinds = width < 400 ? ".dlp-table .dlp-scroll" : ".dlp-table .dlp-scroll, .dlp-ledger .dlp-scroll";
  const tables = [...document.querySelectorAll(kinds)];
  const rows = tables.filter((box) => box.scrollWidth > box.clientWidth);
  return [...out, ...rows].map((e) => e.textContent.slice(0, 60));
}
"""


@pytest.mark.parametrize("name", [name for name in SCENES if name not in ("empty", "tip")])
def test_nothing_lies_over_anything_else_and_nothing_is_cut_off(mount: Mount, name: str):
    view = scene(mount, name)
    for width in (320, 360, 560, 700, 740, 1000, 1400):
        view.page.set_viewport_size({"width": width, "height": 900})
        view.frames()
        assert view.page.evaluate(OVERLAPS) == [], width
        assert view.page.evaluate(CUT, width) == [], width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read_on_every_strength_of_colour(mount: Mount, scheme: str):
    state = attribution_state()
    one = found(run_state(30)["frontier"][-1], random.Random(0))
    one["drop"] = [i / 11 for i in range(12)]
    one["subs"] = [
        [[" up", 1, one["value"] + i / 11, 3.0], [" down", 2, one["value"] - i / 11, 3.0]] for i in range(12)
    ]
    view = mount("attribution", {**state, "found": one, "attributions": {}}, scheme=scheme)
    strengths = "(all) => all.map((one) => Number(one.style.getPropertyValue('--d')))"
    shown = view.find(".dlp-token").evaluate_all(strengths)
    assert shown == pytest.approx([i / 11 for i in range(12)], abs=1e-3)
    assert view.page.evaluate(CONTRAST) == []
    view.button("Heat map").click()
    assert {0, 1} <= set(view.find(".dlp-gain").evaluate_all(strengths)) | {0}
    assert view.page.evaluate(CONTRAST) == []
    gain, loss = view.find(".dlp-gain").last, view.find(".dlp-loss").last
    marks = "(one) => { const s = getComputedStyle(one); return s.boxShadow + s.textDecorationLine; }"
    assert gain.evaluate(marks) != loss.evaluate(marks)  # told apart without colour


def test_nothing_moves_when_something_is_said_or_a_past_is_shown(mount: Mount):
    state = run_state(120)
    view = mount("dream", {**state, "picked": state["frontier"][4]["key"]})
    top = "() => document.querySelector('.dlp-one').getBoundingClientRect().top"
    before = view.page.evaluate(top)
    view.say(type="notice", text="Something to read.")
    assert view.page.evaluate(top) == before
    slide = "(box, to) => { box.value = to; box.dispatchEvent(new Event('input')); }"
    view.find(".dlp-times input").evaluate(slide, 60)
    view.frames()
    assert view.page.evaluate(top) == before
    view.button("now").focus()
    view.page.keyboard.press("Enter")
    view.frames()
    assert view.page.evaluate(top) == before
    assert (
        view.page.evaluate("() => document.activeElement.closest('.dlp-times') && document.activeElement.type")
        == "range"
    )
    view.find(".dlp-row input[type=range]").evaluate(slide, 5)
    view.frames()
    assert view.page.evaluate(top) == before


def test_a_past_whose_texts_were_not_kept_says_so(mount: Mount):
    state: dict[str, Any] = run_state(120, live=False)
    past = state["past"]
    bare = {**past, "ids": None, "texts": [], "points": [p[:3] for p in past["points"]]}
    view = mount("dream", {**state, "past": bare, "step": 120})
    view.find(".dlp-times input").evaluate("(box) => { box.value = 90; box.dispatchEvent(new Event('input')); }")
    view.frames()
    texts = view.find(".dlp-table td.dlp-c-text").all_inner_texts()
    still = {e["text"].strip() for e in state["frontier"] if e["it"] <= 90}
    assert "text not kept" in texts and len([t for t in texts if t != "text not kept"]) == len(still) > 0


def test_axes_of_runs_say_what_they_are_at_every_width(mount: Mount):
    view = mount("runs", runs_state(2, step=20), width=360)
    words = view.find(".dlp-axis").all_text_contents()
    assert words[0].startswith("cross-entropy") and words[1] == "value"

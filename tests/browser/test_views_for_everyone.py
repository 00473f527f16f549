"""Who can use the views: names, contrast, the keyboard alone, a focus that can be seen, room on a narrow screen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.fake_states import attribution_state, empty_state, hostile_state, run_state, runs_state
from tests.browser.mounted import Mounted

Mount = Callable[..., Mounted]


def picked(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "picked": next(reversed(state["attributions"]))}


def ledger(view: Mounted) -> None:
    view.find(".dlp-token").nth(1).click()


def heat(view: Mounted) -> None:
    view.button("Heat map").click()


def tip(view: Mounted) -> None:
    view.find(".dlp-dot[tabindex='0']").focus()


def limit(view: Mounted) -> None:
    view.page.get_by_label("maximum cross-entropy, as a number").fill("5")
    view.page.get_by_label("maximum cross-entropy, as a number").press("Enter")
    view.find(".dlp-times input").press("Home")


SCENES: dict[str, tuple[str, Callable[[], dict[str, Any]], Callable[[Mounted], None] | None]] = {
    "empty": ("dream", empty_state, None),
    "running": ("dream", lambda: picked(run_state(60, error="RuntimeError: no")), ledger),
    "done": ("dream", lambda: picked(run_state(60, steps=60)), heat),
    "past": ("dream", lambda: picked(run_state(60, steps=60)), limit),
    "tip": ("dream", lambda: picked(run_state(60, steps=60)), tip),
    "frozen": ("dream", lambda: picked(run_state(60, steps=60, live=False)), ledger),
    "hostile": ("dream", hostile_state, ledger),
    "runs": ("runs", lambda: picked(runs_state(3, step=60)), ledger),
    "one": ("attribution", attribution_state, ledger),
}

# Contrast as WCAG 2 has it, of every text that is shown against all that lies behind it; a gradient counts with its
# colours.
CONTRAST = r"""
() => {
  const parse = (colour) => {
    const [r, g, b, a = 1] = colour.match(/[\d.]+(?:e-?\d+)?/g).map(Number);
    return [r, g, b, a];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((c, i) => a * c + (1 - a) * under[i]);
  const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const ground = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour[3] > 0) layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reduceRight((under, colour) => over(colour, under), [255, 255, 255]);
  };
  const found = new Set();
  const check = (paint, element, text) => {
    const under = ground(element), [a, b] = [light(over(parse(paint), under)), light(under)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.add(`${ratio.toFixed(2)} ${element.tagName} ${element.getAttribute("class")} ${text}`);
  };
  const walker = document.createTreeWalker(document.querySelector(".dlp"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
    if (!text || !element.checkVisibility() || element.closest(".dlp-away, textarea, option")) continue;
    const style = getComputedStyle(element);
    check(element instanceof SVGElement ? style.fill : style.color, element, text);
  }
  for (const box of document.querySelectorAll(".dlp input, .dlp textarea")) {
    check(getComputedStyle(box).color, box, "what is typed");
    check(getComputedStyle(box, "::placeholder").color, box, "hint");
  }
  return [...found];
}
"""
UNNAMED = """
() => [...document.querySelectorAll(`.dlp :is(button, input, textarea, select, progress, [role=radio], [role=grid],
    [role=group], [role=img])`)]
  .filter((e) => e.checkVisibility() && !e.ariaLabel && !e.textContent.trim()
    && ![...(e.labels ?? [])].some((label) => label.textContent.trim()))
  .map((e) => e.outerHTML.slice(0, 120))
"""
STICKS_OUT = """
() => {
  const edge = document.querySelector(".dlp").getBoundingClientRect().right + 0.5;
  return [...document.querySelectorAll(".dlp *")]
    .filter((e) => !e.closest(".dlp-scroll *, .dlp-away, svg") && e.checkVisibility())
    .filter((e) => e.getBoundingClientRect().right > edge).map((e) => e.outerHTML.slice(0, 90));
}
"""
LETTERS = """
() => Math.min(99, ...[...document.querySelectorAll(".dlp-plot text")].map((t) => {
  const m = t.getScreenCTM();
  return parseFloat(getComputedStyle(t).fontSize) * Math.hypot(m.a, m.b);
}))
"""
TABS = """
() => [...document.querySelectorAll(".dlp :is(button, input, textarea, select, [tabindex='0'])")]
  .filter((e) => e.checkVisibility() && !e.disabled && e.tabIndex === 0).length
"""
FOCUS = """
() => {
  const e = document.activeElement, style = getComputedStyle(e), dot = e.querySelector?.("circle:last-child");
  const ring = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  const marked = dot && parseFloat(getComputedStyle(dot).strokeWidth) >= 3;
  return [e.closest(".dlp") !== null, ring || style.boxShadow !== "none" || marked, e.outerHTML.slice(0, 100)];
}
"""


def scene(mount: Mount, name: str, **more: Any) -> Mounted:
    kind, state, act = SCENES[name]
    view = mount(kind, state(), **more)
    if act:
        act(view)
        view.frames()
    return view


@pytest.mark.parametrize("name", SCENES)
def test_texts_have_contrast_controls_have_names_and_all_have_room(mount: Mount, name: str):
    view = scene(mount, name)
    assert view.page.evaluate(UNNAMED) == []
    ids = view.find("[id]").evaluate_all("(all) => all.map((one) => one.id)")
    assert len(ids) == len(set(ids))
    for scheme in ("light", "dark"):
        view.page.emulate_media(color_scheme=scheme)  # pyright: ignore[reportArgumentType]
        view.frames()
        assert view.find(".dlp-dark").count() == (scheme == "dark")
        assert view.page.evaluate(CONTRAST) == []
    for width in (320, 480, 900, 1600):
        view.page.set_viewport_size({"width": width, "height": 900})
        view.frames()
        assert view.page.evaluate(STICKS_OUT) == [], width
        assert view.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        assert view.page.evaluate(LETTERS) >= 11


@pytest.mark.parametrize("name", ["running", "done", "runs", "one"])
def test_everything_is_reached_by_tab_and_the_focus_is_seen(mount: Mount, name: str):
    view = scene(mount, name)
    view.page.evaluate("() => { document.body.prepend(document.createElement('button')); }")
    view.find("body > button").focus()
    reached = 0
    for _ in range(80):
        view.page.keyboard.press("Tab")
        inside, visible, what = view.page.evaluate(FOCUS)
        if not inside:
            break
        assert visible, what
        reached += 1
    assert reached == view.page.evaluate(TABS) > 5


def test_in_jupyterlab_plain_keys_are_the_views_own(mount: Mount):
    """JupyterLab listens at the document, and heeds this attribute of the element that has the focus."""
    view = scene(mount, "done")
    view.page.evaluate("""() => document.addEventListener("keydown", ({ target }) => {
      globalThis.kept = target.hasAttribute("data-lm-suppress-shortcuts");
    }, true)""")
    view.find(".dlp-dot[tabindex='0']").focus()
    presses = ("ArrowDown", True), ("Enter", True), ("Control+s", False), ("Shift+Enter", False), ("a", True)
    for press, ours in presses:
        view.page.keyboard.press(press)
        assert view.page.evaluate("() => kept") is ours, press
    view.page.get_by_label("edit the whole prompt").press("Shift+Enter")
    assert view.page.evaluate("() => kept")


def test_the_theme_of_the_page_counts_and_is_followed(mount: Mount):
    view = scene(mount, "running", scheme="light")
    dark = view.find(".dlp.dlp-dark")
    for change, expected in (
        ("document.body.dataset.jpThemeLight = 'false'", 1),
        ("document.body.dataset.jpThemeLight = 'true'", 0),
        ("delete document.body.dataset.jpThemeLight", 0),
        ("document.documentElement.dataset.theme = 'dark'", 1),
        ("document.documentElement.dataset.theme = 'light'", 0),
    ):
        view.page.evaluate(f"() => {{ {change} }}")
        view.frames()
        assert dark.count() == expected, change
    view.page.evaluate("() => { delete document.documentElement.dataset.theme }")
    view.page.emulate_media(color_scheme="dark")
    view.frames()
    assert dark.count() == 1

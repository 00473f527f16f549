"""Who can use the views: names, contrast, the keyboard alone, a focus that can be seen, room on a narrow screen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from browser.fake_states import attribution_state, empty_state, hostile_state, run_state, runs_state
from browser.mounted import Mounted

Mount = Callable[..., Mounted]


def picked(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "picked": next(reversed(state["attributions"]))}


def ledger(view: Mounted) -> None:
    view.find(".dlp-token").nth(1).click()


def heat(view: Mounted) -> None:
    view.button("heat map").click()


def tip(view: Mounted) -> None:
    view.find(".dlp-dot[tabindex='0']").focus()


def limit(view: Mounted) -> None:
    view.page.get_by_label("most cross-entropy, as a number").fill("5")
    view.page.get_by_label("most cross-entropy, as a number").press("Enter")
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
  const parse = (colour) => { const [r, g, b, a = 1] = colour.match(/[\d.]+(?:e-?\d+)?/g).map(Number); return [r, g, b, a]; };
  const over = ([r, g, b, a], under) => [r, g, b].map((c, i) => a * c + (1 - a) * under[i]);
  const light = (rgb) => { const [r, g, b] = rgb.map((c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour[3] > 0) layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reduceRight((under, colour) => over(colour, under), [255, 255, 255]);
  };
  const found = [], walker = document.createTreeWalker(document.querySelector(".dlp"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
    if (!text || !element.checkVisibility({ visibilityProperty: true }) || element.closest(".dlp-away, textarea, option")) continue;
    const style = getComputedStyle(element), inside = element instanceof SVGElement;
    const paint = inside ? style.fill : style.color;
    const under = ground(element), ink = over(parse(paint), under);
    const [a, b] = [light(ink), light(under)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${element.tagName}.${element.className.baseVal ?? element.className}: ${text.slice(0, 40)}`);
  }
  for (const box of document.querySelectorAll(".dlp input, .dlp textarea")) {
    const under = ground(box), hint = getComputedStyle(box, "::placeholder").color;
    for (const paint of [getComputedStyle(box).color, hint]) {
      const [a, b] = [light(over(parse(paint), under)), light(under)].sort((x, y) => y - x);
      if ((a + 0.05) / (b + 0.05) < 4.5) found.push(`${((a + 0.05) / (b + 0.05)).toFixed(2)} ${box.outerHTML.slice(0, 60)} ${paint}`);
    }
  }
  return [...new Set(found)];
}
"""
UNNAMED = """
() => [...document.querySelectorAll(".dlp button, .dlp input, .dlp textarea, .dlp select, .dlp progress, .dlp [role=radio], .dlp [role=grid], .dlp [role=group], .dlp [role=img]")]
  .filter((e) => e.checkVisibility() && !(e.ariaLabel || e.labels?.length && [...e.labels].some((l) => l.textContent.trim()) || e.textContent.trim()))
  .map((e) => e.outerHTML.slice(0, 120))
"""


def scene(mount: Mount, name: str, **more: Any) -> Mounted:
    kind, state, act = SCENES[name]
    view = mount(kind, state(), **more)
    if act:
        act(view)
        view.frames()
    return view


STICKS_OUT = """
() => [...document.querySelectorAll(".dlp *")].filter((e) => !e.closest(".dlp-scroll *, .dlp-away, svg") && e.checkVisibility()
  && e.getBoundingClientRect().right > document.querySelector(".dlp").getBoundingClientRect().right + 0.5).map((e) => e.outerHTML.slice(0, 90))
"""
LETTERS = """
() => Math.min(99, ...[...document.querySelectorAll(".dlp-plot text")].map((t) => { const m = t.getScreenCTM(); return parseFloat(getComputedStyle(t).fontSize) * Math.hypot(m.a, m.b); }))
"""


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
    wanted = """() => [...document.querySelectorAll(".dlp button, .dlp input, .dlp textarea, .dlp select, .dlp [tabindex='0']")]
      .filter((e) => e.checkVisibility() && !e.disabled && e.tabIndex === 0).length"""
    seen = """() => {
      const e = document.activeElement, style = getComputedStyle(e), dot = e.querySelector?.("circle:last-child");
      const ring = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
      return [e.closest(".dlp") !== null, ring || style.boxShadow !== "none" || (dot && parseFloat(getComputedStyle(dot).strokeWidth) >= 3), e.outerHTML.slice(0, 100)];
    }"""
    view.page.evaluate(
        "() => { const start = document.createElement('button'); document.body.prepend(start); start.focus(); }"
    )
    reached = 0
    for _ in range(80):
        view.page.keyboard.press("Tab")
        inside, visible, what = view.page.evaluate(seen)
        if not inside:
            break
        assert visible, what
        reached += 1
    assert reached == view.page.evaluate(wanted) > 5


def test_in_jupyterlab_plain_keys_are_the_views_own(mount: Mount):
    """JupyterLab heeds this attribute before anything in the page hears of the key."""
    view = scene(mount, "done")
    kept = "() => document.querySelector('.dlp').hasAttribute('data-lm-suppress-shortcuts')"
    view.find(".dlp-dot[tabindex='0']").focus()
    for press, ours in (
        ("ArrowDown", True),
        ("Enter", True),
        ("Control+s", False),
        ("Shift+Enter", False),
        ("a", True),
    ):
        view.page.keyboard.press(press)
        assert view.page.evaluate(kept) is ours, press
    view.page.get_by_label("edit the whole prompt").press("Shift+Enter")
    assert view.page.evaluate(kept)


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

"""Pages of comparisons and examples in Chromium: tabs, points, the worst of tokens, every width, without scripts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dreamy_lens.api.compare import compare
from dreamy_lens.comparison import Comparison
from tests.comparison.test_comparison import COST, VALUE, hostile, saved
from tests.helpers.scans import scanned

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.browser.lab import Lab

Open = Callable[..., "Page"]
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
INK = """() => [...document.querySelectorAll('.dl-v > b')].map((b) => getComputedStyle(b).backgroundColor)"""


def some(measured: bool = True) -> Comparison:
    rng = np.random.default_rng(0)
    value, cost = [*VALUE, *rng.normal(1, 1, 60)], [*COST, *rng.uniform(2, 6, 60)]
    pieces = tuple(f" word{i}" for i in range(80))
    return compare(
        saved((5.2, 3.5), (6.0, 5.5), (9.0, 8.0)), scanned(value, cost, k=12, measured=measured, pieces=pieces)
    )


@pytest.fixture
def shown(offline_page: Open, tmp_path: Path) -> Callable[[str], Page]:
    """`shown(html)` opens a page from a file."""

    def show(html: str, **more: Any) -> Page:
        path = tmp_path / "page.html"
        path.write_text(html, encoding="utf-8", errors="replace")
        page = offline_page(path, **more)
        page.set_default_timeout(5000)
        return page

    return show


def test_tabs_show_one_part_at_a_time_by_mouse_and_by_keys(shown: Callable[..., Page]):
    page = shown(some().to_html())
    parts = page.locator(".dl-panels > section")
    assert [parts.nth(i).is_visible() for i in range(4)] == [True, False, False, False]
    for i, label in enumerate(("strongest", "by fluency", "quantiles", "how far from the data")):
        page.get_by_text(label, exact=True).first.click()
        assert [parts.nth(j).is_visible() for j in range(4)] == [i == j for j in range(4)]
    page.keyboard.press("ArrowLeft")
    assert parts.nth(2).is_visible() and page.locator("text=of the windows are at or below").first.is_visible()


def test_a_point_that_is_chosen_shows_its_prompt_beside_the_drawing(shown: Callable[..., Page]):
    page = shown(some().to_html())
    picked, heads = page.locator(".dl-picked article"), ".dl-picked .dl-head"
    assert picked.count() == 2 and "dream 3" in page.locator(heads).first.inner_text()
    marks = page.locator("svg a")
    dreams = page.locator("svg a:has(circle)")
    dreams.nth(0).click(force=True)
    assert "dream 1" in page.locator(heads).first.inner_text() and "5.20" in page.locator(heads).first.inner_text()
    page.locator("svg a:has(rect)").first.click(force=True)
    assert picked.count() == 2 and "window 12" in page.locator(heads).nth(1).inner_text()
    assert page.locator("svg a.dl-on").count() == 2 and page.url.endswith("page.html")  # nothing jumped
    dreams.nth(0).focus()
    page.keyboard.press("ArrowRight")
    assert "dream 2" in page.locator(heads).first.inner_text()
    assert page.evaluate("() => document.activeElement.classList.contains('dl-on')")
    assert sum(marks.nth(i).get_attribute("tabindex") == "0" for i in range(marks.count())) == 1


def test_values_are_said_where_they_are_pointed_at_and_under_every_token_if_asked(shown: Callable[..., Page]):
    page = shown(some().to_html())
    token = page.locator(".dl-picked article:has(.dl-mark-w) .dl-v").last
    said = token.get_attribute("data-v")
    content = "(e) => getComputedStyle(e, '::after').content"
    assert token.evaluate(content) == "none"
    token.hover()
    assert token.evaluate(content) == f'"{said}"'
    page.get_by_text("write every value under its token").click()
    page.mouse.move(0, 0)
    assert token.evaluate(content) == f'"{said}"'
    assert len(set(page.evaluate(INK))) > 3  # one scale, several strengths


def test_without_scripts_a_point_leads_to_its_card_in_whichever_tab(chromium: Browser, tmp_path: Path):
    path = tmp_path / "page.html"
    path.write_text(some().to_html(), encoding="utf-8")
    context = chromium.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(path.as_uri())
    links = page.locator("svg a")
    targets = [str(links.nth(i).get_attribute("href"))[1:] for i in range(links.count())]
    fluent = next(t for t in targets if "f" in t[8:])
    for target in (targets[0], fluent):
        page.goto(f"{path.as_uri()}#{target}")
        assert page.locator(f"article[id='{target}']").is_visible()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_every_width_and_leave_no_text_unreadable(shown: Callable[..., Page], scheme: str):
    page = shown(some(measured=False).to_html(), colour_scheme=scheme)
    for width in (400, 700, 1000, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        for i in range(4):
            page.locator(".dl-tabs > label").nth(i).click()
            assert page.evaluate(OVERFLOW) <= 0, (width, i)
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == (
        "rgb(21, 24, 28)" if scheme == "dark" else "rgb(255, 255, 255)"
    )


def test_hostile_tokens_are_text_in_a_page_and_in_a_cell(shown: Callable[..., Page]):
    found = hostile()
    cell = found._repr_html_()
    examples = scanned(np.arange(9) + 1.0, np.full(9, 3.0))[0].to_html()
    for html in (found.to_html(), f'<!DOCTYPE html><meta charset="utf-8">{cell}{cell}', examples):
        page = shown(html)
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        if html is not examples:
            page.wait_for_function("() => document.querySelectorAll('.dl-picked').length")
            page.locator("svg a").last.click(force=True)
            assert "<script>alert(1)</script>" in page.locator("body").inner_text()
        assert page.locator("img, iframe, body script[src]").count() == 0


def test_two_cells_of_one_comparison_do_not_disturb_each_other(shown: Callable[..., Page]):
    cell = some()._repr_html_()
    page = shown(f'<!DOCTYPE html><meta charset="utf-8"><section>{cell}</section><section>{cell}</section>')
    page.wait_for_function("() => document.querySelectorAll('.dl-picked').length === 2")
    second = page.locator("body > section").nth(1)
    second.get_by_text("quantiles", exact=True).click()
    assert second.locator(".dl-panels > section").nth(2).is_visible()
    assert page.locator("body > section").first.locator(".dl-panels > section").nth(0).is_visible()
    second.locator("svg a:has(circle)").first.click(force=True)
    assert "dream 1" in second.locator(".dl-picked .dl-head").first.inner_text()
    assert "dream 3" in page.locator("body > section").first.locator(".dl-picked .dl-head").first.inner_text()


MAKE = """
import sys
sys.path.insert(0, {folder!r})
from tests.browser.test_comparison_view import some
some()
"""


@pytest.mark.slow
def test_a_notebook_shows_it_and_a_stranger_reads_it(lab: Lab):
    folder = str(Path(__file__).parents[2])
    notebook = lab.open("against.ipynb", [MAKE.format(folder=folder)])
    notebook.run_cell(0)
    output = notebook.output(0)
    output.locator(".dl-picked").wait_for(timeout=60_000)
    output.get_by_text("by fluency", exact=True).click()
    assert output.locator(".dl-pair").last.is_visible()
    notebook.save()
    stranger = lab.open(lab.untrusted("against.ipynb"))
    there = stranger.output(0).locator(".jp-RenderedHTML")
    there.get_by_text("strongest windows").wait_for()
    there.get_by_text("quantile").first.click()
    assert there.locator("details[open]").count() >= 2 and there.locator("svg, input, style").count() == 0
    assert some().sentence in there.inner_text()

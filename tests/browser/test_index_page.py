"""The index of 10,000 features in Chromium, from a file and without a network: sorted, searched, opened, narrow."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dreamy_lens.scan import Examples
from tests.helpers.scans import scanned

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Open = Callable[..., "Page"]
MANY = 10_000


@pytest.fixture(scope="module")
def few() -> Examples:
    rng = np.random.default_rng(0)
    values = np.where(rng.random(300) < 0.2, rng.exponential(2, 300), 0)
    pieces = tuple(f" word{i}" for i in range(1000))
    labels = [f"blocks.2.mlp.hook_post[-1, {i}]" for i in range(3)]
    return scanned(values, rng.uniform(1, 9, 300), labels=labels, pieces=pieces)


@pytest.fixture(scope="module")
def folder(few: Examples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "layer2"
    few.to_html(folder)
    return folder


@pytest.fixture(scope="module")
def many(folder: Path) -> Path:
    """The index with the rows of many features: those of three features with other names and numbers."""
    page = (folder / "index.html").read_text("utf-8")
    rows = re.findall(r"<tr><td>.*?(?=<tr><td>|</tbody>)", page, re.S)
    rng = np.random.default_rng(1)
    made = []
    for i, x in enumerate(rng.permutation(MANY)):
        row = re.sub(r"<td>[^<]*<td>", f"<td>{x / 7:.4g}<td>", rows[i % 3], count=1)
        made.append(re.sub(r"L2\.N\d+", f"L2.N{i}", row))
    file = folder / "many.html"
    file.write_text(page.replace("".join(rows), "".join(made)), "utf-8")
    return file


def names(page: Page) -> list[str]:
    return page.locator("tbody tr:not(.dl-gap) td:first-child").all_inner_texts()


def test_ten_thousand_features_are_sorted_at_once(many: Path, offline_page: Open, capsys: pytest.CaptureFixture[str]):
    assert many.stat().st_size < 5e6
    page = offline_page(many)
    took = page.evaluate(
        """() => {
            const times = [];
            for (const button of document.querySelectorAll("th button")) {
                for (let i = 0; i < 2; i++) {
                    const start = performance.now();
                    button.click();
                    document.body.offsetHeight; // with the layout
                    times.push(performance.now() - start);
                }
            }
            return times;
        }"""
    )
    with capsys.disabled():
        print(f"\nsorting {MANY:,} features takes at most {max(took):.1f} ms, in the median {np.median(took):.1f} ms")
    assert len(took) == 10 and max(took) < 1000  # the machine may be busy
    assert page.locator("tbody tr").count() < 200  # only the rows in view are in the page


def test_columns_sort_both_ways_and_the_search_goes_through_all(many: Path, offline_page: Open):
    page = offline_page(many)
    page.click("th >> text=max")
    values = [float(x) for x in page.locator("tbody tr:not(.dl-gap) td:nth-child(2)").all_inner_texts()]
    assert values == sorted(values, reverse=True) and values[0] == float(f"{(MANY - 1) / 7:.4g}")
    assert page.get_attribute("th:nth-child(2)", "aria-sort") == "descending"
    page.click("th >> text=max")
    assert page.locator("tbody tr:not(.dl-gap) td:nth-child(2)").first.inner_text() == "0"
    page.click("th >> text=feature")
    assert names(page)[:3] == ["L2.N0", "L2.N1", "L2.N2"] and page.get_attribute("th:nth-child(2)", "aria-sort") is None
    page.fill("input[type=search]", "n9999")
    assert names(page) == ["L2.N9999"] and page.inner_text("[role=status]") == "1 of 10,000"
    page.fill("input[type=search]", "no such text")
    assert names(page) == []


def test_scrolling_shows_the_rows_that_belong_there(many: Path, offline_page: Open):
    page = offline_page(many)
    height = page.evaluate("document.documentElement.scrollHeight")
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    page.wait_for_function("[...document.querySelectorAll('td:first-child')].some((x) => x.innerText === 'L2.N9999')")
    assert page.evaluate("document.documentElement.scrollHeight") == pytest.approx(height, abs=2)
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight / 2)")
    page.wait_for_function(
        """() => {
            const cell = document.elementFromPoint(80, innerHeight / 2)?.closest("tr")?.cells[0];
            return Math.abs(parseInt(cell?.innerText.slice(4)) - 5000) < 40;
        }"""
    )


def test_a_row_opens_its_page_and_the_way_back_keeps_the_order(folder: Path, offline_page: Open):
    page = offline_page(folder / "index.html")
    page.click("th >> text=kurtosis")
    page.fill("input[type=search]", "l2")
    page.locator("tbody tr td:last-child").first.click(force=True)  # anywhere on the row
    page.wait_for_url("**/features/*.html")
    assert "L2.N0" in page.inner_text("h1") and page.locator("article").first.is_visible()
    # The shared style sheet arrived, from a file too.
    assert page.evaluate("getComputedStyle(document.querySelector('.dl-v')).display") == "inline-block"
    page.click("text=L2.N1 →")
    page.wait_for_url("**/features/1.html")
    page.go_back()
    page.go_back()
    page.wait_for_selector("th[aria-sort=descending] >> text=kurtosis")
    assert page.input_value("input[type=search]") == "l2"
    page.click("tbody a >> nth=1")
    page.click("text=All 3 features")
    assert page.locator("tbody tr").count() == 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 700, 1000, 1400])
def test_nothing_is_wider_than_the_screen(folder: Path, offline_page: Open, width: int, scheme: str):
    page = offline_page(folder / "features" / "1.html", colour_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.goto((folder / "index.html").as_uri())
    page.click("th >> text=kurtosis")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut = "(all) => all.filter((x) => x.scrollWidth > x.clientWidth + 1).map((x) => x.innerText)"
    assert page.locator("th, th button").evaluate_all(cut) == []
    heights = page.evaluate("[...document.querySelectorAll('tbody tr:not(.dl-gap)')].map((x) => x.offsetHeight)")
    assert len(set(heights)) == 1  # the place of a row follows from its number


def test_without_scripts_it_is_a_plain_table_with_links(folder: Path, chromium: Browser):
    context = chromium.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto((folder / "index.html").as_uri())
    assert names(page) == ["L2.N0", "L2.N1", "L2.N2"] and not page.locator("input").is_visible()
    page.locator("tbody tr td:last-child").nth(1).click(force=True)
    page.wait_for_url("**/features/1.html")
    context.close()

"""A card in Chromium, from a file and without a network: it fits phones, links lead somewhere, the panel opens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dreamy_lens.api.card import card
from dreamy_lens.comparison import Card
from tests.comparison.test_card import FEATURE, SCAN, SMALL, texts
from tests.helpers import models

if TYPE_CHECKING:
    from playwright.sync_api import Page

Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def made() -> Card:
    return card(FEATURE, models.family("gpt2").bridge, texts(), scan=SCAN, strips=3, **SMALL)


@pytest.fixture
def shown(made: Card, offline_page: Open, tmp_path: Path) -> Callable[..., Page]:
    def show(static: bool = False) -> Page:
        path = tmp_path / "card.html"
        made.to_html(path, static=static)  # whose policy lets no script run
        page = offline_page(path)
        page.set_default_timeout(5000)
        return page

    return show


@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_is_wider_than_the_screen(shown, width):
    page = shown()
    page.set_viewport_size({"width": width, "height": 800})
    page.click("summary >> text=Explore the run")
    page.wait_for_function("document.querySelectorAll('.dlp svg').length > 0")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".dlp").is_visible()


def test_points_lead_to_prompts_and_windows_and_tabs_need_no_script(shown):
    page = shown(static=True)
    page.click("text=quantiles")
    assert page.locator("h4 >> text=of the windows are at or below").first.is_visible()
    assert not page.locator("article:has-text('window 1')").first.is_visible()
    page.locator("svg a[href$='t1']").first.dispatch_event("click")
    assert page.locator("article:target").is_visible()  # its tab comes to the front
    page.locator("svg a[href$='d1']").first.dispatch_event("click")
    assert page.locator("section.dl-dream:target").is_visible()

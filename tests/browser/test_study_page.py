"""Pages of studies: claims that stand below each other on phones, and figures that suit dark themes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Page

from dreamy_lens.results import ChartSeries, StudyChart, StudyClaim, StudyResult

Open = Callable[..., Page]

PLACES = "() => [...document.querySelectorAll('.dl-claims tr:last-child td')].map((e) => e.getBoundingClientRect().top)"


@pytest.fixture
def page_file(tmp_path: Path) -> Path:
    table = pd.DataFrame({"value": [1.0, 2.0], "text": ["one prompt", "another prompt"]})
    claim = StudyClaim("data", "Are dreams higher than data?", "in 9 of 10 cases", "in 4 of 5 cases", "holds", "half")
    chart = StudyChart("Values", "value", "share", (ChartSeries("all", (0.0, 1.0), (0.0, 1.0), "line"),))
    study = StudyResult(
        name="toy", title="Toy study", model="none", settings={"length": 4}, tables={"prompts": table},
        claims=(claim,), charts=(chart,), notes=(), seconds=1.0,
    )  # fmt: skip
    study.to_html(tmp_path / "study.html")
    return tmp_path / "study.html"


@pytest.mark.parametrize(("width", "below"), [(1000, False), (400, True)])
def test_claims_stand_beside_each_other_or_below_each_other(
    page_file: Path, offline_page: Open, width: int, below: bool
):
    page = offline_page(page_file)
    page.set_viewport_size({"width": width, "height": 800})
    places = page.evaluate(PLACES)
    assert len(set(places)) == (4 if below else 1) and len(places) == 4
    assert page.evaluate("() => document.documentElement.scrollWidth") == width


@pytest.mark.parametrize(("scheme", "ground"), [("light", "none"), ("dark", "invert")])
def test_a_figure_has_the_ground_of_the_theme(page_file: Path, offline_page: Open, scheme: str, ground: str):
    page = offline_page(page_file, colour_scheme=scheme)
    assert page.evaluate("() => getComputedStyle(document.querySelector('.dl-figure')).filter").startswith(ground)

"""The panels where they live: JupyterLab from the first cell to the reopened notebook, a converted page, marimo."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.chromium import TOLD_BY_NBCONVERT, to_html

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from tests.browser.lab import Lab
    from tests.browser.marimo_rig import Running

FIRST = Path(__file__).parents[2] / "notebooks" / "01_first_dream.ipynb"
LONG = 'run = dl.dream("L2.N812", model, iterations=5000, seed=0)'


def first_cells() -> list[str]:
    """The cells of the first notebook up to its dream, which is made long enough to play with."""
    nbformat = pytest.importorskip("nbformat")
    if not FIRST.is_file():
        pytest.skip("needs the whole source tree")
    sources = [c.source for c in nbformat.read(FIRST, 4).cells if c.cell_type == "code"]
    at = next(i for i, source in enumerate(sources) if source.startswith("run = dl.dream("))
    assert re.search(r"iterations=\d+", sources[at])
    return [*sources[:at], re.sub(r"iterations=\d+", "iterations=5000", sources[at])]


def state_of(view: Locator) -> str:
    return view.locator(".dlp-state").inner_text()


def iteration(view: Locator) -> int:
    found = re.search(r"iteration (\d+) of", state_of(view))
    return int(found[1]) if found else -1


def wait_for(page: Page, view: Locator, what: str, argument: Any = None) -> None:
    page.wait_for_function(f"([view, given]) => {what}", arg=[view.element_handle(), argument])


def moves_on(page: Page, view: Locator, after: int) -> None:
    reached = "Number(/iteration (\\d+) of/.exec(view.querySelector('.dlp-state').textContent)[1])"
    wait_for(page, view, f"{reached} > given", after)


def test_watch_pause_try_resume_stop_click_reopen(lab: Lab, tmp_path: Path, offline_page: Callable[..., Page]):
    cells = first_cells()
    notebook = lab.open("first.ipynb", [*cells, "run.frontier"])
    page, dream = notebook.page, len(cells) - 1
    for index in range(len(cells)):
        notebook.run_cell(index)
    view = notebook.output(dream).locator(".dlp-dream")
    view.wait_for()

    # The frontier moves, and another cell answers meanwhile.
    wait_for(page, view, "view.querySelectorAll('.dlp-dot').length > 2")
    before = iteration(view)
    moves_on(page, view, before)
    assert min(notebook.ask("run.so_far.iteration > 0 and run.status")[1] for _ in range(3)) < 1.0
    assert notebook.ask("run.status")[0] == "'running'"

    # Pause; click a point: its strip comes; try a token while paused.
    view.get_by_role("button", name="Pause").click()
    view.get_by_role("button", name="Resume").wait_for()
    stood = iteration(view)
    view.locator(".dlp-dot").last.click()
    wait_for(page, view, "view.querySelectorAll('.dlp-strip .dlp-token').length === 12")
    wait_for(page, view, "view.querySelector('.dlp-ramp')")
    view.locator(".dlp-token").nth(3).click()
    view.get_by_label("another token").fill(" only")
    view.get_by_label("another token").press("Enter")
    wait_for(page, view, "[...view.querySelectorAll('.dlp-token b')][3].textContent === ' only'")
    wait_for(page, view, "!view.querySelector('.dlp-numbers').textContent.includes('Working')")
    notebook.ask("from dreamy_lens.panels.run_view import inspector_of; looks = inspector_of(run)")
    shown = float(view.locator(".dlp-numbers b").first.inner_text().replace("−", "-"))
    tried = notebook.ask("[one['ids'] for one in looks.known.values() if one['tokens'][3] == ' only']")[0]
    exact = notebook.ask(f"float(dl.score('L2.N812', {json.loads(tried)[0]}, model).value[0])")[0]
    assert shown == pytest.approx(float(exact), abs=0.01)
    assert iteration(view) == stood and notebook.ask("run.status")[0] == "'paused'"
    view.get_by_role("button", name="undo").click()
    wait_for(page, view, "!view.querySelector('[data-focus=undo]')")

    # Go on; stop within a step.
    view.get_by_role("button", name="Resume").click()
    moves_on(page, view, stood)
    view.get_by_role("button", name="Stop").click()
    assert notebook.ask("run.wait().status")[0] == "'stopped'"

    # It freezes in its place, and stays alive while kernel and page are there.
    page.wait_for_function("() => document.querySelector('.jp-RenderedHTML .dlp-dream')", timeout=90_000)
    frozen = notebook.output(dream).locator(".dlp-dream")
    frozen.get_by_role("button", name="100 more iterations").wait_for()
    frozen.get_by_label("edit the whole prompt").fill("the same as described only")
    frozen.get_by_role("button", name="Score", exact=True).click()
    wait_for(page, frozen, "view.querySelector('.dlp-text').textContent.startsWith('the same as described only')")
    for kind in ("light", "dark"):
        notebook.theme(kind)
        notebook.screenshot(tmp_path / f"{kind}.png", index=dream)
        assert frozen.evaluate("v => v.classList.contains('dlp-dark')") is (kind == "dark")
    notebook.run_cell(dream + 1)
    assert notebook.output(dream + 1).get_by_role("table").count() == 1

    saved = notebook.save()
    outputs = saved["cells"][dream]["outputs"]
    assert len(outputs) == 1 and "application/vnd.jupyter.widget-view+json" not in outputs[0]["data"]
    assert len("".join(outputs[0]["data"]["text/html"])) < 110_000
    assert len(notebook.path.read_bytes()) < 400_000

    # The next day: another kernel, nothing run; a page with no kernel and no network; a stranger's notebook.
    again = notebook.reopen()
    click_a_token(again.page, again.output(dream).locator(".dlp-dream"))
    assert again.output(dream).get_by_role("button", name="100 more iterations").count() == 0
    again.close()
    path = notebook.path
    click_a_token(*(lambda p: (p, p.locator(".dlp-dream")))(offline_page(to_html(path, tmp_path), TOLD_BY_NBCONVERT)))
    stranger = lab.open(lab.untrusted("first.ipynb"))
    stranger.output(dream).get_by_text("L2.N812").wait_for()
    assert stranger.output(dream).locator("span[title*='worst substitute']").count() == 12
    assert stranger.output(dream).locator(".dlp-dream").count() == 0


def click_a_token(page: Page, view: Locator) -> None:
    """In a view without a kernel, a point can be picked and a token has its substitutes."""
    view.wait_for()
    wait_for(page, view, "view.querySelectorAll('.dlp-token').length === 12 && view.querySelector('.dlp-ramp')")
    view.locator(".dlp-token").nth(11).click()
    wait_for(page, view, "view.querySelectorAll('.dlp-ledger tbody tr').length > 4")
    assert view.locator("input[type=text]:not(.dlp-number)").count() == 0
    view.locator(".dlp-dot").first.click(force=True)
    wait_for(page, view, "view.querySelector('.dlp-table tr.dlp-on')")


def test_the_page_in_the_documentation_answers_clicks(offline_page: Callable[..., Page]):
    path = FIRST.parents[1] / "docs" / "first_dream.html"
    if not path.is_file():
        pytest.skip("needs the whole source tree")
    assert path.stat().st_size < 110_000
    page = offline_page(path)
    click_a_token(page, page.locator(".dlp-dream"))


@pytest.mark.slow
def test_an_interrupt_while_a_cell_waits_keeps_everything(lab: Lab):
    loading = "import dreamy_lens as dl\nmodel = dl.load_model()"
    notebook = lab.open("interrupted.ipynb", [loading, LONG, "run.frontier"])
    notebook.run_cell(0)
    notebook.run_cell(1)
    view = notebook.output(1).locator(".dlp-dream")
    wait_for(notebook.page, view, "view.querySelectorAll('.dlp-dot').length > 2")
    notebook.run_cell(2, wait=False)
    notebook.page.wait_for_timeout(500)
    notebook.interrupt()
    notebook.output(2).get_by_role("table").wait_for()
    assert notebook.ask("run.status, len(run.frontier) > 2")[0] == "('stopped', True)"


@pytest.mark.slow
def test_several_runs_and_a_prompt_to_play_with(lab: Lab):
    notebook = lab.open(
        "several.ipynb",
        [
            "import dreamy_lens as dl\nmodel = dl.load_model()",
            'runs = dl.dream("L2.N812", model, seeds=range(2), iterations=6, population=4, children=8)',
            "runs.wait(); None",
            'dl.explore("L2.N812", "if given, the method is applied only", model)',
        ],
    )
    notebook.run_all()
    view = notebook.output(1).locator(".dlp-runs")
    view.wait_for()
    wait_for(notebook.page, view, "/^done/.test(view.querySelector('.dlp-state').textContent)")
    assert view.get_by_role("button", name="seed 1").count() == 1
    one = notebook.output(3).locator(".dlp-attribution")
    one.get_by_label("edit the whole prompt").fill("the same as described only")
    one.get_by_role("button", name="Score", exact=True).click()
    wait_for(notebook.page, one, "view.querySelector('.dlp-text').textContent.startsWith('the same as described only')")
    wait_for(notebook.page, one, "view.querySelector('.dlp-ramp') && !/working/.test(view.textContent)")


@pytest.mark.slow
def test_marimo_updates_live_and_stops(marimo_app: Callable[..., Running]):
    page = marimo_app(["import dreamy_lens as dl", LONG.replace("model, ", ""), "run"]).page
    view = page.locator(".dlp-dream").first
    view.wait_for(timeout=60_000)
    wait_for(page, view, "view.querySelectorAll('.dlp-dot').length > 2")
    before = iteration(view)
    moves_on(page, view, before)
    assert "Update marimo" not in view.inner_text()
    view.get_by_role("button", name="Stop").click()
    wait_for(page, view, "/^stopped/.test(view.querySelector('.dlp-state').textContent)")

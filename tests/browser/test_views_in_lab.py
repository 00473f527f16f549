"""What only JupyterLab does to a view: it takes keys for itself, and keeps widgets whose kernel has restarted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.browser.lab import Lab

RUN = 'run = dl.dream("L2.N812", dl.load_model(), iterations=6, population=4, children=8, length=6)'
RESTART = "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
ACTIVE = "() => window.jupyterapp.shell.currentWidget.content.activeCellIndex"
CELLS = "() => window.jupyterapp.shell.currentWidget.content.widgets.length"


@pytest.mark.slow
def test_keys_belong_to_the_view_and_a_restart_freezes_it(lab: Lab):
    notebook = lab.open("keys.ipynb", ["import dreamy_lens as dl", RUN, "run.wait(); None", "1"])
    for index in range(3):
        notebook.run_cell(index)
    page = notebook.page
    page.wait_for_function("() => document.querySelector('.jp-RenderedHTML .dlp-dream')", timeout=90_000)
    view = notebook.output(1).locator(".dlp-dream")
    view.get_by_role("button", name="100 more iterations").wait_for()

    # Arrows move along the frontier, not among the cells; letters add none; Enter presses a button.
    view.locator(".dlp-dot").last.click(force=True)
    view.locator(".dlp-dot.dlp-on").focus()
    page.keyboard.press("Home")
    active = page.evaluate(ACTIVE)
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowDown")
    page.wait_for_function("() => document.querySelectorAll('.dlp-dot')[0].getAttribute('aria-checked') === 'true'")
    page.keyboard.press("a")
    assert page.evaluate(ACTIVE) == active == 1 and page.evaluate(CELLS) == 4
    assert page.evaluate("() => document.activeElement.classList.contains('dlp-dot')")
    view.locator(".dlp-ramp").wait_for()
    view.get_by_role("button", name="heat map").focus()
    page.keyboard.press("Enter")
    view.locator(".dlp-heat").wait_for()
    assert page.evaluate("() => !document.querySelector('.jp-Notebook').classList.contains('jp-mod-editMode')")

    # A new kernel knows nothing of the run: what needs one goes, what does not stays.
    picked = view.locator("tr.dlp-on").get_attribute("data-key")
    page.evaluate(RESTART)
    view.get_by_role("button", name="100 more iterations").wait_for(state="detached", timeout=30_000)
    assert view.locator("tr.dlp-on").get_attribute("data-key") == picked
    assert view.locator("textarea").count() == 0 and view.locator(".dlp-token").count() == 6

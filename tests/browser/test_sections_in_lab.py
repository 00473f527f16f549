"""Sections in JupyterLab: a kernel computes them while the run goes on, and the file of the notebook keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.test_first_notebook import wait_for
from tests.helpers.frozen_pages import frozen_state

if TYPE_CHECKING:
    from tests.browser.lab import Lab

RUN = 'run = dl.dream("L2.N812", model, iterations=100_000, search="epo", population=4, children=8, length=6, seed=0)'
RESTART = "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
PLACE = "(place) => { place.scrollIntoView({ block: 'end' }); return place.getBoundingClientRect().bottom; }"
FITS = "() => document.querySelector('.jp-NotebookPanel').getBoundingClientRect().bottom <= innerHeight"
BOTTOM = "(place) => place.getBoundingClientRect().bottom"


@pytest.mark.slow
def test_sections_are_computed_while_a_run_goes_on_and_are_kept_in_the_file(lab: Lab):
    notebook = lab.open("sections.ipynb", ["import dreamy_lens as dl\nmodel = dl.load_model()", RUN, "run.status", "1"])
    notebook.run_cell(0)
    notebook.run_cell(1)
    page = notebook.page
    view = notebook.output(1).locator(".dlp-dream").first
    wait_for(page, view, "Number(/best value ([\\d.]+)/.exec(view.querySelector('.dlp-state').textContent)?.[1]) > 3")

    # While the run goes on, and while it is paused.
    view.get_by_role("button", name="Ways to drive it").click()
    view.get_by_text("After iteration ").wait_for(timeout=60_000)
    assert notebook.ask("run.status")[0] == "'running'"
    view.get_by_role("button", name="Pause").click()
    view.get_by_role("button", name="Resume").wait_for()
    view.locator(".dlp-dot").last.click(force=True)
    view.get_by_role("button", name="Where it comes from").click()
    view.locator(".dlp-section").get_by_text("The pre-activation of L2.N812 is ").wait_for(timeout=60_000)
    assert notebook.ask("run.status")[0] == "'paused'"
    view.get_by_role("button", name="Stop").click()
    page.wait_for_function("() => document.querySelector('.jp-RenderedHTML .dlp-dream')", timeout=90_000)
    view = notebook.output(1).locator(".dlp-dream").first
    view.get_by_role("button", name="100 more iterations").wait_for()
    view.locator(".dlp-section").get_by_text("The pre-activation of L2.N812 is ").wait_for()  # still open

    # When the user has left the view, the section that was opened last is in the file too, and nothing has moved.
    view.get_by_role("button", name="What it does").click()
    view.locator(".dlp-section").get_by_text("mean of the placebos").wait_for(timeout=60_000)
    page.set_viewport_size({"width": 1300, "height": 500})  # the end of the page is near
    page.wait_for_function(FITS)  # JupyterLab follows the window later
    before = view.locator(".dlp-section").evaluate(PLACE)
    page.mouse.move(2, 2)
    page.evaluate("() => document.activeElement.blur()")
    page.wait_for_function("(view) => !view.isConnected", arg=view.element_handle(), timeout=30_000)
    view.locator(".dlp-section").get_by_text("mean of the placebos").wait_for()
    after = view.locator(".dlp-section").evaluate(BOTTOM)
    assert abs(after - before) < 2
    html = "".join(notebook.save()["cells"][1]["outputs"][0]["data"]["text/html"])
    kept = frozen_state(html)["fragments"]
    assert sorted(name.partition(" ")[0] for name in kept) == ["downstream", "mechanisms", "upstream"]

    # Without the kernel the sections are there, and those that were not computed are not.
    page.evaluate(RESTART)
    view.get_by_role("button", name="100 more iterations").wait_for(state="detached", timeout=30_000)
    wait_for(page, view, "!view.querySelector('textarea')")
    view.locator(".dlp-section").get_by_text("mean of the placebos").wait_for()
    view.get_by_role("button", name="Where it comes from").click()
    view.locator(".dlp-section").get_by_text("The pre-activation of L2.N812 is ").wait_for()
    assert not view.get_by_role("button", name="In words").count()

"""An explored prompt in JupyterLab: the file of the notebook follows an edit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.test_first_notebook import wait_for
from tests.helpers.frozen_pages import frozen_state

if TYPE_CHECKING:
    from tests.browser.lab import Lab

EXPLORE = 'dl.explore("L2.N812", " the same as described only")'


@pytest.mark.slow
def test_an_edit_of_an_explored_prompt_is_in_the_saved_cell(lab: Lab):
    notebook = lab.open("explore.ipynb", ["import dreamy_lens as dl", EXPLORE])
    notebook.run_all()
    page = notebook.page
    page.wait_for_function("() => document.querySelector('.jp-RenderedHTML .dlp-attribution')", timeout=90_000)
    view = notebook.output(1).locator(".dlp-attribution").first
    box = view.get_by_label("Edit the whole prompt")
    box.fill(" the other words")
    box.press("Enter")
    view.get_by_role("button", name="Undo", exact=True).wait_for()
    wait_for(page, view, "!/working/i.test(view.querySelector('.dlp-numbers').textContent)")
    before = view.element_handle()
    page.mouse.move(2, 2)
    page.evaluate("() => document.activeElement.blur()")
    page.wait_for_function("(view) => !view.isConnected", arg=before, timeout=30_000)
    view.get_by_role("button", name="Undo", exact=True).wait_for()  # the view is live again, with the edit
    outputs = notebook.save()["cells"][1]["outputs"]
    (html,) = ("".join(out["data"]["text/html"]) for out in outputs if "text/html" in out.get("data", {}))
    (edit,) = frozen_state(html)["view_state"]["edits"].values()
    assert edit["now"]["text"] == " the other words"
    again = notebook.reopen()
    assert again.output(1).locator(".dlp-text").inner_text() == "the other words"

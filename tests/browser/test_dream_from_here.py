"""A dream from an edited prompt in JupyterLab: the edit stays, in the view and in the file of the notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.test_first_notebook import wait_for
from tests.helpers.frozen_pages import frozen_state

if TYPE_CHECKING:
    from tests.browser.lab import Lab, Notebook

RUN = 'run = dl.dream("L2.N812", model, iterations=12, search="epo", population=4, children=8, length=6, seed=0)'


@pytest.mark.slow
def test_an_edit_outlasts_a_dream_from_here(lab: Lab):
    notebook = lab.open("edit.ipynb", ["import dreamy_lens as dl\nmodel = dl.load_model()", RUN, "run.wait(); None"])
    notebook.run_all()
    page = notebook.page
    page.wait_for_function("() => document.querySelector('.jp-RenderedHTML .dlp-dream')", timeout=90_000)
    first = notebook.output(1).locator(".dlp-dream").first
    first.get_by_role("button", name="100 more iterations").wait_for()
    wait_for(page, first, "view.querySelector('.dlp-ramp')")  # a prompt is picked, and its strip is there
    picked = first.locator("tr.dlp-on").get_attribute("data-key")

    first.get_by_label("edit the whole prompt").fill(" the same as described only")
    first.get_by_label("edit the whole prompt").press("Enter")
    wait_for(page, first, "view.querySelector('.dlp-text').textContent.startsWith('the same as described only')")
    wait_for(page, first, "!/working/.test(view.querySelector('.dlp-numbers').textContent)")
    first.get_by_label("edit the whole prompt").fill(" the same as described only if")
    box = first.get_by_label("maximum cross-entropy, as a number")
    box.fill("99")
    box.press("Enter")  # in JupyterLab, Enter alone is a shortcut
    wait_for(page, first, "/Best under 99.00/.test(view.querySelector('.dlp-row output').textContent)")
    best = first.locator("tr.dlp-on").get_attribute("data-key")
    first.locator(f".dlp-dot[data-key='{picked}']").click(force=True)  # its row may be folded
    slide = "(box) => { box.value = 7; box.dispatchEvent(new Event('input')); }"
    first.locator(".dlp-times input").evaluate(slide)
    wait_for(page, first, "/after iteration 7$/.test(view.querySelector('.dlp-times output').textContent)")
    assert best is not None

    # When the user has left the view, the edit is in the file, also without another run.
    page.mouse.move(2, 2)
    page.evaluate("() => document.activeElement.blur()")
    page.wait_for_function("(view) => !view.isConnected", arg=first.element_handle(), timeout=30_000)
    first.get_by_role("button", name="dream from here").wait_for()
    html = "".join(notebook.save()["cells"][1]["outputs"][0]["data"]["text/html"])
    assert frozen_state(html)["view_state"]["edits"][picked]["now"]["text"].endswith("the same as described only")
    assert first.locator(".dlp-text").inner_text().startswith("the same as described only")

    first.get_by_role("button", name="dream from here").click()
    page.wait_for_function("() => document.querySelectorAll('.dlp-dream').length === 2", timeout=60_000)
    assert notebook.ask("run.started[-1].wait().status")[0] == "'done'"
    both = "() => document.querySelectorAll('.jp-RenderedHTML .dlp-dream .dlp-ramp').length === 2"
    page.wait_for_function(both, timeout=90_000)

    def intact(notebook: Notebook) -> None:
        one, other = (notebook.output(1).locator(".dlp-dream").nth(i) for i in (0, 1))
        assert one.locator(".dlp-text").inner_text().startswith("the same as described only")
        assert "after iteration 7" in one.locator(".dlp-times output").inner_text()
        assert one.locator(".dlp-times input").input_value() == "7"
        assert one.get_by_role("button", name="back to the picked prompt").count() == 1
        assert "from: “the same as described only”" in other.locator("header").inner_text()
        assert "from:" not in one.locator("header").inner_text()

    intact(notebook)
    assert notebook.output(1).get_by_label("edit the whole prompt").first.input_value().endswith(" only if")
    notebook.save()
    again = notebook.reopen()
    again.output(1).locator(".dlp-dream").nth(1).wait_for()
    intact(again)
    one = again.output(1).locator(".dlp-dream").first
    one.get_by_role("button", name="undo").click()
    assert one.get_by_role("button", name="undo").count() == 0

"""The feature browser in notebooks: from a search for a hook point to two runs side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.browser.lab import Lab
    from tests.browser.marimo_rig import Running


@pytest.mark.slow
def test_a_hook_point_is_found_and_dreamt_of(lab: Lab):
    notebook = lab.open("browse.ipynb", ["import dreamy_lens as dl\nbrowser = dl.browse()\nbrowser"])
    notebook.run_cell(0)
    out = notebook.output(0)
    out.get_by_text("345 hook points", exact=True).wait_for()
    out.get_by_label("search").fill("blocks.2 mlp.hook_post")
    out.get_by_role("treeitem").click()
    out.get_by_label("unit", exact=True).fill("999")
    out.get_by_text("there is no unit 999").wait_for()
    out.get_by_label("unit", exact=True).fill("812")
    out.get_by_text("ok: blocks.2.mlp.hook_post[-1, 812]").wait_for()
    for label, typed in {"iterations": "4", "parents": "2", "children": "4", "seeds": "0-1"}.items():
        out.get_by_label(label, exact=True).fill(typed)
    expected = "dl.dream('blocks.2.mlp.hook_post[-1, 812]', iterations=4, parents=2, children=4, seeds=[0, 1])"
    out.get_by_text(expected).wait_for()
    out.get_by_role("button", name="Start 2 dreams").click()
    out.get_by_role("button", name="Remove seed 1").wait_for()
    assert notebook.ask("print([run.wait().status for run in browser.runs])")[0] == "['done', 'done']"
    assert notebook.ask("print(browser.form.expression)")[0] == "blocks.2.mlp.hook_post[-1, 812]"
    out.get_by_role("button", name="Remove seed 1").click()
    out.get_by_role("button", name="Remove seed 1").wait_for(state="detached")
    assert notebook.ask("print(len(browser.runs), len(browser.children))")[0] == "1 2"


@pytest.mark.slow
def test_in_marimo_the_form_is_alive_and_runs_have_panels_in_other_cells(marimo_app: Callable[..., Running]):
    settings = "{'iterations': '3', 'parents': '2', 'children': '4'}"
    start = f"browser.wait().form._begin({{'id': 1, 'text': 'L2.N812', 'typed': {settings}}})\nbrowser"
    page = marimo_app(["import dreamy_lens as dl\nbrowser = dl.browse()\nbrowser", start]).page
    page.get_by_text("345 hook points", exact=True).first.wait_for()
    form = page.get_by_role("group", name="feature browser").first
    form.get_by_label("feature", exact=True).fill("L2.N812")
    form.get_by_text("ok: blocks.2.mlp.hook_post[-1, 812]").wait_for()
    page.get_by_role("heading", name="L2.N812").first.wait_for()

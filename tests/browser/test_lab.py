"""The JupyterLab rig: cells, widgets, threads, saving and opening again."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.browser.lab import Lab

COUNTER = """
import anywidget, traitlets

class Counter(anywidget.AnyWidget):
    _esm = '''
    export default {
        initialize({ model }) { (globalThis.begun ??= []).push(model.get("step")); },
        render({ model, el }) {
            const button = document.createElement("button");
            const show = () => { button.textContent = `clicked ${model.get("clicks")}, step ${model.get("step")}`; };
            button.onclick = () => model.send({ type: "click" });
            model.on("change:clicks", show);
            model.on("change:step", show);
            model.on("msg:custom", (m) => { button.title = m.text; });
            show();
            el.append(button);
        },
    };
    '''
    _css = "button { background: rgb(1 2 3); color: white }"
    clicks = traitlets.Int().tag(sync=True)
    step = traitlets.Int().tag(sync=True)

counter = Counter()

def hear(widget, message, buffers):
    assert message == {"type": "click"}
    widget.clicks += 1
    widget.send({"text": f"hear{'d'} {widget.clicks}"})

counter.on_msg(hear)
counter
"""
WORKER = """
import threading
finish = threading.Event()

def work():
    x = 0
    while not finish.is_set():
        x = sum(i * i for i in range(20_000)) + x  # busy, as a search is
        counter.step += 1
        finish.wait(0.02)

worker = threading.Thread(target=work)
worker.start()
"""


pytestmark = pytest.mark.slow  # of the tools for other tests, which use them all the time


def test_a_cell_runs_in_the_running_python_and_its_output_is_found(lab: Lab):
    import dreamy_lens

    here = Path(dreamy_lens.__file__).parent
    source = "import os, sys, dreamy_lens\nprint('REA' + 'DY')\n"
    source += "found = os.path.normpath(sys.executable), os.path.dirname(dreamy_lens.__file__)\n"
    source += "print(*found, os.environ['OMP_NUM_THREADS'], sep='|')"
    notebook = lab.open("runs.ipynb", [source, "1 / 0"])
    notebook.run_cell(0)
    notebook.output(0).get_by_text("READY").wait_for()
    assert notebook.text(0) == f"READY\n{os.path.normpath(sys.executable)}|{here}|1\n"
    notebook.run_cell(1)
    (error,) = notebook.outputs(1)
    assert (error["output_type"], error["ename"]) == ("error", "ZeroDivisionError")
    index = notebook.add_cell("print(6 * 7)")
    notebook.run_cell(index)
    assert notebook.text(index) == "42\n"


def test_a_widget_is_clicked_python_hears_it_and_other_cells_answer_while_a_thread_works(lab: Lab):
    notebook = lab.open("widget.ipynb", [COUNTER, WORKER])
    notebook.run_cell(0)
    button = notebook.output(0).get_by_role("button")
    button.get_by_text("clicked 0, step 0").wait_for()
    assert notebook.page.evaluate("globalThis.begun.length") == 1
    assert button.evaluate("b => getComputedStyle(b).backgroundColor") == "rgb(1, 2, 3)"
    notebook.run_cell(1)
    try:
        notebook.page.wait_for_function("b => /step [1-9]/.test(b.textContent)", arg=button.element_handle())
        button.click()
        notebook.page.wait_for_function("b => b.title === 'heard 1'", arg=button.element_handle())
        notebook.page.wait_for_function("b => b.textContent.startsWith('clicked 1,')", arg=button.element_handle())
        answers = [notebook.ask("(counter.clicks, worker.is_alive())") for _ in range(3)]
        assert {text for text, _ in answers} == {"(1, True)"}
        assert min(seconds for _, seconds in answers) < 1
    finally:
        notebook.ask("finish.set(); worker.join()")
    assert notebook.ask("worker.is_alive()")[0] == "False"


def test_a_notebook_is_saved_opened_again_with_a_new_kernel_and_distrusted_from_elsewhere(lab: Lab):
    script = "<b id='plain'>plain</b><script>document.getElementById('plain').textContent = 'by ' + 'script'</script>"
    notebook = lab.open("saved.ipynb", [f"x = 1\nfrom IPython.display import HTML\nHTML({script!r})"])
    notebook.run_cell(0)
    notebook.output(0).get_by_text("by script").wait_for()
    saved = notebook.save()
    assert saved == json.loads((lab.server.root / "saved.ipynb").read_text())
    assert saved["cells"][0]["execution_count"] == 1
    assert "".join(saved["cells"][0]["outputs"][0]["data"]["text/html"]) == script

    again = notebook.reopen()
    again.output(0).get_by_text("by script").wait_for()
    assert again.ask("'x' in globals()")[0] == "False"
    again.close()

    stranger = lab.open(lab.untrusted("saved.ipynb"))
    stranger.output(0).get_by_text("plain").wait_for()
    assert stranger.output(0).locator("script").count() == 0


def test_the_theme_changes_and_pictures_are_taken(lab: Lab, tmp_path: Path):
    notebook = lab.open("theme.ipynb", ["print('PIC' + 'TURE')"])
    notebook.run_cell(0)
    pictures = []
    for kind in ("dark", "light"):
        notebook.theme(kind)
        notebook.screenshot(tmp_path / f"{kind}.png")
        notebook.screenshot(tmp_path / f"{kind}-cell.png", index=0)
        pictures.append((tmp_path / f"{kind}-cell.png").read_bytes())
    assert pictures[0] != pictures[1]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)


def test_interrupt_reaches_a_cell_that_waits(lab: Lab):
    notebook = lab.open("interrupt.ipynb", ["import threading\nprint('WAIT' + 'ING')\nthreading.Event().wait()"])
    notebook.run_cell(0, wait=False)
    notebook.output(0).get_by_text("WAITING").wait_for()
    notebook.interrupt()
    notebook.wait_idle()
    notebook.page.wait_for_function("() => Object.values(window.runs).every(s => s === 'done')")
    assert notebook.outputs(0)[-1]["ename"] == "KeyboardInterrupt"


def test_what_a_page_asks_for_elsewhere_is_refused_and_noted(lab: Lab):
    notebook = lab.open(
        "outside.ipynb", ["from IPython.display import HTML\nHTML('<img src=\"http://192.0.2.1/x.png\">')"]
    )
    with notebook.page.expect_event("requestfailed", lambda request: "192.0.2.1" in request.url):
        notebook.run_cell(0)
    noted = notebook.watched.outside()
    notebook.watched.refused.clear()
    assert set(noted) == {"http://192.0.2.1/x.png"}  # a picture that is drawn again is asked for again

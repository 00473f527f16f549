"""The marimo rig: what a thread writes appears live, and what a view sends reaches Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.browser.marimo_rig import Running

WIDGET = """
import anywidget, threading, traitlets, dreamy_lens

class Steps(anywidget.AnyWidget):
    _esm = '''
    export default {
        initialize({ model }) { (globalThis.begun ??= []).push(model.get("step")); },
        render({ model, el }) {
            const button = document.createElement("button");
            const show = () => { button.textContent = `step ${model.get("step")}, ${model.get("status")}`; };
            button.onclick = () => model.send({ type: "stop" });
            model.on("change:step", show);
            model.on("change:status", show);
            model.on("msg:custom", (m) => { button.title = m.text; });
            show();
            el.append(button);
        },
    };
    '''
    _css = "button { background: rgb(1 2 3); color: white }"
    step = traitlets.Int().tag(sync=True)
    status = traitlets.Unicode("running").tag(sync=True)
"""
WORK = """
steps = Steps()
stop = threading.Event()

def work():
    while not stop.wait(0.05):
        steps.step += 1
    steps.send({"text": "stopped after " + str(steps.step)})
    steps.status = "stopped"

def hear(widget, message, buffers):
    assert message == {"type": "stop"}
    stop.set()

steps.on_msg(hear)
worker = threading.Thread(target=work, daemon=True)
worker.start()
steps
"""


@pytest.mark.slow
def test_a_thread_writes_live_and_a_message_from_the_view_stops_it(marimo_app: Callable[..., Running]):
    page = marimo_app([WIDGET, WORK]).page
    button = page.get_by_role("button", name="step")
    button.wait_for()
    assert page.evaluate("globalThis.begun.length") == 1
    assert button.evaluate("b => getComputedStyle(b).backgroundColor") == "rgb(1, 2, 3)"

    def step() -> int:
        return int(button.inner_text().split()[1].rstrip(","))

    until = page.wait_for_function
    first, shown = step(), button.element_handle()
    until("([b, n]) => Number(b.textContent.match(/\\d+/)[0]) > n", arg=[shown, first])
    second = step()
    until("([b, n]) => Number(b.textContent.match(/\\d+/)[0]) > n", arg=[shown, second])
    button.click()
    until("b => b.textContent.endsWith('stopped')", arg=shown)
    until("b => b.title.startsWith('stopped after')", arg=shown)
    assert button.get_attribute("title") == f"stopped after {step()}"


def test_an_app_of_cells_is_what_marimo_reads(tmp_path: Any):
    from tests.browser import marimo_rig

    source = marimo_rig.app(["import os\n_hidden = 1", "x = os.sep\nx", "y = [x for _ in range(2)]\ny"])
    assert "def _(os):\n    x = os.sep\n    x\n    return (x,)" in source
    assert "def _():\n    import os\n    _hidden = 1\n    return (os,)" in source
    assert "def _(x):" in source

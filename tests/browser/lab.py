"""JupyterLab in Chromium: a server of its own, and notebooks that are opened, run, saved and opened again.

    def test_something(lab):
        notebook = lab.open("one.ipynb", ["print('REA' + 'DY')", "1 + 1"])
        notebook.run_cell(0)
        notebook.output(0).get_by_text("READY").wait_for()

`lab` is a fixture: one server for all browser tests, a browser for the file, notebooks and kernels for the test.
Nothing of the user's configuration is read, and nothing but the server can be reached. Cells are run by Jupyter's own
commands, never by clicks and keys, which the toolbars of cells catch. A mark to wait for must not stand in the source
of the cell.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.chromium import HERE, Watched, watch
from tests.browser.find_chromium import find_chromium, why_not

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

PATIENCE = 60.0  # seconds for what takes two on a machine that has nothing else to do
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "docmanager-extension/plugin": {"autosave": False},
    "notebook-extension/tracker": {"windowingMode": "none", "autoStartDefaultKernel": True},
    "completer-extension/manager": {"autoCompletion": False},
}
IDLE = """() => {
    const panel = window.jupyterapp?.shell.currentWidget;
    return panel?.context?.isReady && panel.sessionContext?.isReady && !panel.sessionContext.isTerminated
        && panel.sessionContext.session?.kernel?.status === "idle";
}"""
RUN = """([index, ticket]) => {
    const { commands, shell } = window.jupyterapp;
    shell.currentWidget.content.activeCellIndex = index;
    window.runs ??= {};
    window.runs[ticket] = "running";
    commands.execute("notebook:run-cell").then(
        () => { window.runs[ticket] = "done"; },
        (error) => { window.runs[ticket] = String(error); });
}"""
ASK = """([code, ticket]) => {
    const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    const began = performance.now();
    const answer = { text: "", error: null, seconds: null };
    (window.answers ??= {})[ticket] = answer;
    const future = kernel.requestExecute({ code, store_history: false });
    future.onIOPub = ({ header, content }) => {
        if (header.msg_type === "stream") answer.text += content.text;
        if (header.msg_type === "execute_result") answer.text += content.data["text/plain"];
        if (header.msg_type === "error") answer.error = `${content.ename}: ${content.evalue}`;
    };
    future.done.finally(() => { answer.seconds = (performance.now() - began) / 1000; });
}"""


def execute_script() -> Any:
    """The module notebooks/execute.py, which knows how to describe the running Python as a kernel."""
    path = Path(__file__).parents[2] / "notebooks" / "execute.py"
    spec = importlib.util.spec_from_file_location("execute_notebooks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE, pause: float = 0.05) -> Any:
    """What the condition returns as soon as that is true; AssertionError with a sentence when it never is."""
    end = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < end, f"{what}: not within {patience:g} s"
        time.sleep(pause)
    return found


# The server.


class Server:
    """`jupyter lab` on a free port, in a folder of its own."""

    def __init__(self, folder: Path, package: Path):
        self.root = folder / "notebooks"
        """Where the notebooks lie."""
        runtime, settings = folder / "runtime", folder / "settings"
        for place in (self.root, runtime):
            place.mkdir(parents=True)
        for name, value in SETTINGS.items():
            path = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(value), encoding="utf-8")
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "JPY_"))},
            **execute_script().write_kernelspec(folder / "data", package),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_CONFIG_PATH": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(runtime),
            "JUPYTERLAB_SETTINGS_DIR": str(settings),
            "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
            "JUPYTER_PLATFORM_DIRS": "1",
        }
        command = [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"),
            *("--ServerApp.port=0", f"--ServerApp.root_dir={self.root}", "--ServerApp.disable_check_xsrf=True"),
            f"--ServerApp.extra_static_paths={Path(__file__).with_name('hosts')}",  # at /static, for other programs
            *("--IdentityProvider.token=", "--PasswordIdentityProvider.hashed_password="),
            *("--LabApp.extension_manager=readonly", "--LabApp.expose_app_in_browser=True"),
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ]
        self._log = folder / "server.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            known = runtime / f"jpserver-{self._process.pid}.json"
            self.url = until(lambda: self._address(known), "the start of JupyterLab", patience=90)
            until(self._answers, "an answer of JupyterLab", patience=60)
        except BaseException:
            self.stop()
            raise

    def _address(self, known: Path) -> str | None:
        assert self._process.poll() is None, f"jupyter lab ended with {self._process.returncode}:\n{self.log()}"
        try:
            found = json.loads(known.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there yet, or half written
            return None
        return f"http://127.0.0.1:{found['port']}" if found["port"] else None

    def _answers(self) -> bool:
        try:
            return bool(self.api("GET", "status"))
        except OSError:
            return False

    def log(self) -> str:
        """What the server has said so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the server's REST interface; what it answers, or None if that is nothing."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/api/{path}", data, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def end_kernels(self) -> None:
        """End every session and kernel, and wait until they are gone."""
        for kind in ("sessions", "kernels"):
            for found in self.api("GET", kind):
                try:
                    self.api("DELETE", f"{kind}/{found['id']}")
                except urllib.error.HTTPError as error:
                    if error.code != 404:  # ended in between
                        raise
        until(lambda: not self.api("GET", "sessions") and not self.api("GET", "kernels"), "the end of the kernels")

    def stop(self) -> None:
        """End the server."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="package")
def lab_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server, once for all browser tests; the test is skipped, with the reason, where what it needs is missing."""
    for module in ("jupyterlab", "ipykernel", "playwright"):
        pytest.importorskip(module)
    if find_chromium() is None:
        pytest.skip(why_not())
    import dreamy_lens

    server = Server(tmp_path_factory.mktemp("lab"), Path(dreamy_lens.__file__).parents[1])
    yield server
    try:
        server.end_kernels()
    finally:
        server.stop()


# Notebooks.


class Notebook:
    """A notebook that is open in JupyterLab."""

    def __init__(self, lab: Lab, name: str, page: Page, watched: Watched):
        self.lab, self.name, self.page, self.watched = lab, name, page, watched
        self.path = lab.server.root / name
        """Where it lies on the disk."""
        self._tickets = itertools.count()

    def wait_idle(self, patience: float = PATIENCE) -> None:
        """Wait until the kernel has nothing to do."""
        self.page.wait_for_function(IDLE, timeout=patience * 1000)

    def run_cell(self, index: int, wait: bool = True, patience: float = PATIENCE) -> None:
        """Run a cell, and wait until it has ended."""
        ticket = str(next(self._tickets))
        self.page.evaluate(RUN, [index, ticket])
        if wait:
            self.page.wait_for_function("t => window.runs[t] !== 'running'", arg=ticket, timeout=patience * 1000)
            said = self.page.evaluate("t => window.runs[t]", ticket)
            assert said == "done", said

    def run_all(self, patience: float = PATIENCE) -> None:
        """Run the cells one after the other; AssertionError at the first that fails."""
        for index, kind in enumerate(self._cells("c => c.model.type")):
            if kind == "code":
                self.run_cell(index, patience=patience)
                failed = [o for o in self.outputs(index) if o["output_type"] == "error"]
                assert not failed, f"cell {index}: {failed[0]['ename']}: {failed[0]['evalue']}"

    def _cells(self, what: str) -> Any:
        return self.page.evaluate(f"() => window.jupyterapp.shell.currentWidget.content.widgets.map({what})")

    def outputs(self, index: int) -> list[dict[str, Any]]:
        """The outputs of a cell as they would be saved now."""
        return self._cells("c => c.model.type === 'code' ? c.model.outputs.toJSON() : []")[index]

    def text(self, index: int) -> str:
        """What a cell printed and returned, as plain text."""
        found = []
        for output in self.outputs(index):
            text = output.get("text") or output.get("data", {}).get("text/plain") or ""
            found.append(text if isinstance(text, str) else "".join(text))
        return "".join(found)

    def output(self, index: int) -> Locator:
        """The place on the page where a cell's outputs stand."""
        return self.page.locator(".jp-Notebook:visible .jp-Cell").nth(index).locator(".jp-Cell-outputWrapper")

    def add_cell(self, source: str) -> int:
        """Add a cell at the end; its index."""
        return self.page.evaluate(
            """source => {
                const { model, widgets } = window.jupyterapp.shell.currentWidget.content;
                model.sharedModel.addCell({ cell_type: "code", source, metadata: {} });
                return model.cells.length - 1;
            }""",
            source,
        )

    def ask(self, code: str, patience: float = PATIENCE) -> tuple[str, float]:
        """Let the kernel run some code as another cell would; what it printed or returned, and after how many seconds.

        Raises:
            AssertionError: The code failed, or the kernel did not answer in time.
        """
        ticket = str(next(self._tickets))
        self.page.evaluate(ASK, [code, ticket])
        self.page.wait_for_function("t => window.answers[t].seconds !== null", arg=ticket, timeout=patience * 1000)
        answer = self.page.evaluate("t => window.answers[t]", ticket)
        assert answer["error"] is None, answer["error"]
        return answer["text"].removesuffix("\n"), answer["seconds"]

    def interrupt(self) -> None:
        """Interrupt the kernel, as the button does."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.interrupt()")

    def save(self) -> Any:
        """Save the notebook; what is on the disk then."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        return json.loads(self.path.read_text(encoding="utf-8"))

    def close(self) -> None:
        """Close the page; the kernel runs on."""
        self.page.context.close()

    def reopen(self) -> Notebook:
        """The notebook as one finds it the next day: opened from the disk, with a new kernel that ran nothing."""
        self.close()
        self.lab.server.end_kernels()
        return self.lab.open(self.name)

    def theme(self, kind: str) -> None:
        """Change to the "light" or the "dark" theme."""
        light = {"light": "true", "dark": "false"}[kind]
        self.page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })",
            f"JupyterLab {kind.title()}",
        )
        self.page.locator(f"body[data-jp-theme-light={light}]").wait_for(state="attached")

    def screenshot(self, path: Path, index: int | None = None) -> None:
        """A picture of the page, or of the outputs of one cell."""
        if index is None:
            self.page.screenshot(path=path)
        else:
            self.output(index).screenshot(path=path)


class Lab:
    """What a test opens notebooks with."""

    def __init__(self, server: Server, browser: Browser):
        self.server, self._browser = server, browser
        self.opened: list[Notebook] = []
        self._workspaces = itertools.count()

    def write(self, name: str, cells: Sequence[str]) -> Path:
        """Write a notebook of code cells into the server's folder."""
        import nbformat.v4 as v4

        notebook = v4.new_notebook(cells=[v4.new_code_cell(source) for source in cells])
        notebook.metadata.update(execute_script().METADATA)
        path = self.server.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(notebook), encoding="utf-8")
        return path

    def open(self, name: str, cells: Sequence[str] | None = None) -> Notebook:
        """Open a notebook of the server's folder, after it was written with these cells if there are any given."""
        if cells is not None:
            self.write(name, cells)
        context = self._browser.new_context(viewport={"width": 1280, "height": 1000})
        watched = watch(context, HERE)
        page = context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        notebook = Notebook(self, name, page, watched)
        self.opened.append(notebook)
        workspace = f"t{os.getpid()}-{id(self):x}-{next(self._workspaces)}"
        page.goto(f"{self.server.url}/lab/workspaces/{workspace}/tree/{name}?reset", wait_until="commit")
        notebook.wait_idle(patience=60)
        return notebook

    def untrusted(self, name: str) -> str:
        """A copy of a saved notebook that Jupyter does not trust, as if it came from someone else; its name."""
        notebook = json.loads((self.server.root / name).read_text(encoding="utf-8"))
        notebook["cells"].append(
            {"cell_type": "markdown", "id": "elsewhere", "metadata": {}, "source": "From elsewhere"}
        )
        for cell in notebook["cells"]:
            cell["metadata"].pop("trusted", None)
        copy = f"untrusted-{name}"
        (self.server.root / copy).write_text(json.dumps(notebook), encoding="utf-8")
        return copy


@pytest.fixture
def lab(lab_server: Server, chromium: Browser) -> Iterator[Lab]:
    """JupyterLab for one test.

    The test fails if a page asked for anything beyond the server, or had an exception that nothing caught.
    """
    lab = Lab(lab_server, chromium)
    try:
        yield lab
    finally:
        for notebook in lab.opened:
            notebook.close()
        lab_server.end_kernels()
    problems = [f"{n.name} asked for {url}" for n in lab.opened for url in n.watched.outside()]
    problems += [f"{n.name}: {error}" for n in lab.opened for error in n.watched.errors]
    assert not problems, "\n".join(problems)

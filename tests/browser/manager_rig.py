"""Notebooks whose outputs are drawn by the widget managers of VS Code and Colab, in Chromium, with a real kernel.

    def test_something(vscode):
        notebook = vscode()
        cell = notebook.run("import dreamy_lens as dl; ...")
        notebook.output(cell).locator(".dlp-dream").wait_for()

The managers are third-party code that is not in this repository: `tools/try_widget_managers` fetches and builds them
into a folder, which the variable DREAMY_LENS_WIDGET_MANAGERS names. Without it the tests are skipped. The pages around
the managers are in hosts/: they imitate what VS Code and Colab do around an output. Files that the programs load from
the network are answered with the files of the environment. `use_panels` does what a user does with panels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.chromium import HERE, Watched, watch
from tests.browser.lab import PATIENCE, Server, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Route

FOLDER = "DREAMY_LENS_WIDGET_MANAGERS"
HOSTS = Path(__file__).with_name("hosts")
FROM_ANYWHERE = {"Access-Control-Allow-Origin": "*"}
JSDELIVR, UNPKG = "https://cdn.jsdelivr.net/npm/", "https://unpkg.com/"


def managers(name: str) -> Path:
    """Folder of the built managers; the test is skipped, with the reason, where it is missing."""
    if not (folder := os.environ.get(FOLDER)):
        pytest.skip(f"{FOLDER} names no folder of widget managers; tools/try_widget_managers makes one")
    path = Path(folder) / name
    if not path.is_dir():
        pytest.skip(f"{path} is missing; tools/try_widget_managers makes it")
    return path.parent


def front_end() -> Path:
    """The file of anywidget that these managers load, as the environment has it and the CDNs have it too."""
    anywidget = pytest.importorskip("anywidget")
    return Path(anywidget.__file__).parent / "nbextension" / "index.js"


# What google/colab/output/_widgets.py of googlecolab/colabtools does with the first widget of a package.
COLAB = """
import importlib.machinery, sys, types
import IPython

MIME = "application/vnd.jupyter.widget-view+json"
URL = "https://ssl.gstatic.com/colaboratory-static/widgets/colab-cdn-widget-manager/manager.min.js"

def enable_custom_widget_manager():
    widgets._installed_url = URL
    IPython.get_ipython().display_pub.register_hook(mark)

def mark(message):
    content = message.get("content", {})
    if MIME in content.get("data", {}):
        content.setdefault("metadata", {}).setdefault(MIME, {})["colab"] = {"custom_widget_manager": {"url": URL}}
    return message

names = ("google", "google.colab", "google.colab.output", "google.colab.output._widgets")
google, colab, output, widgets = modules = [types.ModuleType(name) for name in names]
google.colab, colab.output, output._widgets = colab, output, widgets
widgets._installed_url, output.enable_custom_widget_manager = None, enable_custom_widget_manager
for module in modules:
    module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
    sys.modules[module.__name__] = module
"""


class ManagedNotebook:
    """A notebook of cells in a page that imitates a program.

    Args:
        page: Page of the notebook.
        watched: What the page did that it should not have.
        place: Function that finds the outputs of a cell.
    """

    def __init__(self, page: Page, watched: Watched, place: Callable[[Page, int], Locator]):
        self.page, self.watched = page, watched
        self._place = place
        self.loaded: list[str] = []
        """Addresses of the CDNs that the page loaded files from."""

    def run(self, code: str) -> int:
        """Run code as a new cell, and wait until it has ended; the number of the cell."""
        return self.page.evaluate("code => notebook.run(code)", code)

    def ask(self, code: str) -> str:
        """Run code that is no cell; what it prints."""
        return self.page.evaluate("code => notebook.ask(code)", code)

    def output(self, cell: int) -> Locator:
        """The place on the page where a cell's outputs stand."""
        return self._place(self.page, cell)

    def theme(self, name: str) -> None:
        """Change to the "light" or the "dark" theme."""
        self.page.evaluate("name => theme(name)", name)


class Program:
    """What a test opens notebooks with: the pages that imitate a program, and the files that they load."""

    def __init__(self, name: str, server: Server, browser: Browser, folder: Path):
        self.name, self.server, self._browser, self._folder = name, server, browser, folder
        self.opened: list[ManagedNotebook] = []

    def open(self, place: Callable[[Page, int], Locator], width: int = 1000, **given: str) -> ManagedNotebook:
        """Open a notebook with a kernel of its own; the page gets what is given as its query."""
        kernel = self.server.api("POST", "kernels", {"name": "python3"})["id"]
        context = self._browser.new_context(viewport={"width": width, "height": 900}, service_workers="block")
        watched = watch(context, HERE)
        page = context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        notebook = ManagedNotebook(page, watched, place)
        self.opened.append(notebook)
        for start in ("https://webview.test/", "https://*.colab.test/", "https://ssl.gstatic.com/"):
            context.route(f"{start}**", self._serve)
        for start in (JSDELIVR, UNPKG):
            context.route(f"{start}**", lambda route: self._deliver(route, notebook))
        query = "&".join(f"{key}={value}" for key, value in {"kernel": kernel, **given}.items())
        page.goto(f"{self.server.url}/static/{self.name}.html?{query}")
        page.wait_for_function("() => window.notebook")
        return notebook

    def _serve(self, route: Route) -> None:
        path = route.request.url.split("?")[0].split("/", 3)[3]
        kind, _, rest = path.partition("/")
        if kind == "hosts":
            found = HOSTS / rest
        elif kind == "managers":
            found = self._folder / rest
        elif path.startswith("nbextensions/anywidget/"):
            found = front_end().parent / path.rpartition("/")[2]
        elif path.endswith("manager.min.js"):
            found = self._folder / "colab" / "manager.min.js"
        else:
            return route.fulfill(status=404)
        return route.fulfill(path=found, headers=FROM_ANYWHERE | {"Content-Type": _kind(found)})

    def _deliver(self, route: Route, notebook: ManagedNotebook) -> None:
        """Answer for a CDN, with anywidget's front end and with nothing else."""
        url = route.request.url
        notebook.loaded.append(url)
        if "/anywidget@" in url:
            route.fulfill(path=front_end(), headers=FROM_ANYWHERE | {"Content-Type": "text/javascript"})
        elif url.endswith(".css"):
            route.fulfill(body="", headers=FROM_ANYWHERE | {"Content-Type": "text/css"})
        else:
            route.fulfill(body="", headers=FROM_ANYWHERE)

    def end(self) -> None:
        """Close the pages, end the kernels, and fail if a page went astray."""
        for notebook in self.opened:
            notebook.page.context.close()
        self.server.end_kernels()
        problems = [f"asked for {url}" for n in self.opened for url in n.watched.outside()]
        problems += [f"error in a script: {error}" for n in self.opened for error in n.watched.errors]
        assert not problems, "\n".join(problems)


def _kind(path: Path) -> str:
    return {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}[path.suffix]


def _in_webview(page: Page, cell: int) -> Locator:
    return page.frame_locator("iframe").locator(f"#cell-{cell}")


def _in_frame(page: Page, cell: int) -> Locator:
    page.locator(f"#cell-{cell}").scroll_into_view_if_needed()  # browsers draw no frames that are out of sight
    return page.frame_locator(f"#cell-{cell} iframe").locator("body")


def _program(name: str, request: pytest.FixtureRequest) -> Program:
    folder = managers(name)  # skips before a server starts
    return Program(name, request.getfixturevalue("lab_server"), request.getfixturevalue("chromium"), folder)


@pytest.fixture
def vscode(request: pytest.FixtureRequest) -> Iterator[Callable[..., ManagedNotebook]]:
    """`vscode(scripts="cdn", theme="light", width=1000)` opens a notebook as VS Code's Jupyter extension shows it.

    `scripts` is "cdn", where the user has allowed it, or "local", where the extension finds the file by itself.
    """
    program = _program("vscode", request)

    def open_notebook(scripts: str = "cdn", theme: str = "light", width: int = 1000) -> ManagedNotebook:
        return program.open(_in_webview, width, scripts=scripts, theme=theme)

    yield open_notebook
    program.end()


@pytest.fixture
def colab(request: pytest.FixtureRequest) -> Iterator[Callable[..., ManagedNotebook]]:
    """`colab(theme="light", width=1000)` opens a notebook whose outputs are drawn by Colab's manager."""
    program = _program("colab", request)

    def open_notebook(theme: str = "light", width: int = 1000) -> ManagedNotebook:
        notebook = program.open(_in_frame, width, theme=theme)
        notebook.ask(COLAB)
        return notebook

    yield open_notebook
    program.end()


# What a user does with panels, in every program.

PROMPT = "if given, the method is applied only"


def dream(notebook: ManagedNotebook, name: str = "run", feature: str = "L2.N812") -> int:
    """Start a long run of the embedded model under a name; the number of the cell that shows it."""
    return notebook.run(f"{name} = dl.dream({feature!r}, model, iterations=4000, population=8, children=16, length=8)")


def view_in(notebook: ManagedNotebook, cell: int) -> Locator:
    """The panel of a run in a cell, once it shows prompts."""
    view = notebook.output(cell).locator(".dlp-dream").first
    view.locator("tbody tr").first.wait_for()
    return view


def type_prompt(view: Locator, prompt: str) -> None:
    """Type a prompt into a view, and wait until its value and its strip are there."""
    view.locator("textarea").fill(prompt)
    view.locator("textarea").press("Enter")
    view.get_by_text("77.2").wait_for()
    view.locator(".dlp-ramp").wait_for()


def use_panels(notebook: ManagedNotebook) -> None:
    """Watch two runs, pick and type prompts, pause, resume and stop, show a run again, and dream from a prompt."""
    notebook.ask("import dreamy_lens as dl; model = dl.load_model()")
    cell = dream(notebook)
    view = view_in(notebook, cell)
    state = view.locator(".dlp-state").first
    before = state.inner_text()
    until(lambda: state.inner_text() != before, "a change of the panel")

    # A click picks a prompt, whose strip comes while the run goes on.
    view.locator("tbody tr").first.click()
    view.locator(".dlp-ramp").wait_for()
    assert view.locator(".dlp-token").count() == 8

    view.get_by_role("button", name="Pause").click()
    view.get_by_role("button", name="Resume").wait_for()
    assert notebook.ask("print(run.status)") == "paused"
    type_prompt(view, PROMPT)
    view.get_by_role("button", name="Resume").click()
    view.get_by_role("button", name="Pause").wait_for()
    assert notebook.ask("print(run.status)") == "running"

    # The run again, and another run: three panels at once.
    again = view_in(notebook, notebook.run("run"))
    assert "dreaming" in again.locator(".dlp-state").first.inner_text()
    second_cell = dream(notebook, "other", "L3.N100")
    second = view_in(notebook, second_cell)
    second.get_by_role("button", name="Stop").click()
    second.get_by_role("button", name="100 more iterations").wait_for()
    assert notebook.ask("print(other.status, run.status)") == "stopped running"

    # When a run has ended, its cell holds a frozen view, which is live while the kernel runs.
    notebook.output(second_cell).locator("[data-dreamy]").wait_for()
    second = view_in(notebook, second_cell)
    second.get_by_role("button", name="100 more iterations").click()
    until(lambda: notebook.ask("print(other.status)") == "running", "the run that goes on")
    notebook.ask("other.stop()")

    # A dream from the typed prompt appears in the same cell, also when the first run had ended.
    notebook.output(cell)
    view.get_by_role("button", name="Stop").click()
    view.get_by_role("button", name="100 more iterations").wait_for()
    notebook.output(cell).locator("[data-dreamy]").wait_for()
    view_in(notebook, cell).get_by_role("button", name="Dream from here").click()
    notebook.output(cell).locator(".dlp-dream").nth(1).get_by_role("button", name="Stop").click()
    until(lambda: notebook.ask("print(run.started[0].status)") == "stopped", "the end of the run that was started")

    # An ended run again, and a panel of a prompt.
    ended = view_in(notebook, notebook.run("other"))
    ended.get_by_role("button", name="100 more iterations").wait_for()
    explored = (
        notebook.output(notebook.run("dl.explore('L2.N812', 'the method is', model)")).locator(".dlp-attribution").first
    )
    explored.locator("textarea").wait_for()
    type_prompt(explored, PROMPT)


def ground(view: Locator) -> str:
    """The first colour behind a view that is not transparent, without the view's own."""
    return view.evaluate("""(view) => {
        for (let e = view.parentElement; e; e = e.parentElement) {
            const colour = getComputedStyle(e).backgroundColor;
            if (colour !== "rgba(0, 0, 0, 0)") return colour;
        }
    }""")

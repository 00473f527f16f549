"""marimo in Chromium: an app of cells, served by `marimo run` from a folder of its own.

    def test_something(marimo_app):
        page = marimo_app(["import marimo as mo", "mo.md('REA' + 'DY')"]).page
        page.get_by_text("READY").wait_for()

Each cell is the body of one; names defined in one are known in the others, as marimo has it. Nothing of the user's
configuration is read, and nothing but the server can be reached.
"""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.chromium import HERE, Watched, watch
from tests.browser.lab import PATIENCE, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


def app(cells: Sequence[str]) -> str:
    """Source of a marimo app with these cells; the last expression of each is what it shows."""
    known = [_names(source) for source in cells]
    parts = ["import marimo", "app = marimo.App()"]
    for source, (defined, used) in zip(cells, known, strict=True):
        others = {name for other, _ in known if other is not defined for name in other}
        lines = textwrap.dedent(source).strip("\n").split("\n")
        given = ", ".join(sorted(defined))
        body = textwrap.indent("\n".join([*lines, f"return ({given},)" if given else "return"]), "    ")
        parts.append(f"@app.cell\ndef _({', '.join(sorted(used & others))}):\n{body}")
    return "\n\n".join([*parts, 'if __name__ == "__main__":\n    app.run()\n'])


def _names(source: str) -> tuple[set[str], set[str]]:
    """Names that a cell defines at its top level, without those that marimo keeps to the cell, and names it uses."""
    tree = ast.parse(textwrap.dedent(source))
    defined: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            defined.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        else:
            defined |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} - defined
    return {name for name in defined if not name.startswith("_")}, used


@dataclass
class Running:
    """An app that is being served, and the page that shows it."""

    page: Page
    folder: Path
    """Where the app lies, and what its cells have as their working folder."""
    watched: Watched
    process: subprocess.Popen[bytes]

    def log(self) -> str:
        """What the server and the cells have printed."""
        return (self.folder / "server.log").read_text(encoding="utf-8", errors="replace")


def _serve(folder: Path, package: Path) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = folder / "home"
    known = os.environ.get("PYTHONPATH")
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("MARIMO", "_MARIMO"))},
        **{f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("CONFIG", "CACHE", "DATA", "STATE")},
        "HOME": str(home),
        "MARIMO_SKIP_UPDATE_CHECK": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(package), *([known] if known else [])]),
    }
    home.mkdir(exist_ok=True)
    command = [
        *(sys.executable, "-m", "marimo", "--yes", "run", "app.py", "--headless", "--no-token", "--no-sandbox"),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    return process, f"http://127.0.0.1:{port}"


def _answers(process: subprocess.Popen[bytes], url: str) -> bool:
    if process.poll() is not None:
        raise ChildProcessError(process.returncode)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture
def marimo_app(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Running]]:
    """`marimo_app(cells)` serves an app made of these cells and opens it.

    The test fails if the page asked for anything beyond the server, or had an exception that nothing caught.
    """
    pytest.importorskip("marimo")
    import dreamy_lens

    package = Path(dreamy_lens.__file__).parents[1]
    opened: list[Running] = []
    processes: list[subprocess.Popen[bytes]] = []

    def start(folder: Path, attempts: int = 3) -> str:
        process, url = _serve(folder, package)
        processes.append(process)
        try:
            until(lambda: _answers(process, url), "the start of marimo", patience=60)
        except ChildProcessError:  # perhaps its port, free a moment ago, is no longer
            if attempts > 1:
                return start(folder, attempts - 1)
            raise AssertionError((folder / "server.log").read_text(errors="replace")) from None
        return url

    def open_app(cells: Sequence[str]) -> Running:
        folder = tmp_path_factory.mktemp("marimo")
        (folder / "app.py").write_text(app(cells), encoding="utf-8")
        url = start(folder)
        context = chromium.new_context(viewport={"width": 1100, "height": 900}, service_workers="block")
        watched = watch(context, HERE)
        page = context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(url, wait_until="commit")
        opened.append(Running(page, folder, watched, processes[-1]))
        return opened[-1]

    try:
        yield open_app
    finally:
        for running in opened:
            running.page.context.close()
        for process in processes:
            _stop(process)
    problems = [f"asked for {url}" for r in opened for url in r.watched.outside()]
    problems += [f"error in a script: {error}" for r in opened for error in r.watched.errors]
    assert not problems, "\n".join(problems)

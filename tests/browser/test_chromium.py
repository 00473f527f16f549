"""The start of Chromium, pages of files without a network, and figures drawn by it."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import tests.browser.chromium as rig
from tests.browser import find_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MODULE = """<p id="said"></p><script type="module">
const url = URL.createObjectURL(new Blob(["export default 'module'"], { type: "text/javascript" }));
const found = (await import(url)).default;
const data = await (await fetch("data:text/plain,data")).text();
document.getElementById("said").textContent = `${found} and ${data}`;
</script>"""


def program(path: Path) -> Path:
    path.write_text("#!/bin/sh\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


# Where it is.


def test_the_environment_variable_goes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first, second = program(tmp_path / "google-chrome"), program(tmp_path / "mine")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(find_chromium.VARIABLE, raising=False)
    assert find_chromium.find_chromium() == str(first)
    preferred = program(tmp_path / "chromium")
    assert find_chromium.find_chromium() == str(preferred)
    monkeypatch.setenv(find_chromium.VARIABLE, str(second))
    assert find_chromium.find_chromium() == str(second)


def test_without_chromium_there_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = str(find_chromium.__file__)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(find_chromium.VARIABLE, raising=False)
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert ran.returncode == 1 and "none of chromium, chromium-browser" in ran.stderr
    monkeypatch.setenv(find_chromium.VARIABLE, "/nowhere/chromium")
    assert find_chromium.find_chromium() is None
    assert find_chromium.why_not() == "DREAMY_LENS_CHROMIUM is '/nowhere/chromium', which is not a program"


# Pages without a network.


def test_a_page_made_of_blobs_and_data_works_from_a_file(offline_page: Callable[..., Page], tmp_path: Path):
    (tmp_path / "page.html").write_text(MODULE)
    page = offline_page(tmp_path / "page.html", colour_scheme="dark")
    page.get_by_text("module and data").wait_for()
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")


def test_what_a_page_asks_for_and_its_errors_are_noted(chromium: Browser, tmp_path: Path):
    (tmp_path / "page.html").write_text(
        "<script>setTimeout(() => { throw new Error('thrown') })</script><script src='https://example.org/a.js'></script>"
        "<script>try { new WebSocket('ws://192.0.2.1/') } catch {} document.title = 'end'</script>"
    )
    context = chromium.new_context(offline=True)
    watched = rig.watch(context)
    page = context.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("document.title === 'end'")
    context.close()
    assert sorted(watched.outside()) == ["https://example.org/a.js", "ws://192.0.2.1/"]
    assert watched.outside(tolerate=("example.org",)) == ["ws://192.0.2.1/"]
    assert any("thrown" in error for error in watched.errors)


def test_a_converted_notebook_asks_only_for_what_every_such_page_asks_for(
    offline_page: Callable[..., Page], tmp_path: Path
):
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbconvert")
    v4 = nbformat.v4
    output = v4.new_output("display_data", {"text/html": MODULE, "text/plain": "nothing"})
    notebook = v4.new_notebook(cells=[v4.new_code_cell("1", outputs=[output], execution_count=1)])
    nbformat.write(notebook, tmp_path / "one.ipynb")
    page = offline_page(rig.to_html(tmp_path / "one.ipynb", tmp_path), tolerate=rig.TOLD_BY_NBCONVERT)
    page.get_by_text("module and data").wait_for()


# Figures.


@pytest.mark.parametrize(("kind", "start"), [("svg", b"<svg"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_figures_are_exported_with_it(kind: str, start: bytes, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("kaleido")
    go = pytest.importorskip("plotly.graph_objects")
    where = find_chromium.find_chromium()
    if where is None:
        pytest.skip(find_chromium.why_not())
    monkeypatch.setenv("BROWSER_PATH", where)
    figure = go.Figure(go.Scatter(x=[1, 2], y=[3, 4]), layout={"title": {"text": "λ ≥ 1"}})
    assert figure.to_image(kind).startswith(start)

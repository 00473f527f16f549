"""The notebooks: each runs from the top in a new kernel, and what is committed is what one wants to read on the web."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SECONDS = 120  # that a cell may take on a busy machine
LARGEST = 1_000_000  # bytes
SHRUNK = {"iterations": 8, "tokens": 10}
"""Settings of a notebook's cells that are divided by a number, so that a test is short."""

SMALL_SEARCH = ", children=24, samples=16"
"""Settings that the test adds after each `iterations=`."""

pytest.importorskip("nbmake")
pytest.importorskip("ipykernel")
nbformat = pytest.importorskip("nbformat")
v4: Any = nbformat.v4

every_notebook = pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem) for path in NOTEBOOKS]
    or [pytest.param(None, marks=pytest.mark.skip(reason=f"there is no notebook in {FOLDER.name}/"))],
)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """notebooks/execute.py"""
    path = FOLDER / "execute.py"
    if not path.is_file():
        pytest.skip("needs the whole source tree")
    spec = importlib.util.spec_from_file_location("execute_notebooks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def kernel(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a kernel of the running Python."""
    import dreamy_lens

    for name, value in script.write_kernelspec(tmp_path / "jupyter", Path(dreamy_lens.__file__).parents[1]).items():
        monkeypatch.setenv(name, value)
    return "python3"


def shrunk(match: re.Match[str], divisor: int, more: str) -> str:
    """Return `name=number` with a smaller number, followed by more settings."""
    name, _, number = match[0].partition("=")
    return f"{name}={max(2, int(number) // divisor)}{more}"


def run(path: Path, kernel: str, folder: Path, seconds: int = SECONDS, smaller: bool = False) -> Any:
    """Execute a copy of a notebook with nbmake, perhaps with small numbers; what it found."""
    from nbmake.nb_run import NotebookRun

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells if smaller else ():
        for name, divisor in SHRUNK.items():
            more = SMALL_SEARCH if name == "iterations" else ""
            shrink = partial(shrunk, divisor=divisor, more=more)
            cell.source = re.sub(rf"\b{name}=([\d_]+)", shrink, cell.source)
    nbformat.write(notebook, folder / path.name)
    return NotebookRun(folder / path.name, seconds, kernel=kernel).execute()


# The notebooks of the project.


@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem[:2] > "02")) for path in NOTEBOOKS]
)
def test_it_runs_from_the_top(path: Path, kernel: str, tmp_path: Path):
    """At the size of a test. `make notebooks` runs them whole, and fails if a cell does."""
    result = run(path, kernel, tmp_path, smaller=True)
    assert result.error is None, f"cell {result.error.failing_cell_index}: {result.error.summary}\n{result.error.trace}"


@every_notebook
def test_it_is_committed_as_it_came_out_of_a_run_from_the_top(path: Path):
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs, "no cell has an output: python notebooks/execute.py"
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [o.ename for o in outputs if o.output_type == "error"]
    assert "widgets" not in notebook.metadata, "widget state"
    assert len(text.encode()) < LARGEST


@every_notebook
def test_it_is_committed_without_what_differs_between_machines(path: Path, script: ModuleType, tmp_path: Path):
    copy = tmp_path / path.name
    script.write(script.clean(nbformat.read(path, as_version=4)), copy)
    assert copy.read_text(encoding="utf-8") == path.read_text(encoding="utf-8"), "python notebooks/execute.py"


# How they are executed.


def notebook_of(*cells: str) -> Any:
    """A notebook of code cells whose names do not differ from run to run."""
    return v4.new_notebook(cells=[v4.new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(cells)])


def test_the_kernel_is_the_running_python_with_this_package(kernel: str, tmp_path: Path):
    import dreamy_lens

    source = "import os, sys, dreamy_lens, torch\n"
    source += (
        "found = os.path.normpath(sys.executable), os.path.dirname(dreamy_lens.__file__), torch.get_num_threads()\n"
    )
    source += "print(*found, sep='|', end='')"
    path = tmp_path / "in" / "where.ipynb"
    path.parent.mkdir()
    nbformat.write(notebook_of(source), path)
    (output,) = run(path, kernel, tmp_path).nb.cells[0].outputs
    assert output.text.split("|") == [os.path.normpath(sys.executable), str(Path(dreamy_lens.__file__).parent), "1"]


def test_a_cell_that_fails_or_takes_too_long_is_told(kernel: str, tmp_path: Path):
    (tmp_path / "in").mkdir()
    nbformat.write(notebook_of("1", "1 / 0"), tmp_path / "in" / "fails.ipynb")
    error = run(tmp_path / "in" / "fails.ipynb", kernel, tmp_path).error
    assert error.failing_cell_index == 1 and "ZeroDivisionError" in error.summary
    nbformat.write(notebook_of("import threading\nthreading.Event().wait()"), tmp_path / "in" / "slow.ipynb")
    error = run(tmp_path / "in" / "slow.ipynb", kernel, tmp_path, seconds=2).error
    assert "timed out" in error.summary


PROGRESS = """
import dreamy_lens as dl
texts = ["If given, the result is computed only for the rows that match."] * 40
examples = dl.max_activating("L2.N17", corpus=texts, cache=False, progress=True, length=6)
small = {"population": 2, "children": 4, "length": 4, "wait": True, "progress": True}
run = dl.dream("L2.N17", iterations=3, **small)
from dreamy_lens._host import progress_bar
with progress_bar(True, total=10, desc="half") as bar:
    bar.update(5)
"""


@pytest.mark.slow
def test_progress_that_is_saved_is_a_finished_line_of_text_and_no_widget(
    kernel: str, tmp_path: Path, script: ModuleType
):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "progress.ipynb"
    nbformat.write(notebook_of(PROGRESS), path)
    notebook = run(path, kernel, tmp_path).nb
    outputs = [output for output in notebook.cells[0].outputs if output.output_type == "display_data"]
    assert [list(output.data) for output in outputs] == [["text/plain"]] * len(outputs)
    shown = [output.data["text/plain"] for output in outputs]
    for words in ("scanning: 100%", "dreaming: 3/3", "half: 5/10"):
        assert sum(text.startswith(words) for text in shown) == 1, shown
    assert not any(sign in text for text in shown for sign in "█|<")
    assert [text for text in shown if text.endswith("(ended early)")] == [shown[-1]]
    assert "widgets" not in notebook.metadata
    assert not [o for o in script.clean(notebook).cells[0].outputs if o.output_type == "display_data"]


PARTS = [
    "import os, sys, uuid, warnings\nwarnings.warn('careful')",
    "print(os.getcwd(), os.path.dirname(sys.executable))\nprint('a', end='')\nsys.stdout.flush()\nprint('b', object())",
    "print('10 %\\r 50 %\\r100 %')",
    "from IPython.display import HTML, display\nn = str(uuid.uuid4())\nHTML(f\"<p id='{n}'></p><a href='#{n}'>\")",
    "import ipywidgets\nipywidgets.IntSlider()",
    "handle = display(HTML('<p>begun</p>'), display_id=True)",
    "handle.update(HTML('<p>ended</p>'))",
]


def test_what_is_written_has_outputs_and_is_the_same_every_time(script: ModuleType, tmp_path: Path):
    first, second = tmp_path / "first.ipynb", tmp_path / "second.ipynb"
    for path in (first, second):
        nbformat.write(notebook_of(*PARTS), path)
        assert script.main([str(path), "--timeout", "60"]) == 0
    assert first.read_bytes() == second.read_bytes()
    text = first.read_text(encoding="utf-8")
    assert str(tmp_path) not in text and sys.prefix not in text and "widget" not in text.replace("ipywidgets", "")
    notebook = json.loads(text)
    assert notebook["metadata"] == script.METADATA
    cells = [cell["outputs"] for cell in notebook["cells"]]
    assert [cell["execution_count"] for cell in notebook["cells"]] == list(range(1, 8))
    assert "UserWarning: careful" in "".join(cells[0][0]["text"]) and "cell.py" in "".join(cells[0][0]["text"])
    assert "".join(cells[1][0]["text"]) == ". …/bin\nab <object object at 0x…>\n"
    assert "".join(cells[2][0]["text"]) == "100 %\n"
    same = "00000000-0000-4000-8000-000000000001"
    assert "".join(cells[3][0]["data"]["text/html"]) == f"<p id='{same}'></p><a href='#{same}'>"
    assert cells[4] == []
    assert "".join(cells[5][0]["data"]["text/html"]) == "<p>ended</p>"

    written = first.read_bytes()
    assert script.main([str(first), "--clean-only"]) == 0
    assert first.read_bytes() == written


def test_a_notebook_that_fails_is_left_as_it_was(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "fails.ipynb"
    nbformat.write(notebook_of("print(1)", "1 / 0"), path)
    before = path.read_bytes()
    assert script.main([str(path)]) == 1
    assert path.read_bytes() == before
    assert "ZeroDivisionError" in capsys.readouterr().err


# Colab.


def test_notebooks_have_a_badge_and_an_install_cell_if_there_is_an_address(script: ModuleType, tmp_path: Path):
    notebook = notebook_of("1 + 1")
    address = "https://github.com/someone/dreamy-lens"
    script.add_colab(notebook, "one.ipynb", address)
    script.add_colab(notebook, "one.ipynb", address)  # again: the same
    badge, install, _ = notebook.cells
    nbformat.validate(notebook)
    assert badge.source.endswith("/github/someone/dreamy-lens/blob/main/notebooks/one.ipynb)")
    assert "dreamy-lens @ git+https://github.com/someone/dreamy-lens'" in install.source
    script.add_colab(notebook, "one.ipynb", None)
    assert [cell.source for cell in notebook.cells] == ["1 + 1"]
    project = tmp_path / "pyproject.toml"
    for line, found in {f'Repository = "{address}.git"': address, 'Repository = "https://example.com/x"': None}.items():
        project.write_text(f"[project.urls]\n{line}\n", encoding="utf-8")
        assert script.repository(project) == found


def test_the_install_cell_does_nothing_where_the_package_is(script: ModuleType, monkeypatch: pytest.MonkeyPatch):
    from IPython.core.interactiveshell import InteractiveShell

    shell, asked = InteractiveShell(), []
    shell.register_magic_function(asked.append, magic_name="pip")
    source = script.INSTALL.format(address="https://github.com/someone/dreamy-lens")
    assert shell.run_cell(source).success and asked == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert shell.run_cell(source).success
    assert asked == ["install -q 'dreamy-lens @ git+https://github.com/someone/dreamy-lens'"]


@every_notebook
def test_it_has_the_badge_that_the_address_asks_for(path: Path, script: ModuleType):
    notebook = nbformat.read(path, as_version=4)
    ids = [cell.get("id") for cell in notebook.cells if cell.get("id") in script.COLAB_CELLS]
    wanted = list(script.COLAB_CELLS) if script.repository() else []
    assert ids == wanted, "python notebooks/execute.py"

"""Execute notebooks and write them with their outputs, in a form that git can compare.

    python notebooks/execute.py                     all notebooks of this folder
    python notebooks/execute.py notebooks/one.ipynb
    python notebooks/execute.py --clean-only        clean the existing outputs, without executing

Each notebook runs from the top in a new kernel of the Python that runs this script, in an empty folder. The written
notebook has no widget state, no times, and no paths or memory addresses of this machine. A second execution writes the
same bytes, unless the results depend on the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
WIDGET = "application/vnd.jupyter.widget-view+json"
TIMEOUT = 300  # seconds for a cell
COLAB_CELLS = ("colab-badge", "colab-install")
INSTALL = """# Installs dreamy_lens where it is missing, as on Colab. Elsewhere this cell does nothing.
import importlib.util

if importlib.util.find_spec("dreamy_lens") is None:
    %pip install -q 'dreamy-lens @ git+{address}'"""
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


# Kernels.


def write_kernelspec(folder: Path, package: Path = ROOT) -> dict[str, str]:
    """Describe the running Python as the kernel "python3" in a folder.

    Args:
        folder: Folder to write the description to.
        package: Folder from which the kernel imports dreamy_lens.

    Returns:
        Environment variables that make Jupyter find this description before any other. The kernel itself runs torch
        with one thread.
    """
    kernel = folder / "kernels" / "python3"
    kernel.mkdir(parents=True, exist_ok=True)
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(package), *([inherited] if inherited else [])])
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": METADATA["kernelspec"]["display_name"],
        "language": "python",
        "metadata": {"debugger": False},
        "env": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
    }
    (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    inherited = os.environ.get("JUPYTER_PATH")
    return {
        "JUPYTER_PATH": os.pathsep.join([str(folder), *([inherited] if inherited else [])]),
        "IPYTHONDIR": str(folder / "ipython"),  # an empty folder, so that no start-up file of the user runs
    }


@contextmanager
def set_environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables inside a `with` block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# Executing.


def execute(path: Path, timeout: int = TIMEOUT) -> Any:
    """Run a notebook from the top in a new kernel.

    Args:
        path: Notebook to run; the file is not changed.
        timeout: Largest number of seconds for a cell.

    Returns:
        The notebook with its outputs, cleaned.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
        nbclient.exceptions.CellTimeoutError: A cell took too long.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    add_colab(notebook, path.name, repository())
    with tempfile.TemporaryDirectory() as scratch:
        kernels, work = Path(scratch) / "jupyter", Path(scratch) / "work"
        work.mkdir()
        with set_environment(write_kernelspec(kernels)):
            client = NotebookClient(
                notebook,
                timeout=timeout,
                kernel_name="python3",
                resources={"metadata": {"path": str(work)}},
                store_widget_state=False,
                record_timing=False,
            )
            client.execute()
        return clean(notebook, {str(work): "."})


# Colab.


def repository(project: Path = ROOT / "pyproject.toml") -> str | None:
    """Return the address on GitHub that pyproject.toml gives as `Repository`; None if it gives none."""
    address = r'^Repository = "(https://github\.com/[\w.-]+/[\w.-]+?)(?:\.git)?/?"$'
    found = re.search(address, project.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else None


def add_colab(notebook: Any, name: str, address: str | None) -> None:
    """Put a badge that opens the notebook in Colab at its top, and a cell that installs the package there.

    Colab opens notebooks of public repositories only, so without an address there is neither.

    Args:
        notebook: Notebook to change, in place.
        name: Name of its file in notebooks/.
        address: Address of the repository on GitHub; None removes the badge and the cell.
    """
    from nbformat import v4

    notebook.cells = [cell for cell in notebook.cells if cell.get("id") not in COLAB_CELLS]
    if address is None:
        return
    place = address.removeprefix("https://github.com/")
    link = f"https://colab.research.google.com/github/{place}/blob/main/notebooks/{name}"
    badge = f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({link})"
    install = INSTALL.format(address=address)
    first, second = COLAB_CELLS
    notebook.cells[:0] = [v4.new_markdown_cell(badge, id=first), v4.new_code_cell(install, id=second)]


# Cleaning.


def clean(notebook: Any, places: dict[str, str] | None = None) -> Any:
    """Remove from a notebook everything that differs between machines or between runs.

    Args:
        notebook: Notebook to clean, in place.
        places: Further folders of this machine, each with the text that replaces it.

    Returns:
        The cleaned notebook, which is the argument.
    """
    text = _Text(places or {})
    notebook.metadata.clear()
    notebook.metadata.update(json.loads(json.dumps(METADATA)))
    for cell in notebook.cells:
        for key in ("execution", "collapsed", "scrolled", "ExecuteTime", "trusted"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in _joined(cell.outputs) if _tidy(o, text)]
    return notebook


def _joined(outputs: list[Any]) -> list[Any]:
    """Join consecutive texts of one stream, because the clock decides how a text is cut into messages."""
    joined: list[Any] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last is not None and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined


def _tidy(output: Any, text: _Text) -> bool:
    """Clean one output. Return whether to keep it."""
    if output.output_type == "stream":
        output.text = text(_settled(output.text))
        lines = output.text.strip().split("\n")
        is_progress = output.name == "stderr" and all(line.endswith(" ...") for line in lines)
        return bool(output.text.strip()) and not is_progress  # "Loading the libraries ..." says nothing to a reader
    if output.output_type == "error":
        output.traceback = [text(line) for line in output.traceback]
        output.evalue = text(output.evalue)
        return True
    if output.get("metadata", {}).get("dreamy_lens") == "progress":  # it has times
        return False
    # In a notebook that is opened again, a widget without its state shows an error and hides the HTML beside it.
    was_widget = output.data.pop(WIDGET, None) is not None
    output.data.update({kind: text.everywhere(value) for kind, value in output.data.items()})
    return bool(output.data) and not (was_widget and set(output.data) == {"text/plain"})


def _settled(text: str) -> str:
    """Return the text as a terminal shows it at the end: of an overwritten line, only the last version."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(next((part for part in reversed(line.split("\r")) if part), "") for line in lines)


class _Text:
    """Replacement of folders, addresses and random names in texts; equal names get equal replacements."""

    def __init__(self, places: dict[str, str]):
        replacements = {str(ROOT): ".", sys.prefix: "…", sys.base_prefix: "…", str(Path.home()): "~"}
        replacements |= {str(Path(tempfile.gettempdir()).resolve()): "/tmp"} | places
        self._places = [
            (re.compile(rf"(?<![\w./~…-]){re.escape(folder)}(?![\w.-])"), instead)
            for folder, instead in sorted(replacements.items(), key=lambda item: -len(item[0]))
            if folder != "/"
        ]
        self._names: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        # A path is looked for only where a word begins: a plot is one word of 100,000 characters.
        text = re.sub(r"(?<!\S)\S*ipykernel_\d+/\d+\.py", "cell.py", text)
        text = re.sub(r"""(?<![^\s"'<>=(])[^\s"'<>=(]*/site-packages/""", "…/site-packages/", text)
        for folder, instead in self._places:
            text = folder.sub(instead, text)
        text = re.sub(r"\b0x[0-9a-f]{6,16}\b", "0x…", text)
        return re.sub(r"\b[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\b", self._name, text)

    def _name(self, match: re.Match[str]) -> str:
        number = len(self._names) + 1
        return self._names.setdefault(match[0], f"00000000-0000-4000-8000-{number:012x}")

    def everywhere(self, value: Any) -> Any:
        """Replace in all texts of a value made of lists and dictionaries."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, list):
            return [self.everywhere(v) for v in value]
        if isinstance(value, dict):
            return type(value)({k: self.everywhere(v) for k, v in value.items()})
        return value


# Writing.


def write(notebook: Any, path: Path) -> None:
    """Write a notebook in Jupyter's own layout. A file with exactly this content is not written again."""
    import nbformat

    text = nbformat.writes(notebook).rstrip("\n") + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Execute the named notebooks, or all. Return 1 if one failed; a notebook that failed is not changed."""
    import nbformat
    from nbclient.exceptions import CellExecutionError, CellTimeoutError

    parser = argparse.ArgumentParser(description="Execute notebooks and write them with cleaned outputs.")
    parser.add_argument("notebooks", nargs="*", type=Path, help="notebooks to execute; default: all of this folder")
    parser.add_argument("--timeout", type=int, default=TIMEOUT, help="seconds allowed for a cell (%(default)s)")
    parser.add_argument("--clean-only", action="store_true", help="clean the existing outputs, without executing")
    options = parser.parse_args(arguments)
    failed = False
    for path in options.notebooks or sorted(FOLDER.glob("*.ipynb")):
        began = time.monotonic()
        try:
            read = nbformat.read(path, as_version=4)
            notebook = clean(read) if options.clean_only else execute(path, options.timeout)
        except (CellExecutionError, CellTimeoutError) as error:
            failed = True
            print(f"{path}: failed, and was not changed\n{error}", file=sys.stderr)
            continue
        write(notebook, path)
        print(f"{path}: {path.stat().st_size / 1024:.0f} KiB, {time.monotonic() - began:.1f} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

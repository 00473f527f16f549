"""Properties of the process in which the package runs: notebook or terminal, and versions of packages."""

from __future__ import annotations

import contextlib
import io
import platform
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dreamy_lens import _waiting


def in_kernel() -> bool:
    """Return whether the process is a Jupyter kernel, where displayed output goes into the current cell."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return shell is not None and hasattr(shell, "kernel")


def is_notebook() -> bool:
    """Return whether the process runs a notebook (Jupyter or marimo), where a cell should return at once."""
    if in_kernel():
        return True
    marimo = sys.modules.get("marimo")
    return marimo is not None and bool(marimo.running_in_notebook())


def is_watched() -> bool:
    """Return whether a user would see a progress bar: in a Jupyter kernel or a terminal."""
    return in_kernel() or sys.stderr.isatty()


@contextlib.contextmanager
def working(what: str, shown: bool | None = None) -> Iterator[None]:
    """Write a line to stderr if the block takes longer than two seconds.

    Args:
        what: What the block does, as in "Loading the model".
        shown: Whether to write it; None writes it where a user would see a progress bar.
    """
    with _waiting.announced(what) if (is_watched() if shown is None else shown) else contextlib.nullcontext():
        yield


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of packages; packages that are not installed are left out.

    Args:
        *packages: Names of packages, as `pip` knows them.

    >>> sorted(versions("numpy", "no-such-package"))
    ['numpy', 'python']
    """
    result = {"python": platform.python_version()}
    for name in packages:
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            continue
    return result


PROGRESS = {"dreamy_lens": "progress"}
"""Metadata of the outputs of progress bars in notebooks."""


def progress_bar(shown: bool | None, **options: Any) -> Any:
    """Return a tqdm progress bar. In a Jupyter kernel it is a line of text, which stays legible in a saved notebook.

    Args:
        shown: Whether to show the bar; None shows it in Jupyter kernels and terminals.
        **options: Arguments of `tqdm`.
    """
    from tqdm.auto import tqdm

    disable = not (is_watched() if shown is None else shown)
    if in_kernel():
        return _cell_bar()(disable=disable, **options)
    return tqdm(disable=disable, dynamic_ncols=True, **options)


@cache
def _cell_bar() -> type:
    """Return the class of progress bars that are text in a notebook cell."""
    from IPython.display import display
    from tqdm.std import tqdm

    class CellBar(tqdm):
        """Progress bar as text, and at the end a line without a bar. A widget would be dead in a saved notebook."""

        def __init__(self, **options: Any) -> None:
            self._handle: Any = None
            super().__init__(**{"file": io.StringIO(), "ncols": 100, "mininterval": 0.25, **options})

        def display(self, msg: str | None = None, pos: int | None = None) -> bool:
            if self.disable:  # the bar is closed
                early = self.total and self.n < self.total
                known = "{n_fmt} " if not self.total else "{n_fmt}/{total_fmt} "
                form = self.bar_format or f"{{desc}}: {known}{{elapsed}}{{postfix}}"
                self.bar_format = form.replace("|{bar}|", "").replace("<{remaining}", "")
                msg = f"{self}{' (ended early)' if early else ''}"
            text = " ".join((str(self) if msg is None else msg).split())
            content = {"text/plain": text}
            if self._handle is None:
                self._handle = display(content, raw=True, display_id=True, metadata=PROGRESS)
            else:
                self._handle.update(content, raw=True, metadata=PROGRESS)
            return True

    return CellBar

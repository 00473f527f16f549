"""The process that the package runs in: notebook or terminal, and the versions that results depend on."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def in_kernel() -> bool:
    """Return whether this is a Jupyter kernel, where displayed output goes into the current cell."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return shell is not None and hasattr(shell, "kernel")


def is_notebook() -> bool:
    """Return whether this is a notebook (Jupyter or marimo), where a cell should return at once."""
    if in_kernel():
        return True
    marimo = sys.modules.get("marimo")
    return marimo is not None and bool(marimo.running_in_notebook())


def is_watched() -> bool:
    """Return whether a progress bar would be seen: in a Jupyter kernel or a terminal."""
    return in_kernel() or sys.stderr.isatty()


def versions(*packages: str) -> dict[str, str]:
    """Return the version of Python and of each installed distribution; one that is not installed is left out.

    Args:
        *packages: names of distributions.

    >>> sorted(versions("numpy", "no-such-package"))
    ['numpy', 'python']
    """
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def progress_bar(shown: bool | None, **options: Any) -> Any:
    """Return a progress bar of tqdm, as a widget in notebooks.

    Args:
        shown: Whether to show the bar; None shows it where it would be seen.
        **options: Arguments of `tqdm`.
    """
    from tqdm.auto import tqdm

    return tqdm(disable=not (is_watched() if shown is None else shown), dynamic_ncols=True, **options)

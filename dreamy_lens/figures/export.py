"""Figures as files: vectors and pixels for papers, pages for the web."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from dreamy_lens.errors import DreamyLensError

if TYPE_CHECKING:
    import plotly.graph_objects as go

IMAGES = ("svg", "png", "pdf", "jpg", "jpeg", "webp")
PAGES = ("html", "htm")


def save(
    figure: go.Figure, path: str | os.PathLike[str], width: int = 720, height: int = 450, scale: float = 2.0
) -> Path:
    """Write a figure to a file.

    Images are drawn by kaleido in a Chrome or Chromium that is on this machine, without a network; a page needs
    neither.

    Args:
        figure: any plotly figure.
        path: ends in .svg, .png, .pdf, .jpg, .webp or .html, which decides the format. Missing folders are made.
        width: of an image, in pixels of the layout.
        height: likewise.
        scale: pixels of a .png, .jpg or .webp for each pixel of the layout.

    Returns:
        The path.

    Raises:
        DreamyLensError: the ending is of no format; kaleido or a browser is missing; or the image cannot be drawn. The
            message says what to do, and no file is left half written.

    >>> import tempfile, dreamy_lens as dl
    >>> from dreamy_lens.figures import save
    >>> run = dl.dream("L2.N17", iterations=1, population=2, children=4, length=6)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(run.plot(), f"{folder}/frontier.html").name
    'frontier.html'
    """
    file = Path(path).expanduser()
    form = file.suffix[1:].lower()
    if form in PAGES:
        content = figure.to_html(include_plotlyjs=True, full_html=True).encode("utf-8", "replace")
    elif form in IMAGES:
        content = _image(figure, form, width, height, scale, file)
    else:
        raise DreamyLensError(
            f"{os.fspath(path)!r} does not end in a format that figures are written in; use .svg, .png, .pdf or .html."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def _image(figure: go.Figure, form: str, width: int, height: int, scale: float, file: Path) -> bytes:
    otherwise = f"A page needs neither: save(figure, {str(file.with_suffix('.html'))!r})."
    try:
        found = hasattr(importlib.import_module("kaleido"), "calc_fig")
    except ImportError:
        found = False
    if not found:
        raise DreamyLensError(
            "Images of figures need the package kaleido, version 1 or newer, which is not installed: "
            f"pip install 'dreamy-lens[export]'. It draws in a Chrome or Chromium on this machine. {otherwise}"
        )
    try:
        return figure.to_image(format=form, width=width, height=height, scale=scale)
    except Exception as error:
        # plotly hides kaleido's error in its own, which is a RuntimeError like many others.
        if "ChromeNotFoundError" in (type(error).__name__, type(error.__context__).__name__):
            given = os.environ.get("BROWSER_PATH")
            where = f"there is none at BROWSER_PATH={given!r}" if given else "none was found"
            raise DreamyLensError(
                f"Images of figures are drawn in a Chrome or Chromium, and {where}. Install one (on Debian: apt-get "
                "install chromium; elsewhere: plotly_get_chrome), or name it in the environment variable BROWSER_PATH. "
                f"{otherwise}"
            ) from error
        raise DreamyLensError(
            f"{file.name} could not be drawn ({type(error).__name__}: {str(error).strip() or 'no reason given'}). "
            f"{otherwise}"
        ) from error

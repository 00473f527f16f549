"""Write figures to files: vector and pixel images for papers, pages for the web."""

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

    The package kaleido draws images in a Chrome or Chromium on your machine, without a network. A page needs neither
    kaleido nor a browser.

    Args:
        figure: Plotly figure to write.
        path: File to write. Its ending (.svg, .png, .pdf, .jpg, .webp or .html) decides the format. Missing folders are
            created.
        width: Width of an image in pixels of the layout.
        height: Height of an image in pixels of the layout.
        scale: Pixels of a .png, .jpg or .webp for each pixel of the layout.

    Returns:
        Path of the file.

    Raises:
        DreamyLensError: The ending is unknown; kaleido or a browser is missing; or the image cannot be drawn. The
            message says what to do, and no incomplete file remains.

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
            f"{os.fspath(path)!r} does not end in a format for figures; use .svg, .png, .pdf or .html."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def _image(figure: go.Figure, form: str, width: int, height: int, scale: float, file: Path) -> bytes:
    """Draw a figure as an image and return the content of its file."""
    alternative = f"A page needs neither: save(figure, {str(file.with_suffix('.html'))!r})."
    try:
        installed = hasattr(importlib.import_module("kaleido"), "calc_fig")
    except ImportError:
        installed = False
    if not installed:
        raise DreamyLensError(
            "Images of figures need the package kaleido, version 1 or newer, which is not installed: "
            f"pip install 'dreamy-lens[export]'. It draws in a Chrome or Chromium on this machine. {alternative}"
        )
    try:
        return figure.to_image(format=form, width=width, height=height, scale=scale)
    except Exception as error:
        # plotly wraps the error of kaleido in a RuntimeError, which also stands for many other problems.
        if "ChromeNotFoundError" in (type(error).__name__, type(error.__context__).__name__):
            chosen = os.environ.get("BROWSER_PATH")
            missing = f"there is none at BROWSER_PATH={chosen!r}" if chosen else "none was found"
            raise DreamyLensError(
                f"Images of figures are drawn in a Chrome or Chromium, and {missing}. Install one (on Debian: apt-get "
                "install chromium; elsewhere: plotly_get_chrome), or set the environment variable BROWSER_PATH to its "
                f"path. {alternative}"
            ) from error
        raise DreamyLensError(
            f"{file.name} could not be drawn ({type(error).__name__}: {str(error).strip() or 'no reason given'}). "
            f"{alternative}"
        ) from error

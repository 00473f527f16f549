"""Write figures to files: vector and pixel images for papers, pages for the web."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamy_lens import _waiting
from dreamy_lens._files import check_file, write_file
from dreamy_lens.errors import DreamyLensError, WaitError
from dreamy_lens.figures import drawing
from dreamy_lens.figures.protocols import DrawnFigure

if TYPE_CHECKING:
    import plotly.graph_objects as go

IMAGES = ("svg", "png", "pdf", "jpg", "jpeg", "webp")
PAGES = ("html", "htm")

BROWSER_SECONDS = 60.0
"""Most seconds that drawing an image may take, without `DREAMY_LENS_TIMEOUT`."""


def check_image(path: str | os.PathLike[str], drawn: bool = False) -> None:
    """Check, before work begins, that an image can be drawn and written to a file.

    Args:
        path: File that will be written.
        drawn: Whether the figure is an SVG already, so that .svg and .html need nothing else.

    Raises:
        DreamyLensError: The ending is unknown, or the image needs kaleido, which is missing.
        FileWriteError: The file cannot be written.
    """
    file = Path(path).expanduser()
    form = file.suffix[1:].lower()
    if form not in (*PAGES, *IMAGES):
        raise DreamyLensError(
            f"{os.fspath(path)!r} does not end in a format for figures; use .svg, .png, .pdf or .html."
        )
    check_file(file)
    if form in IMAGES and not (drawn and form == "svg"):
        _check_kaleido(_without_kaleido(file, drawn))


def save(
    figure: go.Figure | DrawnFigure,
    path: str | os.PathLike[str],
    width: int = 720,
    height: int = 450,
    scale: float = 2.0,
) -> Path:
    """Write a figure to a file.

    The package kaleido draws images in a Chrome or Chromium on your machine, without a network. A page needs neither
    kaleido nor a browser. A browser that has not answered after 60 seconds is ended; the environment variable
    `DREAMY_LENS_TIMEOUT` sets another limit.

    Args:
        figure: Plotly figure, or figure of text and boxes, to write. The latter is SVG: for .svg and .html it needs
            neither kaleido nor a browser, and it has a size of its own.
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
        WaitError: The browser does not answer.
        FileWriteError: The file cannot be written.

    >>> import tempfile, dreamy_lens as dl
    >>> from dreamy_lens.figures import save
    >>> run = dl.dream("L2.N17", iterations=1, population=2, children=4, length=6)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(run.plot(), f"{folder}/frontier.html").name
    'frontier.html'
    """
    file, drawn = Path(path).expanduser(), isinstance(figure, DrawnFigure)
    form = file.suffix[1:].lower()
    check_image(path, drawn)
    if not isinstance(figure, DrawnFigure):
        if form in PAGES:
            content = figure.to_html(include_plotlyjs=True, full_html=True).encode("utf-8", "replace")
        else:
            content = _image(figure, form, width, height, scale, file)
    elif form == "svg":
        content = figure.svg.encode("utf-8")
    elif form in PAGES:
        content = figure.to_html().encode("utf-8", "replace")
    else:
        scale = 1.0 if form == "pdf" else scale  # text of a paper has its own size
        content = _image(figure.to_plotly(), form, figure.width, figure.height, scale, file, drawn)
    return write_file(file, content)


def _without_kaleido(file: Path, drawn: bool) -> str:
    """Return a sentence that names a format which needs neither kaleido nor a browser."""
    what, ending = ("An SVG", ".svg") if drawn else ("A page", ".html")
    return f"{what} needs neither: save(figure, {str(file.with_suffix(ending))!r})."


def _check_kaleido(alternative: str) -> None:
    """Check that kaleido is installed."""
    try:
        installed = hasattr(importlib.import_module("kaleido"), "calc_fig")
    except ImportError:
        installed = False
    if not installed:
        raise DreamyLensError(
            "Images of figures need the package kaleido, version 1 or newer, which is not installed: "
            f"pip install 'dreamy-lens[export]'. It draws in a Chrome or Chromium on this machine. {alternative}"
        )


def _image(
    figure: go.Figure, form: str, width: int, height: int, scale: float, file: Path, drawn: bool = False
) -> bytes:
    """Draw a figure as an image and return the content of its file."""
    alternative = _without_kaleido(file, drawn)
    options = {"format": form, "width": width, "height": height, "scale": scale}
    try:
        return _drawn(figure, options)
    except WaitError as error:
        raise WaitError(f"{str(error).rstrip('.')}. {alternative}") from None
    except _DrawingError as error:
        kind, context, text = error.args
    if "ChromeNotFoundError" in (kind, context):
        chosen = os.environ.get("BROWSER_PATH")
        missing = f"there is none at BROWSER_PATH={chosen!r}" if chosen else "none was found"
        raise DreamyLensError(
            f"Images of figures are drawn in a Chrome or Chromium, and {missing}. Install one (on Debian: apt-get "
            "install chromium; elsewhere: plotly_get_chrome), or set the environment variable BROWSER_PATH to its "
            f"path. {alternative}"
        )
    raise DreamyLensError(
        f"{file.name} could not be drawn ({kind}: {text.strip() or 'no reason given'}). {alternative}"
    )


class _DrawingError(Exception):
    """Error of plotly or kaleido: the name of its type, of its context's type, and its text."""


def _drawn(figure: go.Figure, options: dict[str, Any]) -> bytes:
    """Return the image of a figure.

    Raises:
        WaitError: The browser does not answer.
        _DrawingError: The image cannot be drawn.
    """
    seconds, what = _waiting.limit(BROWSER_SECONDS), "Waiting for the browser that draws the figure"
    server = getattr(importlib.import_module("kaleido"), "_global_server", None)
    if server is not None and server.is_running():  # the user has started a browser for several images
        try:
            return _waiting.within(seconds, what, lambda: figure.to_image(**options))
        except WaitError:
            raise
        except Exception as error:
            raise _DrawingError(type(error).__name__, type(error.__context__).__name__, str(error)) from error
    return _drawn_in_process(figure, options, seconds, what)


def _drawn_in_process(figure: go.Figure, options: dict[str, Any], seconds: float, what: str) -> bytes:
    """Return the image of a figure, drawn by :mod:`~dreamy_lens.figures.drawing` in a process that can be ended."""
    request = json.dumps({"figure": json.loads(str(figure.to_json())), "options": options}).encode("ascii") + b"\n"
    command = [sys.executable, "-c", inspect.getsource(drawing)]
    with tempfile.TemporaryDirectory(prefix="dreamy_lens.", ignore_cleanup_errors=True) as folder:
        path = os.pathsep.join(filter(None, sys.path))
        environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": folder}  # a browser leaves its profile there
        image, report = Path(folder) / "image", Path(folder) / "report"
        with open(image, "wb") as out, open(report, "wb") as errors:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=errors, env=environment)
        try:
            with _waiting.announced(what, seconds):
                _send(process, request)
                end = time.monotonic() + seconds
                while process.poll() is None:
                    if time.monotonic() >= end:
                        raise _waiting.too_long(what, seconds)
                    time.sleep(0.05)
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            process.wait()
        if process.returncode == 0:
            return image.read_bytes()
        raise _error_of(report.read_text(encoding="utf-8", errors="replace"), process.returncode)


def _send(process: subprocess.Popen[bytes], request: bytes) -> None:
    with contextlib.suppress(OSError):  # the process has ended, and its report says why
        process.stdin.write(request)  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]


def _error_of(report: str, status: int) -> _DrawingError:
    lines = report.strip().splitlines()
    try:
        kind, context, text = json.loads(lines[-1])
        return _DrawingError(str(kind), str(context), str(text))
    except (LookupError, ValueError):
        return _DrawingError(
            "RuntimeError", "", f"its process ended with status {status}: {' '.join(lines[-2:])[:300]}"
        )

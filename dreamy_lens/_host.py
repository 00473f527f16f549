"""Properties of the process in which the package runs: notebook or terminal, and versions of packages."""

from __future__ import annotations

import contextlib
import functools
import io
import platform
import re
import sys
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ParamSpec, TypeVar

from dreamy_lens import _waiting
from dreamy_lens._waiting import in_kernel, is_watched

P = ParamSpec("P")
R = TypeVar("R")

_SILENT: ContextVar[bool] = ContextVar("dreamy_lens_silent", default=False)
"""Whether a function was called with `progress=False`, so that what it calls says nothing either."""

_BAR = re.compile(r" *\|[^|]*\| *")


def is_notebook() -> bool:
    """Return whether the process runs a notebook (Jupyter or marimo), where a cell should return at once."""
    if in_kernel():
        return True
    marimo = sys.modules.get("marimo")
    return marimo is not None and bool(marimo.running_in_notebook())


@contextlib.contextmanager
def reporting(progress: bool | None) -> Iterator[None]:
    """Keep everything in the block silent if `progress` is False: what it calls need not pass the keyword on.

    Args:
        progress: Keyword of a public function: whether to show progress; None leaves it as it is.
    """
    token = _SILENT.set(_SILENT.get() or progress is False)
    try:
        yield
    finally:
        _SILENT.reset(token)


def silenced(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function and everything that it calls silent when its keyword `progress` is False.

    Args:
        function: Function, which keeps its signature and its documentation.
    """

    @functools.wraps(function)
    def call(*args: P.args, **keywords: P.kwargs) -> R:
        with reporting(False if keywords.get("progress") is False else None):
            return function(*args, **keywords)

    return call


@contextlib.contextmanager
def working(what: str, shown: bool | None = None, at_once: bool = False) -> Iterator[None]:
    """Say on stderr what the block does if it takes longer than two seconds, and in logs again every half minute.

    Args:
        what: What the block does, as in "Loading the model".
        shown: Whether to say it; None says it unless the caller is silent, see :func:`reporting`.
        at_once: Whether a user who watches is told at the beginning of the block.
    """
    silent = _SILENT.get() if shown is None else not shown
    with contextlib.nullcontext() if silent else _waiting.announced(what, at_once=at_once):
        yield


def say(line: str, shown: bool | None = None) -> None:
    """Write a line on what is going to be done; see :func:`working`.

    Args:
        line: Sentence to write.
        shown: Whether to write it; None writes it unless the caller is silent.
    """
    if not (_SILENT.get() if shown is None else not shown):
        _waiting.write_line(line)


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
    """Return a tqdm progress bar: in a Jupyter kernel a line of text, which stays legible in a saved notebook.

    In logs and pipes it is a line every half minute.

    Args:
        shown: Whether to show the bar, also in logs and pipes; None shows it in Jupyter kernels and terminals, and
            lines elsewhere.
        **options: Arguments of `tqdm`.
    """
    from tqdm.auto import tqdm

    silent = _SILENT.get() if shown is None else not shown
    if in_kernel() and not silent:
        return _cell_bar()(**options)
    if silent or shown or is_watched():
        return tqdm(disable=silent, dynamic_ncols=True, **options)
    return _line_bar()(**options)


@functools.cache
def _line_bar() -> type:
    """Return a class of progress bars for logs, which say a line every half minute."""
    from tqdm.std import tqdm

    class LineBar(tqdm):
        """Progress bar that is written as lines without a bar."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**{**options, "file": io.StringIO(), "mininterval": 1e9, "delay": 1e9})
            reference = weakref.ref(self)

            def tell(passed: float) -> None:
                bar = reference()
                if bar is not None:
                    _waiting.write_line(_BAR.sub(" ", str(bar), count=1).strip())

            self._ticker = _waiting.Ticker(tell, _waiting.QUIET_SECONDS, _waiting.LOG_SECONDS)

        def refresh(self, *arguments: Any, **keywords: Any) -> None:
            """Write nothing: the lines come at their times."""

        def close(self) -> None:
            """End the lines."""
            ticker = getattr(self, "_ticker", None)
            if ticker is not None:
                ticker.stop()
            super().close()

    return LineBar


@functools.cache
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

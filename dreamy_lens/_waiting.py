"""Waits and other work that takes long: each says what it does; a wait has a limit, and ends on Ctrl-C.

Lines go to stderr. Without a viewer (stderr is a file or a pipe, and the process is no notebook), they go to the
logger `dreamy_lens.progress` if the program has set up logging, and are repeated every half minute.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from dreamy_lens.errors import SettingsError, WaitError

T = TypeVar("T")

VARIABLE = "DREAMY_LENS_TIMEOUT"
"""Environment variable with the limit of every wait, in seconds; without it, each wait has its own limit."""

QUIET_SECONDS = 2.0
"""Seconds after which a wait says what it waits for."""

LOG_SECONDS = 30.0
"""Seconds between two lines on the same work in a log or a pipe."""

LOG = logging.getLogger("dreamy_lens.progress")
if LOG.level == logging.NOTSET:  # the program may have silenced it
    LOG.setLevel(logging.INFO)

SLICE_SECONDS = 0.2
"""Seconds that one wait lasts: Python notices Ctrl-C at the end of it, at the latest."""


def limit(default: float) -> float:
    """Return the limit of a wait in seconds.

    Args:
        default: Limit without the environment variable :data:`VARIABLE`.

    Raises:
        SettingsError: The environment variable is not a positive number.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise SettingsError(f"{VARIABLE} is {text[:80]!r}; it must be a number of seconds, more than 0.")
    return seconds


def in_kernel() -> bool:
    """Return whether the process is a Jupyter kernel, where displayed output goes into the current cell."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return shell is not None and hasattr(shell, "kernel")


def is_watched() -> bool:
    """Return whether a user would see a progress bar: in a Jupyter kernel or a terminal."""
    try:
        return in_kernel() or sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is no stderr, or it is closed
        return False


def write_line(line: str) -> None:
    """Write a line on what is being done: to stderr, or without a viewer to the log of the program if it has one."""
    with contextlib.suppress(Exception):  # stderr may be closed
        if is_watched() or not LOG.hasHandlers():
            if is_watched() or LOG.isEnabledFor(logging.INFO):
                print(line, file=sys.stderr, flush=True)
        else:
            LOG.info(line)


class Ticker:
    """Thread that calls a function after some seconds, and again at intervals, until :meth:`stop`.

    Args:
        function: Function to call with the seconds since the beginning.
        first: Seconds until the first call.
        every: Seconds between two calls; None calls once.
    """

    def __init__(self, function: Callable[[float], object], first: float, every: float | None) -> None:
        self._function, self._first, self._every = function, first, every
        self._ended = threading.Event()
        with contextlib.suppress(RuntimeError):  # the system can start no thread, or the interpreter exits
            threading.Thread(target=self._work, name="dreamy_lens: progress", daemon=True).start()

    def _work(self) -> None:
        start, due = time.monotonic(), self._first
        while not self._ended.wait(max(0.0, start + due - time.monotonic())):
            with contextlib.suppress(Exception):
                self._function(time.monotonic() - start)
            if self._every is None:
                return
            due += self._every

    def stop(self) -> None:
        """End the calls."""
        self._ended.set()


@contextlib.contextmanager
def announced(what: str, seconds: float | None = None, at_once: bool = False) -> Iterator[None]:
    """Say what the block does if it takes longer than :data:`QUIET_SECONDS`; in a log or a pipe, say it repeatedly.

    Args:
        what: What the block does, as in "Waiting for the browser".
        seconds: Limit of the wait; None does not mention one.
        at_once: Whether a user who watches is told at the beginning of the block.
    """
    bound = "" if seconds is None else f", at most {seconds:g} s (Ctrl-C ends it)"
    watched = is_watched()
    if at_once and watched:
        write_line(f"{what}{bound} ...")
        yield
        return

    def tell(passed: float) -> None:
        write_line(f"{what}{bound} ..." if passed < LOG_SECONDS else f"{what}{bound} ... ({passed:.0f} s)")

    ticker = Ticker(tell, QUIET_SECONDS, None if watched else LOG_SECONDS)
    try:
        yield
    finally:
        ticker.stop()


def within(seconds: float, what: str, function: Callable[[], T]) -> T:
    """Call a function in a thread, and return its result or raise its error.

    The thread is left to itself if the limit is reached or on Ctrl-C; it does not keep the process alive.

    Args:
        seconds: Most seconds to wait.
        what: What the function does, as in "Waiting for the Ray cluster at 10.0.0.1:6379".
        function: Function to call, which may wait for ever.

    Raises:
        WaitError: The limit is reached.
    """
    ended, results, errors = threading.Event(), list[T](), list[BaseException]()

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=work, name=f"dreamy_lens: {what}"[:60], daemon=True)
    end = time.monotonic() + seconds
    with announced(what, seconds):
        thread.start()
        while not ended.wait(min(SLICE_SECONDS, max(0.0, end - time.monotonic()))):
            if time.monotonic() >= end:
                raise too_long(what, seconds)
    if errors:
        raise errors[0]
    return results[0]


def too_long(what: str, seconds: float) -> WaitError:
    """Return the error for a wait that has reached its limit.

    Args:
        what: What was waited for, as in "Waiting for the browser".
        seconds: The limit.
    """
    return WaitError(
        f"{what} took longer than {seconds:g} seconds, and was given up. Set the environment variable {VARIABLE} to a "
        "larger number of seconds to wait longer."
    )

"""Waits for something outside this process: each has a limit, says what it waits for, and ends on Ctrl-C."""

from __future__ import annotations

import contextlib
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


@contextlib.contextmanager
def announced(what: str, seconds: float | None = None) -> Iterator[None]:
    """Write a line to stderr if the block takes longer than :data:`QUIET_SECONDS`.

    Args:
        what: What the block does, as in "Waiting for the browser".
        seconds: Limit of the wait; None does not mention one.
    """

    def say() -> None:
        bound = "" if seconds is None else f", at most {seconds:g} s (Ctrl-C ends it)"
        with contextlib.suppress(Exception):  # stderr may be closed
            print(f"{what}{bound} ...", file=sys.stderr, flush=True)

    timer = threading.Timer(QUIET_SECONDS, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


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

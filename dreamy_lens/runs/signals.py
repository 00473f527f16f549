"""Delay Ctrl-C at moments when it would leave work half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

SLICE_SECONDS = 0.5
"""Seconds that one wait lasts. Python notices Ctrl-C only at the end of a wait if it comes just before the wait, or on
Windows at any time during the wait."""


@contextlib.contextmanager
def uninterrupted(forget: bool = False) -> Iterator[None]:
    """Delay Ctrl-C until the end of the block, so that a step is recorded completely or not at all.

    Args:
        forget: Whether to ignore a delayed Ctrl-C, because nothing remains that it could interrupt.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    delayed: list[tuple] = []
    signal.signal(signal.SIGINT, lambda *arguments: delayed.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if delayed and not forget:
        handler(*delayed[0])

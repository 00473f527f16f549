"""Ctrl-C at moments when it would leave something half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

SLICE_SECONDS = 0.5
"""How long to wait at a time: Ctrl-C just before a wait, or anywhere in it on Windows, is only seen when it ends."""


@contextlib.contextmanager
def uninterrupted(forget: bool = False) -> Iterator[None]:
    """Hold Ctrl-C back until the block is done, so that a step is noted whole or not at all.

    Args:
        forget: drop it then, where there is nothing more to interrupt.
    """
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield
        return
    held: list[tuple] = []
    signal.signal(signal.SIGINT, lambda *what: held.append(what))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if held and not forget:
        usual(*held[0])

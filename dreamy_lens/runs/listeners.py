"""Functions that are called as a run goes on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

TELL_SECONDS = 0.2
"""Fewest seconds between two calls of a listener, unless it names others."""

LOG = logging.getLogger("dreamy_lens")


@dataclass(eq=False)
class _Listener:
    function: Callable[[Any], object]
    subject: Any
    every: float
    called: float = float("-inf")
    gone: threading.Event = field(default_factory=threading.Event)


class Listeners:
    """Functions to be called as a run goes on, by the thread that is at work on it."""

    def __init__(self) -> None:
        self._all: list[_Listener] = []

    def add(self, function: Callable[[Any], object], subject: Any, every: float) -> Callable[[], None]:
        """Add a function, to be called with its subject every so many seconds; the result ends the calls."""
        listener = _Listener(function, subject, every)
        self._all.append(listener)
        return listener.gone.set  # which does not keep the subject

    def join(self, others: Listeners) -> None:
        """Add another run's listeners."""
        self._all += [one for one in others._all if not one.gone.is_set() and one not in self._all]

    def tell(self, now: bool = False) -> None:
        """Call the listeners whose time it is, or all of them. One that fails is logged, and is not called again."""
        moment = time.monotonic()
        for listener in list(self._all):
            if listener.gone.is_set() or not (now or moment - listener.called >= listener.every):
                continue
            listener.called = moment
            try:
                listener.function(listener.subject)
            except KeyboardInterrupt:  # of the thread at work, which is the user's own
                raise
            except BaseException:  # sys.exit() too: what watches a run never ends it
                listener.gone.set()
                LOG.exception("Something that watches a run failed, and is not told about it any more.")

"""Functions that a run calls while it goes on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

LISTEN_SECONDS = 0.2
"""Fewest seconds between two calls of a listener that sets no interval of its own."""

LOG = logging.getLogger("dreamy_lens")


@dataclass(eq=False)
class _Listener:
    function: Callable[[Any], object]
    subject: Any
    every: float
    called: float = float("-inf")
    removed: threading.Event = field(default_factory=threading.Event)


class Listeners:
    """Functions that the thread of a run calls while the run goes on."""

    def __init__(self) -> None:
        self._all: list[_Listener] = []

    def add(self, function: Callable[[Any], object], subject: Any, every: float) -> Callable[[], None]:
        """Add a listener.

        Args:
            function: Function of one argument, the subject.
            subject: Object to call the function with.
            every: Fewest seconds between two calls.

        Returns:
            Function that removes the listener.
        """
        listener = _Listener(function, subject, every)
        self._all.append(listener)
        return listener.removed.set  # this method does not keep the subject alive

    def join(self, others: Listeners) -> None:
        """Add the listeners of another run.

        Args:
            others: Listeners to add.
        """
        self._all += [
            listener for listener in others._all if not listener.removed.is_set() and listener not in self._all
        ]

    def notify(self, now: bool = False) -> None:
        """Call the listeners whose interval is over. A listener that fails is logged, and removed.

        Args:
            now: Whether to call all listeners, whatever their interval.
        """
        moment = time.monotonic()
        for listener in list(self._all):
            if listener.removed.is_set() or not (now or moment - listener.called >= listener.every):
                continue
            listener.called = moment
            try:
                listener.function(listener.subject)
            except KeyboardInterrupt:  # the user interrupts the thread that runs the search
                raise
            except BaseException:  # includes sys.exit(): a listener never ends a run
                listener.removed.set()
                LOG.exception("A listener of a run failed, and is not called again.")

"""Run functions that need a model in the one thread that uses it, whichever thread that is at the time.

- One thread at a time uses the model. While there is work with steps (a run), its thread answers between two of them;
  otherwise a thread starts when something is asked, and ends when nothing is left.
- Functions run in the order in which they were asked for, with gradients enabled, and on the default device of the
  thread that made the ModelThread.
- An error of a function, of whatever kind, is raised to the one that waits for its future.
- In a forked process nothing is left to be answered; when the interpreter exits, what is asked is cancelled, and what
  is in progress has :data:`LEAVE_SECONDS` to end.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import torch

from dreamy_lens.runs.listeners import TELL_SECONDS, Listeners

LEAVE_SECONDS = 10.0
"""Seconds that the interpreter waits for what is in progress before it exits."""

_THREADED: weakref.WeakSet[ModelThread] = weakref.WeakSet()
_THREADED_LOCK = threading.Lock()
T = TypeVar("T")


class ModelThread:
    """Answers in a thread that starts when something is asked. A subclass that has steps to take answers between them.

    Args:
        subject: what listeners are called with, unless they name another subject.
    """

    def __init__(self, subject: Any = None) -> None:
        self._subject = subject
        self._turn = threading.Condition(threading.RLock())
        self._soon: deque[tuple[Future, Callable[[], Any]]] = deque()
        self._asked: deque[tuple[Future, Callable[[], Any]]] = deque()
        self._later: deque[tuple[Future, Callable[[], Any]]] = deque()
        self._listeners = Listeners()
        self._ended = threading.Event()
        self._ended.set()  # a subclass with steps to take clears it
        self._at_work: int | None = None
        self._before: list[ModelThread] = []
        self._next: ModelThread | None = None
        # The thread that starts a run decides where tensors are made; a new thread would not know.
        self._device = torch.get_default_device()
        self._cuda = torch.cuda.current_device() if torch.cuda.is_initialized() else None

    def follow(self, other: ModelThread | None) -> None:
        """Take over from another one that has ended: its listeners, and what it was asked, now and later."""
        if other is None:
            return
        with other._turn:
            other._next = other._next or self
            pairs = (self._soon, other._soon), (self._asked, other._asked), (self._later, other._later)
            for mine, theirs in pairs:
                mine += theirs
                theirs.clear()
            self._listeners.join(other._listeners)
            if other._at_work is not None and other not in self._before:
                self._before.append(other)  # it is answering still, and one thread at a time uses the model

    @property
    def active(self) -> bool:
        """Whether there are steps to come."""
        return not self._ended.is_set()

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread is the one at work, or the one this waits for: it cannot wait for itself."""
        return self._at_work == threading.get_ident() or any(other.is_mine for other in self._before)

    def ask(self, function: Callable[[], T], soon: bool = False) -> Future[T]:
        """Run a function where the model is used, between two steps or after the last.

        Args:
            function: function of no arguments.
            soon: run it between two passes of one step too. It leaves the model as it was.

        Returns:
            A future of what the function returns.
        """
        future: Future[T] = Future()
        if self.is_mine:
            _answer(future, function)
        else:
            self._queue(future, function, "soon" if soon else "next")
        return future

    def defer(self, function: Callable[[], T]) -> Future[T]:
        """Run a function that can wait: after the last step, and when nothing else is asked."""
        future: Future[T] = Future()
        self._queue(future, function, "later")
        return future

    def listen(
        self, function: Callable[[Any], object], subject: Any = None, every: float = TELL_SECONDS
    ) -> Callable[[], None]:
        """Have the thread at work call a function as the run goes on.

        Args:
            function: called with the subject now and then, whenever the status changes, and at the end. If it raises,
                that is logged, and it is not called again: what watches a run never ends it.
            subject: one of the runs; None is what goes on as a whole.
            every: fewest seconds between two calls.

        Returns:
            A function that ends the calls.
        """
        with self._turn:
            if self._next is None:
                return self._listeners.add(function, self._subject if subject is None else subject, every)
        return self._next.listen(function, subject, every)

    def left(self, timeout: float | None = None) -> bool:
        """Wait until no thread is at work any more, other than the calling one; whether there is none."""
        with self._turn:
            return self._turn.wait_for(lambda: self._at_work is None or self.is_mine, timeout)

    def _answer_rest(self) -> None:
        """After the last step: answer until nothing is asked. What is asked after that starts a new thread."""
        self._at_work = threading.get_ident()
        while True:
            with self._turn:
                if not (self._soon or self._asked or self._later):
                    self._at_work = None
                    self._turn.notify_all()
                    return
            with contextlib.suppress(KeyboardInterrupt):  # nothing is left to be ended by it
                self._answer_first()

    def _answer_first(self) -> None:
        with self._turn:
            queue = self._soon or self._asked or self._later
            if not queue:  # another one has taken over
                return
            job = [queue.popleft()]
        _answer(*job.pop())  # no name here keeps it: frames of an error that it raises would

    def _answer_soon(self) -> None:
        """Between two passes of a step: answer what cannot wait for its end."""
        while self._soon:
            with self._turn:
                job = [self._soon.popleft()] if self._soon else []
            if job:
                _answer(*job.pop())

    def _queue(self, future: Future, function: Callable[[], Any], when: str) -> None:
        with self._turn:
            after, late = self._next, not self.active and self._at_work is None
            if after is None:
                queues = {"soon": self._soon, "next": self._asked, "later": self._later}
                queues[when].append((future, function))
                self._turn.notify_all()
                if late:
                    self._in_thread(self._answer_rest)
        if after is not None:
            after._queue(future, function, when)

    def _in_thread(self, function: Callable[[], None]) -> None:
        """Run a function in a thread of its own; until the thread has its number, it is at work under none."""

        def run() -> None:
            # Grad mode and default device are each thread's own. A device is only set where it is not the usual one,
            # because torch then looks into every call.
            torch.set_grad_enabled(True)
            if self._cuda is not None:
                torch.cuda.set_device(self._cuda)
            if self._device.type != "cpu":
                torch.set_default_device(self._device)
            function()

        with _THREADED_LOCK:
            _THREADED.add(self)
        self._at_work = -1
        try:
            threading.Thread(target=run, name="dreamy_lens", daemon=True).start()
        except RuntimeError:  # the system has none left, or the interpreter goes away
            self._at_work = None
            raise

    def _drop(self) -> None:
        """Cancel everything that is asked and not answered yet."""
        with self._turn:
            for queue in (self._soon, self._asked, self._later):
                while queue:
                    queue.popleft()[0].cancel()
            self._turn.notify_all()

    def _lose(self) -> None:
        """In a forked process: the thread is not there, and may have held the locks."""
        self._turn = threading.Condition(threading.RLock())
        self._soon, self._asked, self._later = deque(), deque(), deque()
        self._at_work, self._before = None, []


def _answer(future: Future, function: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except BaseException as error:  # the one that asked must not wait for ever
        future.set_exception(error)
        if isinstance(error, KeyboardInterrupt):  # of the thread at work
            raise
    else:
        future.set_result(result)
    finally:
        del future, function  # the same


@atexit.register
def _leave_all() -> None:
    """A thread that is inside torch while the interpreter goes away can crash it."""
    with _THREADED_LOCK:
        workers = list(_THREADED)
    end = time.monotonic() + LEAVE_SECONDS
    for worker in workers:
        worker._drop()
    for worker in workers:
        worker.left(max(0.0, end - time.monotonic()))


def _in_child() -> None:
    global _THREADED_LOCK
    _THREADED_LOCK = threading.Lock()
    for worker in list(_THREADED):
        worker._lose()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

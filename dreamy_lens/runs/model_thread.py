"""Run functions that need a model on one thread at a time: the model thread.

- One thread at a time uses the model. While a run takes steps, its thread calls queued functions between two steps.
  Otherwise a new thread starts when a function is queued, and ends when the queue is empty.
- Functions run in the order in which they were queued, with gradients enabled, and on the default device of the thread
  that made the ModelThread.
- Any error of a function is raised in the thread that waits for the function's future.
- In a forked process the queue is empty. When the interpreter exits, queued functions are cancelled, and the function
  in progress has :data:`LEAVE_SECONDS` to end.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from dreamy_lens.runs.listeners import LISTEN_SECONDS, Listeners

LEAVE_SECONDS = 10.0
"""Most seconds that the interpreter waits at its exit for functions and steps in progress."""

_THREADED: weakref.WeakSet[ModelThread] = weakref.WeakSet()
_THREADED_LOCK = threading.Lock()
T = TypeVar("T")


class ModelThread:
    """Runs functions in a thread that starts when it is needed. A subclass with steps runs them between its steps.

    Args:
        subject: Object to call listeners with, unless a listener names another one.
    """

    def __init__(self, subject: Any = None) -> None:
        self._subject = subject
        self._condition = threading.Condition(threading.RLock())
        self._soon: deque[tuple[Future, Callable[[], Any]]] = deque()
        self._asked: deque[tuple[Future, Callable[[], Any]]] = deque()
        self._later: deque[tuple[Future, Callable[[], Any]]] = deque()
        self._listeners = Listeners()
        self._ended = threading.Event()
        self._ended.set()  # a subclass with steps to take clears it
        self._at_work: int | None = None
        self._before: list[ModelThread] = []
        self._next: ModelThread | None = None
        # Tensors belong on the default device of the thread that starts the run, which a new thread does not inherit.
        # Where torch has not been imported, no device was set, and none is: a run in a folder is read without torch.
        # A tensor tells the device: in torch 2.6, `get_default_device()` does not see `with torch.device(...)`.
        torch = sys.modules.get("torch")
        self._device = None if torch is None else torch.empty(0).device
        self._cuda = None if torch is None or not torch.cuda.is_initialized() else torch.cuda.current_device()

    def follow(self, other: ModelThread | None) -> None:
        """Take over the listeners and queued functions of another ModelThread, and everything queued there later.

        Args:
            other: ModelThread that has ended; None does nothing.
        """
        if other is None:
            return
        with other._condition:
            other._next = other._next or self
            pairs = (self._soon, other._soon), (self._asked, other._asked), (self._later, other._later)
            for mine, theirs in pairs:
                mine += theirs
                theirs.clear()
            self._listeners.join(other._listeners)
            if other._at_work is not None and other not in self._before:
                self._before.append(other)  # wait for its thread, because one thread at a time uses the model

    @property
    def active(self) -> bool:
        """Return whether there are steps to take."""
        return not self._ended.is_set()

    @property
    def is_mine(self) -> bool:
        """Return whether the calling thread is the model thread, or a thread that the model thread waits for."""
        return self._at_work == threading.get_ident() or any(other.is_mine for other in self._before)

    def ask(self, function: Callable[[], T], soon: bool = False) -> Future[T]:
        """Run a function on the model thread, between two steps or after the last step.

        Args:
            function: Function of no arguments.
            soon: Whether the function may also run between two model passes of a step; it then must not change the
                model.

        Returns:
            Future of the function's result.
        """
        future: Future[T] = Future()
        if self.is_mine:
            _answer(future, function)
        else:
            self._queue(future, function, "soon" if soon else "next")
        return future

    def defer(self, function: Callable[[], T]) -> Future[T]:
        """Run a function on the model thread after the last step, when no other function is queued.

        Args:
            function: Function of no arguments.

        Returns:
            Future of the function's result.
        """
        future: Future[T] = Future()
        self._queue(future, function, "later")
        return future

    def listen(
        self, function: Callable[[Any], object], subject: Any = None, every: float = LISTEN_SECONDS
    ) -> Callable[[], None]:
        """Call a function on the model thread while the run goes on.

        Args:
            function: Function of one argument, the subject. It is called at intervals, at every change of status, and
                at the end. If it raises, the error is logged and the calls end; a listener never ends a run.
            subject: Object to call the function with; None is the subject of this ModelThread.
            every: Fewest seconds between two calls.

        Returns:
            Function that ends the calls.
        """
        with self._condition:
            if self._next is None:
                return self._listeners.add(function, self._subject if subject is None else subject, every)
        return self._next.listen(function, subject, every)

    def left(self, timeout: float | None = None) -> bool:
        """Wait until no thread other than the calling one is at work.

        Args:
            timeout: Most seconds to wait; None waits without a limit.

        Returns:
            Whether no other thread is at work.
        """
        with self._condition:
            return self._condition.wait_for(lambda: self._at_work is None or self.is_mine, timeout)

    def _answer_rest(self) -> None:
        """Call queued functions after the last step until the queues are empty; later ones start a new thread."""
        self._at_work = threading.get_ident()
        while True:
            with self._condition:
                if not (self._soon or self._asked or self._later):
                    self._at_work = None
                    self._condition.notify_all()
                    return
            with contextlib.suppress(KeyboardInterrupt):  # there are no steps left that it could end
                self._answer_first()

    def _answer_first(self) -> None:
        with self._condition:
            queue = self._soon or self._asked or self._later
            if not queue:  # another ModelThread has taken over the queues
                return
            job = [queue.popleft()]
        _answer(*job.pop())  # popped, so that the frames of an error do not keep the job in memory

    def _answer_soon(self) -> None:
        """Call, between two model passes of a step, the functions that cannot wait for the end of the step."""
        while self._soon:
            with self._condition:
                job = [self._soon.popleft()] if self._soon else []
            if job:
                _answer(*job.pop())

    def _queue(self, future: Future, function: Callable[[], Any], when: str) -> None:
        with self._condition:
            after, late = self._next, not self.active and self._at_work is None
            if after is None:
                queues = {"soon": self._soon, "next": self._asked, "later": self._later}
                queues[when].append((future, function))
                self._condition.notify_all()
                if late:
                    self._in_thread(self._answer_rest)
        if after is not None:
            after._queue(future, function, when)

    def _in_thread(self, function: Callable[[], None]) -> None:
        """Run a function in a new thread; until that thread has an id, `_at_work` is -1."""

        def run() -> None:
            import torch

            # Each thread has its own grad mode and default device. The device is set only where it is not the CPU,
            # because torch then intercepts every call.
            torch.set_grad_enabled(True)
            if self._cuda is not None:
                torch.cuda.set_device(self._cuda)
            if self._device is not None and self._device.type != "cpu":
                torch.set_default_device(self._device)
            function()

        with _THREADED_LOCK:
            _THREADED.add(self)
        self._at_work = -1
        try:
            threading.Thread(target=run, name="dreamy_lens", daemon=True).start()
        except RuntimeError:  # the system can start no thread, or the interpreter exits
            self._at_work = None
            raise

    def _cancel_queued(self) -> None:
        """Cancel all queued functions."""
        with self._condition:
            for queue in (self._soon, self._asked, self._later):
                while queue:
                    queue.popleft()[0].cancel()
            self._condition.notify_all()

    def _reset_after_fork(self) -> None:
        """Make new locks and empty queues: a forked process has no model thread, and the locks may be held for ever."""
        self._condition = threading.Condition(threading.RLock())
        self._soon, self._asked, self._later = deque(), deque(), deque()
        self._at_work, self._before = None, []


def _answer(future: Future, function: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except BaseException as error:  # the thread that waits for the future must not wait for ever
        future.set_exception(error)
        if isinstance(error, KeyboardInterrupt):  # it interrupts this thread, too
            raise
    else:
        future.set_result(result)
    finally:
        del future, function  # otherwise the frames of an error would keep them in memory


@atexit.register
def _leave_all() -> None:
    """Wait for the model threads, because a thread inside torch can crash an interpreter that exits."""
    with _THREADED_LOCK:
        workers = list(_THREADED)
    end = time.monotonic() + LEAVE_SECONDS
    for worker in workers:
        worker._cancel_queued()
    for worker in workers:
        worker.left(max(0.0, end - time.monotonic()))


def _in_child() -> None:
    global _THREADED_LOCK
    _THREADED_LOCK = threading.Lock()
    for worker in list(_THREADED):
        worker._reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

"""Take the steps of a run, in this thread or in one of its own, with all that may happen between two of them.

One thread owns the model while a run goes on: whoever else wants something of it asks, and is answered between two
steps. Nothing here draws; whoever shows a run listens to it.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from dreamy_lens.results.dream import Dream
    from dreamy_lens.results.dreams import Dreams
    from dreamy_lens.search.epo import Step

READY, RUNNING, PAUSED, STOPPED, DONE, FAILED = "ready", "running", "paused", "stopped", "done", "failed"
ENDED = (STOPPED, DONE, FAILED)

SAVE_SECONDS = 30.0
"""How often a run with a folder is saved while it goes on."""

TELL_SECONDS = 0.2
"""How often those who listen to a run are told about it, unless they say otherwise."""

LOG = logging.getLogger("dreamy_lens")
_AT_WORK: weakref.WeakSet[Worker] = weakref.WeakSet()
T = TypeVar("T")


@dataclass(eq=False)
class _Listener:
    function: Callable[[Any], object]
    subject: Any
    every: float
    told: float = float("-inf")
    gone: threading.Event = field(default_factory=threading.Event)


class Worker:
    """Takes a run, or several side by side, up to an iteration.

    Args:
        run: what is to go on.
        until: the last iteration, counted from the very beginning of the run.
        save_to: a folder in which it is saved now and then, and at the end.

    Attributes:
        status: ready, running, paused, stopped, done or failed.
        error: what ended it, if it failed.
        interrupted: whether a Ctrl-C did.
        told: whether somebody who waits was told of the error.
    """

    def __init__(self, run: Dream | Dreams, until: int, save_to: str | os.PathLike[str] | None = None) -> None:
        self.run, self.until, self.save_to = run, until, save_to
        self.status = READY
        self.error: Exception | None = None
        self.interrupted = self.told = False
        self._wish = RUNNING
        self._turn = threading.Condition(threading.RLock())
        self._asked: deque[tuple[Future, Callable[[], Any]]] = deque()
        self._later: deque[tuple[Future, Callable[[], Any]]] = deque()
        self._listeners: list[_Listener] = []
        self._ended = threading.Event()
        self._at_work: int | None = None
        self._saved: float | None = None
        # The thread that starts a run decides where tensors are made; a new thread would not know.
        self._device = torch.get_default_device()

    @classmethod
    def idle(cls, run: Dream | Dreams, status: str) -> Worker:
        """One that has nothing left to do but to answer."""
        worker = cls(run, 0)
        worker.status = status
        worker._ended.set()
        return worker

    def follow(self, other: Worker | None) -> None:
        """Tell those who listened to another one, whose run this one takes on."""
        if other is not None:
            self._listeners += [one for one in other._listeners if not one.gone.is_set() and one not in self._listeners]

    # What other threads call.

    @property
    def active(self) -> bool:
        """Whether there are steps to come."""
        return not self._ended.is_set()

    @property
    def is_mine(self) -> bool:
        """Whether the thread that asks is the one at work, which cannot wait for itself."""
        return self._at_work == threading.get_ident()

    def start(self) -> None:
        """Work in a thread of its own."""
        thread = threading.Thread(target=self._in_thread, name="dreamy_lens", daemon=True)
        _AT_WORK.add(self)
        thread.start()

    def pause(self) -> None:
        """Stand still after the present step."""
        self._want(PAUSED)

    def go_on(self) -> None:
        """After a pause."""
        self._want(RUNNING)

    def stop(self) -> None:
        """End after the present step."""
        self._want(STOPPED)

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it has ended, after that many seconds at most. An interrupt ends it, and is not passed on."""
        if self.is_mine:
            return not self.active
        try:
            # An event and not Thread.join, which takes a thread for dead once it was interrupted (bpo-45274).
            return self._ended.wait(timeout)
        except KeyboardInterrupt:
            self.interrupted = True
            self.stop()
            return self._ended.wait()

    def ask(self, function: Callable[[], T]) -> Future[T]:
        """Have a function run where the model is used, between two steps or after the last, and get its result."""
        future: Future[T] = Future()
        if self.is_mine:
            _answer(future, function)
            return future
        self._queue(self._asked, future, function)
        return future

    def defer(self, function: Callable[[], T]) -> Future[T]:
        """The same for what can wait: after the last step, and when nobody else asks."""
        future: Future[T] = Future()
        self._queue(self._later, future, function)
        return future

    def listen(
        self, function: Callable[[Any], object], subject: Any = None, every: float = TELL_SECONDS
    ) -> Callable[[], None]:
        """Have a function called by the thread at work as the run goes on.

        Args:
            function: called with the subject now and then, whenever the status changes, and at the end. If it raises,
                that is logged, and it is not called again: what watches a run never ends it.
            subject: one of the runs; None is what goes on as a whole.
            every: fewest seconds between two calls.

        Returns:
            A function that ends it.
        """
        listener = _Listener(function, self.run if subject is None else subject, every)
        self._listeners.append(listener)
        return listener.gone.set  # which does not keep the run

    # What the thread at work does.

    def work(self) -> None:
        """Take the steps, here and now. It raises nothing: see `status`, `error` and `interrupted`."""
        self._at_work = threading.get_ident()
        status, steps = FAILED, _steps(self.run, self.until)
        try:
            status = self._work(steps)
        except KeyboardInterrupt:
            self.interrupted, status = True, STOPPED
        except Exception as error:
            self._fail(error)
            if self._saved is not None:
                self._save_anyway()
        try:
            with _uninterrupted(forget=True), contextlib.suppress(Exception):
                steps.close()
            if self.save_to is not None and status != FAILED:
                self._save_whole()
        except Exception as error:
            status = FAILED
            self._fail(error)
        with _uninterrupted(forget=self.interrupted):
            self._say(status)
            self._ended.set()
            self._answer_rest()

    def _work(self, steps: Iterator[tuple[Dream, Step]]) -> str:
        self._say(RUNNING)
        while self._may_go_on():
            found = next(steps, None)
            if found is None:
                return DONE
            run, step = found
            with _uninterrupted():
                run.take(step)
            self._tell()
            # The first step is saved at once: a folder that cannot be written is better known before the search.
            if self.save_to is not None and (self._saved is None or time.monotonic() - self._saved > SAVE_SECONDS):
                with _uninterrupted():
                    self.run.save(self.save_to)
                self._saved = time.monotonic()
        return STOPPED

    def _in_thread(self) -> None:
        # Grad mode and default device are each thread's own. A device is only set where it is not the usual one,
        # because torch then looks into every call.
        torch.set_grad_enabled(True)
        if self._device.type != "cpu":
            torch.set_default_device(self._device)
        self.work()

    def _may_go_on(self) -> bool:
        """Answer, stand still while that is wished, and say whether another step is to be taken."""
        while True:
            with self._turn:
                wish = self._wish
                if wish == STOPPED:
                    return False
                if not self._asked:
                    if wish == RUNNING:
                        break
                    if self.status == PAUSED:
                        self._turn.wait()
                        continue
                job = self._asked.popleft() if self._asked else None
            if job is not None:
                _answer(*job)
            else:
                self._say(PAUSED)
        if self.status != RUNNING:
            self._say(RUNNING)
        return True

    def _answer_rest(self) -> None:
        """After the last step: answer until nobody asks. Whoever asks after that finds a new thread."""
        while True:
            with self._turn:
                queue = self._asked or self._later
                if not queue:
                    self._at_work = None
                    return
                job = queue.popleft()
            _answer(*job)

    def _queue(self, queue: deque, future: Future, function: Callable[[], Any]) -> None:
        with self._turn:
            queue.append((future, function))
            self._turn.notify_all()
            late = not self.active and self._at_work is None
            if late:
                self._at_work = -1  # of a thread that is about to say who it is

        def answer() -> None:
            self._at_work = threading.get_ident()
            self._answer_rest()

        if late:
            threading.Thread(target=answer, name="dreamy_lens", daemon=True).start()

    def _want(self, wish: str) -> None:
        with self._turn:
            if self._wish != STOPPED:  # which nothing takes back
                self._wish = wish
            self._turn.notify_all()

    def _say(self, status: str) -> None:
        self.status = status
        self._tell(now=True)

    def _tell(self, now: bool = False) -> None:
        time_now = time.monotonic()
        for listener in list(self._listeners):
            if listener.gone.is_set():
                continue
            if now or time_now - listener.told >= listener.every:
                listener.told = time_now
                try:
                    listener.function(listener.subject)
                except Exception:
                    LOG.exception("Something that watches %r failed, and is not told about it any more.", self.run)
                    listener.gone.set()

    def _fail(self, error: Exception) -> None:
        error.run = self.run  # type: ignore[attr-defined]
        self.error = error

    def _save_whole(self) -> None:
        """The last save. The search is over, so a Ctrl-C now has nothing left to end: it must not cost the run."""
        assert self.save_to is not None
        for again in (True, True, False):
            try:
                with _uninterrupted(forget=True):
                    self.run.save(self.save_to)
                return
            except KeyboardInterrupt:  # pressed just before the block, or while no signal can be held back
                if not again:
                    warnings.warn(
                        f"The run was interrupted while it was saved; run.save({str(self.save_to)!r}) saves it.",
                        RuntimeWarning,
                        stacklevel=6,
                    )

    def _save_anyway(self) -> None:
        """Save on the way out of an error, which must not be hidden by another one."""
        assert self.save_to is not None
        try:
            with _uninterrupted(forget=True):
                self.run.save(self.save_to)
        except Exception as error:
            warnings.warn(f"The run could not be saved: {error}", RuntimeWarning, stacklevel=6)


def _answer(future: Future, function: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except Exception as error:
        future.set_exception(error)
    except BaseException as error:  # an interrupt of the thread that works: whoever asked must not wait for ever
        future.set_exception(error)
        raise
    else:
        future.set_result(result)


def _steps(run: Dream | Dreams, until: int) -> Any:
    """The steps to come, as a generator, each with the run that it is of."""
    if isinstance(run, Sequence):
        yield from run.steps(until)
    else:
        for step in run.steps(until):
            yield run, step


@contextlib.contextmanager
def _uninterrupted(forget: bool = False) -> Iterator[None]:
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


@atexit.register
def _stop_all() -> None:
    """A thread that is inside torch while the interpreter goes away can crash it."""
    waiting = [worker for worker in _AT_WORK if worker.active]
    for worker in waiting:
        worker.stop()
    for worker in waiting:
        worker._ended.wait(5.0)

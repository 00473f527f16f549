"""Worker that takes the steps of a run, in the calling thread or in a thread of its own.

One thread owns the model while a run goes on. Other threads pass functions to it, and it calls them between two steps.
The worker displays nothing; panels and progress bars listen to it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Protocol

from dreamy_lens.models.locking import shared
from dreamy_lens.runs.model_thread import ModelThread
from dreamy_lens.runs.signals import SLICE_SECONDS, uninterrupted

READY, RUNNING, PAUSED, STOPPED, DONE, FAILED = "ready", "running", "paused", "stopped", "done", "failed"
ENDED = (STOPPED, DONE, FAILED)

SAVE_SECONDS = 30.0
"""Seconds between two saves of a run that has a folder."""


class Steppable(Protocol):
    """Object whose steps a worker takes: one run, or several side by side."""

    @property
    def iteration(self) -> int:
        """Number of completed iterations; for several runs, the number that every run has completed."""
        ...

    @property
    def models(self) -> set[Any]:
        """Models that the steps use; loaded now if they are not in memory."""
        ...

    def steps(self, until: int, between: Callable[[], object] | None = None) -> Iterator[Any]:
        """Yield the next steps, up to iteration `until`; a step counts once it is passed to :meth:`take`."""
        ...

    def take(self, step: Any, /) -> None:
        """Add a step to the run."""
        ...

    def save(self, path: str | os.PathLike[str], /) -> Path:
        """Write the run to a folder, which can be loaded at every moment."""
        ...

    def unlock(self) -> None:
        """Replace the locks by new ones: in a forked process, the threads that held them do not exist."""
        ...


class RunWorker(ModelThread):
    """Advances a run, or several side by side, up to an iteration.

    Args:
        run: Run, or runs, to advance.
        until: Last iteration, counted from the beginning of the run.
        save_to: Folder in which the run is saved every :data:`SAVE_SECONDS`, and at the end.

    Attributes:
        status: ready, running, paused, stopped, done or failed.
        error: Error that ended the run, if it failed.
        interrupted: Whether Ctrl-C ended the run.
        told: Whether the user has seen the error, as an exception or a warning.
    """

    def __init__(self, run: Steppable, until: int, save_to: str | os.PathLike[str] | None = None) -> None:
        super().__init__(run)
        self._ended.clear()
        self.run, self.until, self.save_to = run, until, save_to
        self.status = READY
        self.error: BaseException | None = None
        self.interrupted = self.told = False
        self._wish = RUNNING
        self._saved: float | None = None
        self._alone = False

    @classmethod
    def idle(cls, run: Steppable, status: str) -> RunWorker:
        """Make a worker that has no steps to take, and only calls the functions that it is given.

        Args:
            run: Run that the worker belongs to.
            status: Status of the run.
        """
        worker = cls(run, 0)
        worker.status = status
        worker._ended.set()
        return worker

    # What other threads call.

    @property
    def is_ending(self) -> bool:
        """Return whether the run will end after the present step, or has ended."""
        return self._wish == STOPPED or self.status in ENDED

    def start(self) -> None:
        """Take the steps in a new thread."""
        self._alone = True
        try:
            self._in_thread(self.work)
        except RuntimeError as error:
            self.status = self._failed(error)
            self._ended.set()
            raise

    def pause(self) -> None:
        """Pause after the present step."""
        self._want(PAUSED)

    def go_on(self) -> None:
        """Continue after a pause."""
        self._want(RUNNING)

    def stop(self) -> None:
        """Stop after the present step."""
        self._want(STOPPED)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end of the run. Ctrl-C stops the run, and is not raised again.

        Args:
            timeout: Most seconds to wait; None waits until the end.

        Returns:
            Whether the run has ended.
        """
        if self.is_mine:
            return not self.active
        try:
            return self._awaited(timeout)
        except KeyboardInterrupt:
            self.interrupted = True
            self.stop()
            return self._awaited(None)

    def _awaited(self, timeout: float | None) -> bool:
        # An event instead of Thread.join, because an interrupted join treats the thread as dead (bpo-45274).
        end = float("inf") if timeout is None else time.monotonic() + timeout
        while not self._ended.wait(min(SLICE_SECONDS, max(0.0, end - time.monotonic()))):
            if time.monotonic() >= end:
                return False
        return True

    # What the thread that takes the steps calls.

    def work(self) -> None:
        """Take the steps in the calling thread. No error is raised: see `status`, `error` and `interrupted`."""
        self._at_work = threading.get_ident()
        status, steps = STOPPED, self._steps()
        try:
            try:
                status = self._work(steps)
            except KeyboardInterrupt:
                self.interrupted = True
            except BaseException as error:  # includes sys.exit() in a signal handler
                status = self._failed(error)
                if self._saved is not None:
                    self._save_anyway()
            with uninterrupted(forget=True):
                with contextlib.suppress(Exception):
                    steps.close()
                if self.save_to is not None and status != FAILED:
                    try:
                        self._save_whole()
                    except Exception as error:
                        status = self._failed(error)
        finally:  # so that no thread waits for ever, whatever happens
            with uninterrupted(forget=True):
                try:
                    self._say(status)
                finally:
                    self._ended.set()
                    self._answer_rest()

    def _steps(self) -> Generator[Any, None, None]:
        """Yield the remaining steps. As a generator, an error before the first step is handled like one of a step."""
        yield from self.run.steps(self.until, self._answer_soon)

    def _work(self, steps: Iterator[Any]) -> str:
        for other in self._before:
            other.left()
        self._before = []
        with shared(self.run.models):
            self._say(RUNNING)
            while self._may_go_on():
                step = next(steps, None)
                if step is None:
                    return DONE
                with uninterrupted():
                    self.run.take(step)
                self._listeners.tell()
                # The first step is saved at once, so that a folder that cannot be written fails at the beginning.
                if self.save_to is not None and (self._saved is None or time.monotonic() - self._saved > SAVE_SECONDS):
                    with uninterrupted():
                        self.run.save(self.save_to)
                    self._saved = time.monotonic()
        return STOPPED

    def _may_go_on(self) -> bool:
        """Call queued functions, wait while the run is paused, and return whether to take another step."""
        while True:
            with self._turn:
                wish = self._wish
                if wish == STOPPED:
                    return False
                if not self._asked and not self._soon:
                    if wish == RUNNING:
                        break
                    if self.status == PAUSED:
                        self._turn.wait(SLICE_SECONDS)
                        continue
                asked = bool(self._asked or self._soon)
            if asked:
                self._answer_first()
            else:
                self._say(PAUSED)
        if self.status != RUNNING:
            self._say(RUNNING)
        return True

    def _drop(self) -> None:
        self._want(STOPPED)
        super()._drop()

    def _lose(self) -> None:
        super()._lose()
        if self.active:
            self.status, self._ended = STOPPED, threading.Event()
            self._ended.set()
        self.run.unlock()

    def _want(self, wish: str) -> None:
        with self._turn:
            if self._wish != STOPPED:  # a stop cannot be taken back
                self._wish = wish
            self._turn.notify_all()

    def _say(self, status: str) -> None:
        self.status = status
        self._listeners.tell(now=True)

    def _failed(self, error: BaseException) -> str:
        error.run = self.run  # type: ignore[attr-defined]
        self.error = error
        if self._alone:  # no caller inspects the frames, and they would keep the tensors of the failed pass in memory
            traceback.clear_frames(error.__traceback__)
        return FAILED

    def _save_whole(self) -> None:
        """Save the finished run. A Ctrl-C at this point must not lose the run, so an interrupted save is repeated."""
        assert self.save_to is not None
        for again in (True, True, False):
            try:
                self.run.save(self.save_to)
                return
            except KeyboardInterrupt:  # possible because Python may deliver Ctrl-C before it is held back
                if not again:
                    warnings.warn(
                        f"The run was interrupted while it was saved; call run.save({str(self.save_to)!r}) to save it.",
                        RuntimeWarning,
                        stacklevel=6,
                    )

    def _save_anyway(self) -> None:
        """Save after an error; a second error from the save must not hide the first one."""
        assert self.save_to is not None
        try:
            with uninterrupted(forget=True):
                self.run.save(self.save_to)
        except Exception as error:
            warnings.warn(f"The run could not be saved: {error}", RuntimeWarning, stacklevel=6)

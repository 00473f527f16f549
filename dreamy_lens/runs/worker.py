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
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Protocol

from dreamy_lens.errors import warn
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

    def end_here(self) -> None:
        """Make the present iteration the last one of the settings: a budget may have ended the run before it."""
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
        error_seen: Whether the user has seen the error, as an exception or a warning.
        save_error: Error of the last attempt to save the run; None if it was saved. It does not end the run.
    """

    def __init__(self, run: Steppable, until: int, save_to: str | os.PathLike[str] | None = None) -> None:
        super().__init__(run)
        self._ended.clear()
        self.run, self.until, self.save_to = run, until, save_to
        self.status = READY
        self.error: BaseException | None = None
        self.interrupted = self.error_seen = False
        self.save_error: Exception | None = None
        self._warned_of_saving = False
        self._wish = RUNNING
        self._saved: float | None = None
        self._in_own_thread = False

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
        self._in_own_thread = True
        try:
            self._in_thread(self.work)
        except RuntimeError as error:
            self.status = self._failed(error)
            self._ended.set()
            raise

    def pause(self) -> None:
        """Pause after the present step."""
        self._set_wish(PAUSED)

    def go_on(self) -> None:
        """Continue after a pause."""
        self._set_wish(RUNNING)

    def stop(self) -> None:
        """Stop after the present step."""
        self._set_wish(STOPPED)

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
            return self._wait_ended(timeout)
        except KeyboardInterrupt:
            self.interrupted = True
            self.stop()
            return self._wait_ended(None)

    def _wait_ended(self, timeout: float | None) -> bool:
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
                    self._save_after_error()
            with uninterrupted(forget=True):
                with contextlib.suppress(Exception):
                    steps.close()
                if self.save_to is not None and status != FAILED:
                    self._save_finished()
        finally:  # so that no thread waits for ever, whatever happens
            with uninterrupted(forget=True):
                try:
                    self._set_status(status)
                finally:
                    self._ended.set()
                    self._answer_rest()

    def _steps(self) -> Generator[Any, None, None]:
        """Yield the remaining steps; in a generator, an error before the first step is raised at `next`, too."""
        yield from self.run.steps(self.until, self._answer_soon)

    def _work(self, steps: Iterator[Any]) -> str:
        for other in self._before:
            other.left()
        self._before = []
        with shared(self.run.models):
            self._set_status(RUNNING)
            while self._take_another_step():
                step = next(steps, None)
                if step is None:
                    self.run.end_here()
                    return DONE
                with uninterrupted():
                    self.run.take(step)
                self._listeners.notify()
                # The first step is saved at once, so that the user hears of a folder that cannot be written early on.
                if self.save_to is not None and (self._saved is None or time.monotonic() - self._saved > SAVE_SECONDS):
                    with uninterrupted():
                        self._save()
                    self._saved = time.monotonic()
        return STOPPED

    def _take_another_step(self) -> bool:
        """Call queued functions, wait while the run is paused, and return whether to take another step."""
        while True:
            with self._condition:
                wish = self._wish
                if wish == STOPPED:
                    return False
                if not self._asked and not self._soon:
                    if wish == RUNNING:
                        break
                    if self.status == PAUSED:
                        self._condition.wait(SLICE_SECONDS)
                        continue
                asked = bool(self._asked or self._soon)
            if asked:
                self._answer_first()
            else:
                self._set_status(PAUSED)
        if self.status != RUNNING:
            self._set_status(RUNNING)
        return True

    def _cancel_queued(self) -> None:
        self._set_wish(STOPPED)
        super()._cancel_queued()

    def _reset_after_fork(self) -> None:
        super()._reset_after_fork()
        if self.active:
            self.status, self._ended = STOPPED, threading.Event()
            self._ended.set()
        self.run.unlock()

    def _set_wish(self, wish: str) -> None:
        with self._condition:
            if self._wish != STOPPED:  # a stop cannot be taken back
                self._wish = wish
            self._condition.notify_all()

    def _set_status(self, status: str) -> None:
        self.status = status
        self._listeners.notify(now=True)

    def _failed(self, error: BaseException) -> str:
        error.run = self.run  # type: ignore[attr-defined]
        self.error = error
        if (
            self._in_own_thread
        ):  # no caller inspects the frames, and they would keep the tensors of the failed pass in memory
            traceback.clear_frames(error.__traceback__)
        return FAILED

    def _save(self) -> None:
        """Save the run. An error does not end the run, which is complete in memory: the first one is a warning."""
        assert self.save_to is not None
        try:
            self.run.save(self.save_to)
            self.save_error = None
        except Exception as error:
            self.save_error = error
            if not self._warned_of_saving:
                self._warned_of_saving = True
                warn(
                    f"The run could not be saved in {os.fspath(self.save_to)[:300]!r}: {str(error).rstrip('.')}. The "
                    "search goes on, and tries again until its end; run.save(folder) writes the run to another folder.",
                    RuntimeWarning,
                )

    def _save_finished(self) -> None:
        """Save the finished run. A Ctrl-C at this point must not lose the run, so an interrupted save is repeated."""
        assert self.save_to is not None
        for again in (True, True, False):
            try:
                self._save()
                return
            except KeyboardInterrupt:  # possible because Python may deliver Ctrl-C before it is held back
                if not again:
                    warn(
                        f"The run was interrupted while it was saved; call run.save({str(self.save_to)!r}) to save it.",
                        RuntimeWarning,
                    )

    def _save_after_error(self) -> None:
        """Save after an error; a second error from the save must not hide the first one."""
        assert self.save_to is not None
        try:
            with uninterrupted(forget=True):
                self.run.save(self.save_to)
        except Exception as error:
            self.save_error = error
            warn(
                f"The run could not be saved: {str(error).rstrip('.')}. run.save(folder) saves it to another folder.",
                RuntimeWarning,
            )

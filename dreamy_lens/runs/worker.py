"""Take the steps of a run, in this thread or in one of its own, with all that may happen between two of them.

One thread owns the model while a run goes on: other threads ask, and are answered between two steps. Nothing here
draws; what shows a run listens to it.
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
"""How often a run with a folder is saved while it goes on."""


class Steppable(Protocol):
    """What a worker takes the steps of: one run, or several side by side."""

    @property
    def iteration(self) -> int:
        """Completed iterations; of several runs, those that all have completed."""
        ...

    @property
    def models(self) -> set[Any]:
        """The models that the steps use, loaded if need be."""
        ...

    def steps(self, until: int, between: Callable[[], object] | None = None) -> Iterator[Any]:
        """Give the next steps, up to an iteration; each counts once it is given to :meth:`take`."""
        ...

    def take(self, step: Any, /) -> None:
        """Note a step."""
        ...

    def save(self, path: str | os.PathLike[str], /) -> Path:
        """Write everything to a folder, which is whole at every moment."""
        ...

    def unlock(self) -> None:
        """Forget which threads may be reading: in a forked process they are not there."""
        ...


class RunWorker(ModelThread):
    """Takes a run, or several side by side, up to an iteration.

    Args:
        run: what is to go on.
        until: the last iteration, counted from the very beginning of the run.
        save_to: a folder in which it is saved now and then, and at the end.

    Attributes:
        status: ready, running, paused, stopped, done or failed.
        error: what ended it, if it failed.
        interrupted: whether a Ctrl-C did.
        told: whether the error was raised, or warned of, to the user.
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
        """Make a worker that has no steps to take, and only answers."""
        worker = cls(run, 0)
        worker.status = status
        worker._ended.set()
        return worker

    # What other threads call.

    @property
    def is_ending(self) -> bool:
        """Whether the run is bound to end, or has ended."""
        return self._wish == STOPPED or self.status in ENDED

    def start(self) -> None:
        """Work in a thread of its own."""
        self._alone = True
        try:
            self._in_thread(self.work)
        except RuntimeError as error:
            self.status = self._failed(error)
            self._ended.set()
            raise

    def pause(self) -> None:
        """Stand still after the present step."""
        self._want(PAUSED)

    def go_on(self) -> None:
        """Go on after a pause."""
        self._want(RUNNING)

    def stop(self) -> None:
        """End after the present step."""
        self._want(STOPPED)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait, so many seconds at most; whether the run has ended. An interrupt ends it, and is not passed on."""
        if self.is_mine:
            return not self.active
        try:
            return self._awaited(timeout)
        except KeyboardInterrupt:
            self.interrupted = True
            self.stop()
            return self._awaited(None)

    def _awaited(self, timeout: float | None) -> bool:
        # An event and not Thread.join, which takes a thread for dead once it was interrupted (bpo-45274).
        end = float("inf") if timeout is None else time.monotonic() + timeout
        while not self._ended.wait(min(SLICE_SECONDS, max(0.0, end - time.monotonic()))):
            if time.monotonic() >= end:
                return False
        return True

    # What the thread at work does.

    def work(self) -> None:
        """Take the steps, here and now. What ends it is not raised: see `status`, `error` and `interrupted`."""
        self._at_work = threading.get_ident()
        status, steps = STOPPED, self._steps()
        try:
            try:
                status = self._work(steps)
            except KeyboardInterrupt:
                self.interrupted = True
            except BaseException as error:  # sys.exit() in a signal's handler too
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
        finally:  # whatever happens, no thread waits for ever
            with uninterrupted(forget=True):
                try:
                    self._say(status)
                finally:
                    self._ended.set()
                    self._answer_rest()

    def _steps(self) -> Generator[Any, None, None]:
        """The steps to come; a generator, so that what fails before the first step fails as a step does."""
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
                # The first step is saved at once: a folder that cannot be written is better known before the search.
                if self.save_to is not None and (self._saved is None or time.monotonic() - self._saved > SAVE_SECONDS):
                    with uninterrupted():
                        self.run.save(self.save_to)
                    self._saved = time.monotonic()
        return STOPPED

    def _may_go_on(self) -> bool:
        """Answer, stand still while that is wished, and say whether another step is to be taken."""
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
            if self._wish != STOPPED:  # which nothing takes back
                self._wish = wish
            self._turn.notify_all()

    def _say(self, status: str) -> None:
        self.status = status
        self._listeners.tell(now=True)

    def _failed(self, error: BaseException) -> str:
        error.run = self.run  # type: ignore[attr-defined]
        self.error = error
        if self._alone:  # nothing looks at its frames, and they would keep the tensors of the pass that failed
            traceback.clear_frames(error.__traceback__)
        return FAILED

    def _save_whole(self) -> None:
        """The last save. The search is over, so a Ctrl-C now has nothing left to end: it must not cost the run."""
        assert self.save_to is not None
        for again in (True, True, False):
            try:
                self.run.save(self.save_to)
                return
            except KeyboardInterrupt:  # while no signal can be held back
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
            with uninterrupted(forget=True):
                self.run.save(self.save_to)
        except Exception as error:
            warnings.warn(f"The run could not be saved: {error}", RuntimeWarning, stacklevel=6)

"""What can be done with a run while it goes on; the same for one and for several side by side."""

from __future__ import annotations

import concurrent.futures as futures
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from dreamy_lens import _upcalls
from dreamy_lens._host import in_kernel
from dreamy_lens.errors import SettingsError
from dreamy_lens.runs.listeners import TELL_SECONDS
from dreamy_lens.runs.signals import SLICE_SECONDS
from dreamy_lens.runs.worker import RunWorker

T = TypeVar("T")
S = TypeVar("S", bound="RunControls")

_TAKING = threading.RLock()
"""Held while a run is given another worker: it has one at a time."""


class RunControls:
    """Base of :class:`~dreamy_lens.runs.dream.Dream` and :class:`~dreamy_lens.runs.dreams.Dreams`."""

    _worker: RunWorker | None = None

    @property
    def iteration(self) -> int:
        """Iterations completed until now."""
        raise NotImplementedError

    @property
    def status(self) -> str:
        """What the run is doing: ready, running, paused, stopped, done or failed."""
        return self._idle_status() if self._worker is None else self._worker.status

    @property
    def worker(self) -> RunWorker | None:
        """What takes the run's steps, or took them last; None before that. Runs side by side have one together."""
        return self._worker

    @property
    def active(self) -> bool:
        """Whether the run goes on in the background, or stands still there."""
        return any(worker.active for worker in self._workers())

    @property
    def error(self) -> BaseException | None:
        """What ended the run, if it failed."""
        return next((worker.error for worker in self._workers() if worker.error is not None), None)

    def pause(self: S) -> S:
        """Stand still after the present step; :meth:`resume` goes on. Nothing happens to a run that has ended."""
        for worker in self._workers():
            worker.pause()
        return self

    def stop(self: S) -> S:
        """End after the present step, with everything found so far; :meth:`wait` waits for that."""
        for worker in self._workers():
            worker.stop()
        return self

    def wait(self: S, timeout: float | None = None) -> S:
        """Wait until it has ended. An interrupt (the notebook's stop button) ends it, and keeps everything found.

        Args:
            timeout: seconds after which to return all the same; `status` says whether it has ended.

        Raises:
            Exception: whatever ended the run, if it failed.
        """
        workers = self._workers()
        end = None if timeout is None else time.monotonic() + timeout
        for worker in workers:
            self._waited(worker, None if end is None else max(0.0, end - time.monotonic()))
        for worker in workers:
            if worker.error is not None and not worker.is_mine:
                worker.told = True
                raise worker.error
        return self

    def ask(self, function: Callable[[], T], soon: bool = False) -> Future[T]:
        """Run a function between two steps, where it may use the run's model; also while the run is paused.

        Args:
            function: of no arguments. While it runs, `frontier` and `history` are what was found so far.
            soon: do not wait for the end of a step: it is answered between two passes of one. The function must leave
                the model as it was, or the step would be of two models.

        Returns:
            A future; its `result()` waits for what the function returned, or raises what it raised.
        """
        return self._answering().ask(function, soon)

    def defer(self, function: Callable[[], T]) -> Future[T]:
        """Run a function that can wait: after the last step, and when nothing else is asked.

        Args:
            function: function of no arguments, which may use the run's model.

        Returns:
            A future of what the function returns.
        """
        return self._answering().defer(function)

    def use_model(self, function: Callable[[], T]) -> T:
        """Run a function that uses the run's model, and return its result.

        While the run goes on in the background, its thread runs the function, between two steps; otherwise this thread
        does.

        Args:
            function: function of no arguments.

        Raises:
            Exception: whatever the function raises.
        """
        worker = self._worker
        if worker is None or worker.is_mine or not worker.active:
            return function()
        future = worker.ask(function)
        try:
            while not futures.wait([future], SLICE_SECONDS).done:
                pass
            return future.result()
        except KeyboardInterrupt:
            future.cancel()  # nothing waits for it any more
            raise
        finally:
            del future  # an error's frames would keep it, and it the error

    def listen(self: S, function: Callable[[S], object], every: float = TELL_SECONDS) -> Callable[[], None]:
        """Call a function with this run as it goes on, in the background, and at the end.

        Args:
            function: function of one argument, this run; if it raises, that is logged, and it is not called again.
            every: fewest seconds between two calls; a change of status is told at once.

        Returns:
            A function that ends the calls.
        """
        return self._answering().listen(function, self, every)

    def work_with(self, worker: RunWorker) -> None:
        """Have a worker take the steps and answer from now on, in the place of the run's last one.

        Raises:
            SettingsError: the run goes on still.
        """
        with _TAKING:
            if self.active:
                raise SettingsError(f"The run is {self.status} already.")
            for part in self._parts():
                worker.follow(part._worker)
                part._worker = worker

    def drop_worker(self) -> None:
        """Have no worker: for a copy, which does not go on with the run that it was copied from."""
        self._worker = None

    # How it is shown.

    def _ipython_display_(self) -> None:
        if in_kernel():
            _upcalls.show(self)
        else:
            print(repr(self))

    def _display_(self) -> Any:  # what marimo asks for
        return _upcalls.panel_of(self)

    # How.

    def _idle_status(self) -> str:
        raise NotImplementedError

    def _parts(self) -> Sequence[RunControls]:
        """This, and the runs that go on with it."""
        return [self]

    def _workers(self) -> list[RunWorker]:
        """Workers that take the steps, or took them last."""
        return [] if self._worker is None else [self._worker]

    def _answering(self) -> RunWorker:
        with _TAKING:
            if self._worker is None:
                self._worker = RunWorker.idle(self, self._idle_status())  # pyright: ignore[reportArgumentType]
            return self._worker

    def _went_on(self, iterations: int | None, save_to: str | os.PathLike[str] | None, wait: bool | None) -> bool:
        """Whether there was only a pause to be ended. A run that was told to stop is waited for, and has ended then."""
        workers = [worker for worker in self._workers() if worker.active]
        for worker in workers:
            if worker.is_ending and not worker.is_mine:
                worker.wait()
        if not self.active:
            return False
        if iterations is not None or save_to is not None or len(workers) > 1 or workers[0].is_ending:
            raise SettingsError(
                f"The run is {self.status} still, at iteration {self.iteration}. resume() goes on after a pause, and "
                "takes no number then; for more iterations, wait() for the end, or stop() it, first."
            )
        workers[0].go_on()
        if wait:
            self.wait()
        return True

    def _settle(self) -> None:
        """Wait for the end before something is read that is only then complete."""
        worker = self._worker
        if worker is None or worker.is_mine:
            return
        self._waited(worker, None)
        if worker.error is not None and not worker.told:
            worker.told = True
            warnings.warn(
                f"The run failed ({type(worker.error).__name__}: {worker.error}), so this is what it found until then. "
                ".wait() raises the error, .resume() tries to go on.",
                RuntimeWarning,
                stacklevel=3,
            )

    def _waited(self, worker: RunWorker, timeout: float | None) -> None:
        was = worker.interrupted
        worker.wait(timeout)
        if worker.interrupted and not was:
            self.stop()  # the others too, where there are several
            print("Interrupted; everything found is kept, and .resume() goes on.", file=sys.stderr)

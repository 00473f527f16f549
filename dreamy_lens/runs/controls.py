"""Controls of a run in the background: pause, stop, wait, listen, use the model. Single runs and groups share them."""

from __future__ import annotations

import concurrent.futures as futures
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from dreamy_lens import _upcalls
from dreamy_lens._host import in_kernel
from dreamy_lens.errors import SettingsError, warn
from dreamy_lens.runs.listeners import LISTEN_SECONDS
from dreamy_lens.runs.signals import SLICE_SECONDS
from dreamy_lens.runs.worker import RunWorker

T = TypeVar("T")
S = TypeVar("S", bound="RunControls")

_TAKING = threading.RLock()
"""Lock that is held while a run changes its worker, because a run has one worker at a time."""


class RunControls:
    """Base of :class:`~dreamy_lens.runs.dream.Dream` and :class:`~dreamy_lens.runs.dreams.Dreams`."""

    _worker: RunWorker | None = None

    @property
    def iteration(self) -> int:
        """Number of iterations completed so far."""
        raise NotImplementedError

    @property
    def status(self) -> str:
        """Status of the run: ready, running, paused, stopped, done or failed."""
        return self._idle_status() if self._worker is None else self._worker.status

    @property
    def worker(self) -> RunWorker | None:
        """Worker that takes, or took, the run's steps; None before the first step. Runs side by side share one."""
        return self._worker

    @property
    def active(self) -> bool:
        """Return whether the run goes on, or is paused, in the background."""
        return any(worker.active for worker in self._workers())

    @property
    def error(self) -> BaseException | None:
        """Error that ended the run; None if it did not fail."""
        return next((worker.error for worker in self._workers() if worker.error is not None), None)

    def pause(self: S) -> S:
        """Pause after the present step; :meth:`resume` continues. A run that has ended does not change."""
        for worker in self._workers():
            worker.pause()
        return self

    def stop(self: S) -> S:
        """Stop after the present step and keep everything found so far; :meth:`wait` waits for that end."""
        for worker in self._workers():
            worker.stop()
        return self

    def wait(self: S, timeout: float | None = None) -> S:
        """Wait until the run has ended. Ctrl-C (the stop button of a notebook) stops the run and keeps its results.

        Args:
            timeout: Most seconds to wait; None waits until the end. `status` shows whether the run has ended.

        Returns:
            This run.

        Raises:
            Exception: The error that ended the run, if it failed.
        """
        workers = self._workers()
        end = None if timeout is None else time.monotonic() + timeout
        for worker in workers:
            self._wait_for(worker, None if end is None else max(0.0, end - time.monotonic()))
        for worker in workers:
            if worker.error is not None and not worker.is_mine:
                worker.error_seen = True
                raise worker.error
        return self

    def ask(self, function: Callable[[], T], soon: bool = False) -> Future[T]:
        """Run a function on the model thread between two steps, where it may use the run's model.

        This also works while the run is paused, and after its end.

        Args:
            function: Function of no arguments. While it runs, `frontier` and `history` are the results so far.
            soon: Whether to run the function between two model passes of a step, without waiting for the step's end.
                The function must then leave the model unchanged, or one step would mix two models.

        Returns:
            Future of the function's result; its `result()` waits, and raises what the function raised.
        """
        return self._current_worker().ask(function, soon)

    def defer(self, function: Callable[[], T]) -> Future[T]:
        """Run a function on the model thread after the last step, when no other function is queued.

        Args:
            function: Function of no arguments, which may use the run's model.

        Returns:
            Future of the function's result.
        """
        return self._current_worker().defer(function)

    def use_model(self, function: Callable[[], T]) -> T:
        """Run a function that uses the run's model, and return its result.

        While the run goes on in the background, the model thread runs the function between two steps. Otherwise the
        calling thread runs it.

        Args:
            function: Function of no arguments.

        Returns:
            Result of the function.

        Raises:
            Exception: The error that the function raised.
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
            future.cancel()  # no thread waits for the result any more
            raise
        finally:
            del future  # otherwise the future and the frames of its error would keep each other in memory

    def listen(self: S, function: Callable[[S], object], every: float = LISTEN_SECONDS) -> Callable[[], None]:
        """Call a function with this run while it goes on, and at its end.

        Args:
            function: Function of one argument, this run; if it raises, the error is logged and the calls end.
            every: Fewest seconds between two calls; a change of status calls the function at once.

        Returns:
            Function that ends the calls.
        """
        return self._current_worker().listen(function, self, every)

    def work_with(self, worker: RunWorker) -> None:
        """Replace the run's worker.

        Args:
            worker: Worker that takes the next steps and runs the functions that are passed to :meth:`ask`.

        Raises:
            SettingsError: The run is still going.
        """
        with _TAKING:
            if self.active:
                raise SettingsError(
                    f"The run is already {self.status}. First call wait(), which waits for its end, or stop()."
                )
            for part in self._parts():
                worker.follow(part._worker)
                part._worker = worker

    def drop_worker(self) -> None:
        """Forget the worker: a copy does not continue with the run that it was copied from."""
        self._worker = None

    # Display.

    def _ipython_display_(self) -> None:
        if in_kernel():
            _upcalls.show(self)
        else:
            print(repr(self))

    def _display_(self) -> Any:  # marimo calls this
        return _upcalls.panel_of(self)

    # Internals.

    def _idle_status(self) -> str:
        raise NotImplementedError

    def _parts(self) -> Sequence[RunControls]:
        """Return this object, and the runs that advance with it."""
        return [self]

    def _workers(self) -> list[RunWorker]:
        """Return the workers that take the steps, or took the last ones."""
        return [] if self._worker is None else [self._worker]

    def _current_worker(self) -> RunWorker:
        """Return the run's worker; a run without one gets a worker that has no steps to take."""
        with _TAKING:
            if self._worker is None:
                self._worker = RunWorker.idle(self, self._idle_status())  # pyright: ignore[reportArgumentType]
            return self._worker

    def _went_on(self, iterations: int | None, save_to: str | os.PathLike[str] | None, wait: bool | None) -> bool:
        """End a pause, and return whether that was all there was to do; a run that is stopping is waited for first."""
        workers = [worker for worker in self._workers() if worker.active]
        for worker in workers:
            if worker.is_ending and not worker.is_mine:
                worker.wait()
        if not self.active:
            return False
        if iterations is not None or save_to is not None or len(workers) > 1 or workers[0].is_ending:
            raise SettingsError(
                f"The run is still {self.status}, at iteration {self.iteration}. resume() continues a paused run and "
                "then takes neither iterations nor save_to; to use them, wait() for the end of the run, or stop() it, "
                "first."
            )
        workers[0].go_on()
        if wait:
            self.wait()
        return True

    def _settle(self) -> None:
        """Wait for the end of the run, before results are read that are complete only then."""
        worker = self._worker
        if worker is None or worker.is_mine:
            return
        self._wait_for(worker, None)
        if worker.error is not None and not worker.error_seen:
            worker.error_seen = True
            warn(
                f"The run failed ({type(worker.error).__name__}: {worker.error}), so these are its results until then. "
                ".wait() raises the error, .resume() tries to continue.",
                RuntimeWarning,
            )

    def _wait_for(self, worker: RunWorker, timeout: float | None) -> None:
        was_interrupted = worker.interrupted
        worker.wait(timeout)
        if worker.interrupted and not was_interrupted:
            self.stop()  # also the runs that have other workers
            print("Interrupted. Everything found so far is kept; .resume() continues.", file=sys.stderr)

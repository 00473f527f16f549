"""Workers on a Ray cluster that share jobs, and are replaced when they die.

Ray's own retries count the calls of an actor, not the attempts of a job. A job that kills every worker would be tried
without end, or would use up the attempts of other jobs. So the pool gives each worker one job at a time, and counts the
attempts of each job itself.
"""

from __future__ import annotations

import collections
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dreamy_lens.cluster.ray_cluster import Cluster
from dreamy_lens.errors import ClusterError, DreamyLensError
from dreamy_lens.runs.signals import SLICE_SECONDS

ATTEMPTS = 3
"""Number of attempts at a job whose workers die; also of starts of a worker that dies before it is ready."""

PATIENCE_SECONDS = 30.0
"""Seconds without a ready worker after which a message informs the user."""


@dataclass(frozen=True)
class LostJob:
    """A job that was given up.

    Attributes:
        reason: Sentence that says how the last attempt ended.
        attempts: Number of attempts.
    """

    reason: str
    attempts: int


@dataclass(eq=False)
class _Worker:
    actor: Any
    waits_for: Any
    job: Any = None  # None while the worker gets ready
    is_ready: bool = False


@dataclass
class ActorPool:
    """Pool of workers that run jobs.

    Args:
        cluster: Ray cluster that runs the workers.
        data: Bytes of an object with `ready()` and `run(job, attempt)`; each worker has its own copy of the object.
        report: Function that is called with messages for the user.
        prepare: Function that turns a job into the value that is sent to a worker, called when the job begins.
    """

    cluster: Cluster
    data: bytes
    report: Callable[[str], None] = lambda text: None
    prepare: Callable[[Any], Any] = lambda job: job
    _workers: list[_Worker] = field(default_factory=list)
    _false_starts: int = 0
    _began: float | None = None

    def work(self, jobs: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Run all jobs, started in the order given, and yield results as they come.

        The workers end when the iterator is exhausted or closed.

        Yields:
            A job, and the result that `run` returned for it, or a :class:`LostJob`.

        Raises:
            DreamyLensError: A worker raised it while it got ready; every other worker would raise it too.
            ClusterError: Workers die before they are ready.
        """
        waiting = collections.deque(jobs)
        attempts: collections.Counter[int] = collections.Counter()
        numbers = {id(job): number for number, job in enumerate(jobs)}
        self._began = time.monotonic()
        self._reference = self.cluster.ray.put(self.data)
        try:
            for _ in range(min(self.cluster.workers, len(jobs))):
                self._start()
            while waiting or any(worker.job is not None for worker in self._workers):
                for worker in self._workers:
                    if worker.is_ready and worker.job is None and waiting:
                        self._give(worker, waiting.popleft(), attempts, numbers)
                busy = {worker.waits_for: worker for worker in self._workers if worker.waits_for is not None}
                ended, _ = self.cluster.ray.wait(list(busy), num_returns=1, timeout=SLICE_SECONDS)
                for reference in ended:
                    worker = busy[reference]
                    job, failure, result = self._collect(worker)
                    if job is None:
                        continue
                    number = numbers[id(job)]
                    if failure is None:
                        yield job, result
                    elif attempts[number] < ATTEMPTS:
                        self.report(f"{failure} The job is tried again.")
                        waiting.append(job)
                    else:
                        yield job, LostJob(failure, attempts[number])
                self._report_if_none_is_ready()
        finally:
            for worker in self._workers:
                self._end(worker)
            self._workers = []

    def _start(self) -> None:
        cluster = self.cluster
        kind = cluster.ray.remote(num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_restarts=0)(_PoolActor)
        actor = kind.remote(self._reference)
        self._workers.append(_Worker(actor, actor.ready.remote()))

    def _report_if_none_is_ready(self) -> None:
        if self._began is None or time.monotonic() - self._began <= PATIENCE_SECONDS:
            return
        self._began = None
        self.report(
            f"No worker is ready after {PATIENCE_SECONDS:.0f} s. Each worker needs {self.cluster.need}. The cluster "
            f"has {self.cluster.room}, which other programs may be using."
        )

    def _give(self, worker: _Worker, job: Any, attempts: Any, numbers: dict[int, int]) -> None:
        attempts[numbers[id(job)]] += 1
        worker.job = job
        worker.waits_for = worker.actor.run.remote(self.prepare(job), attempts[numbers[id(job)]])

    def _collect(self, worker: _Worker) -> tuple[Any, str | None, Any]:
        """Collect what a worker has finished: its start, or a job.

        Returns:
            The worker's job, or None if the worker was getting ready; a sentence on the failure, or None; the result.
        """
        errors = self.cluster.ray.exceptions
        job, worker.job, worker.waits_for, reference = worker.job, None, None, worker.waits_for
        try:
            result = self.cluster.ray.get(reference)
        except errors.RayTaskError as error:
            if job is None and isinstance(error.cause, DreamyLensError):
                raise error.cause from None
            reason = f"A worker failed with {_first_line(error.cause)}."
        except errors.RayError as error:
            reason = f"A worker died ({_first_line(error)})."
        else:
            worker.is_ready, self._false_starts, self._began = True, 0, None
            return job, None, result
        # A worker that raised an unexpected error may be in any state, so it is replaced like a dead one.
        self._workers.remove(worker)
        self._end(worker)
        if job is None:
            self._false_starts += 1
            if self._false_starts < ATTEMPTS:
                self._start()
            elif not self._workers:
                raise ClusterError(
                    f"{reason} Other workers failed too while they got ready. Workers that die while they load a model "
                    "have often run out of memory: ask for fewer workers with workers=, or for a smaller dtype=. Every "
                    "machine needs dreamy_lens. Ray's logs are in /tmp/ray/session_latest/logs on the worker's machine."
                )
        else:
            self._start()
        return job, reason, None

    def _end(self, worker: _Worker) -> None:
        try:
            self.cluster.ray.kill(worker.actor)
        except Exception:  # the cluster has ended, and its workers with it
            return


class _PoolActor:
    """Ray actor around an object that arrives as bytes, so that Ray needs to import only this class."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def ready(self) -> None:
        self._object = pickle.loads(self._data)
        del self._data
        self._object.ready()

    def run(self, job: Any, attempt: int) -> Any:
        return self._object.run(job, attempt)


def _first_line(error: Any) -> str:
    """Return the kind and the first line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind = "" if isinstance(error, str) else f"{type(error).__name__}: "
    return f"{kind}{' '.join(lines[:1])[:300]}".rstrip(".: ")

"""Values at every token of the windows that a scan kept, computed by workers of a cluster."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dreamy_lens.cluster.actor_pool import ActorPool, LostJob
from dreamy_lens.cluster.model_ref import dumps
from dreamy_lens.cluster.ray_cluster import Cluster
from dreamy_lens.errors import warn
from dreamy_lens.scan.scanner import Scanner
from dreamy_lens.scan.token_values import JobArguments, JobRunner, TokenValueJob, TokenValues

Arguments = Callable[[TokenValueJob], JobArguments]
"""Function that returns the arguments of a job."""

MAX_LOCAL_PAIRS = 1 << 20
"""Most pairs of feature and window whose values this process computes; for more, workers start again."""


@dataclass
class ValueWorker:
    """Worker that computes values at every token of windows.

    Args:
        data: Bytes of a :class:`~dreamy_lens.cluster.scan_worker.ScanWorker`, from which the model and the features
            are taken.
    """

    data: bytes

    def ready(self) -> None:
        """Load the model and bind the features."""
        worker = pickle.loads(self.data)
        worker.ready()
        self._values = TokenValues(worker.scanner)

    def run(self, arguments: JobArguments, attempt: int) -> np.ndarray:
        """Return the values of a job: at every token, for pairs of feature and window."""
        return self._values.values(*arguments)


def value_job_runner(cluster: Cluster, data: bytes, scanner: Scanner, always: bool) -> JobRunner:
    """Return a function that computes values at tokens: few of them in this process, more of them on a cluster.

    Args:
        cluster: Ray cluster that runs the workers.
        data: Bytes of the :class:`~dreamy_lens.cluster.scan_worker.ScanWorker`.
        scanner: Scanner of the scan in this process.
        always: Whether workers compute any number of values, because the workers have GPUs.
    """

    def on_cluster(jobs: Sequence[TokenValueJob], arguments: Arguments) -> Iterator[tuple[TokenValueJob, np.ndarray]]:
        pool = ActorPool(cluster, dumps(ValueWorker(data)), lambda text: print(text, file=sys.stderr), arguments)
        for job, values in pool.work(jobs):
            if isinstance(values, LostJob):
                warn(
                    f"Values at the tokens of {len(job[2]):,} windows are missing from the examples. {values.reason}",
                    RuntimeWarning,
                )
                continue
            yield job, values

    def run_jobs(jobs: Sequence[TokenValueJob], arguments: Arguments) -> Iterator[tuple[TokenValueJob, np.ndarray]]:
        pairs = sum(len(rows) for *_, rows in jobs)
        if pairs > MAX_LOCAL_PAIRS or (always and pairs):
            yield from on_cluster(jobs, arguments)
            return
        token_values = TokenValues(scanner)
        for job in jobs:
            yield job, token_values.values(*arguments(job))

    return run_jobs

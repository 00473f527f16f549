"""What a scan leaves to compute for the windows it kept, shared out to workers."""

from __future__ import annotations

import pickle
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.cluster.actor_pool import ActorPool, LostJob
from dreamy_lens.cluster.model_ref import dumps
from dreamy_lens.cluster.ray_cluster import Cluster

if TYPE_CHECKING:
    from dreamy_lens.scan.scanner import Scanner
    from dreamy_lens.scan.token_values import Answers, Job

MANY = 1 << 20
"""Pairs of feature and window above which workers are started once more for their values."""


@dataclass
class TokenValueJob:
    """What a worker is made of.

    Args:
        data: bytes of a :class:`~dreamy_lens.cluster.scan_worker.ScanWorker`, which has the model and the features.
    """

    data: bytes

    def ready(self) -> None:
        """Load the model and bind the features."""
        from dreamy_lens.scan.token_values import TokenValues

        worker = pickle.loads(self.data)
        worker.ready()
        self._describer = TokenValues(worker.scanner)

    def run(self, job: tuple[Any, ...], attempt: int) -> np.ndarray:
        """Values at every token of some pairs."""
        return self._describer.values(*job)


def spread(cluster: Cluster, data: bytes, scanner: Scanner, always: bool) -> Answers:
    """What computes values at tokens: here if there are few, else on the cluster.

    Args:
        cluster: where.
        data: of the workers.
        scanner: of the scan in this process.
        always: whether workers do it however few there are, because they have the devices.
    """

    def answers(jobs: Sequence[Job], made: Callable[[Job], Any]) -> Iterator[tuple[Job, np.ndarray]]:
        pool = ActorPool(cluster, dumps(TokenValueJob(data)), lambda text: print(text, file=sys.stderr), made)
        for job, found in pool.work(jobs):
            if isinstance(found, LostJob):
                warnings.warn(
                    f"Values at the tokens of {len(job[2]):,} windows are missing from the examples. {found.reason}",
                    RuntimeWarning,
                    stacklevel=2,
                )
                continue
            yield job, found

    def either(jobs: Sequence[Job], made: Callable[[Job], Any]) -> Iterator[tuple[Job, np.ndarray]]:
        pairs = sum(len(rows) for *_, rows in jobs)
        if pairs > MANY or (always and pairs):
            yield from answers(jobs, made)
            return
        from dreamy_lens.scan.token_values import TokenValues

        here = TokenValues(scanner)
        for job in jobs:
            yield job, here.values(*made(job))

    return either

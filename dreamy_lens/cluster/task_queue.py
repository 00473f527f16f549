"""Tasks of a scan, handed to workers by Ray Data, and a progress bar of them."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

from dreamy_lens.cluster.ray_cluster import Cluster
from dreamy_lens.cluster.scan_tasks import ScanTask, TaskLedger
from dreamy_lens.cluster.scan_worker import ScanActor
from dreamy_lens.scan.progress_bar import TokenBar
from dreamy_lens.scan.scan import Scan

POLL_SECONDS = 0.5
"""Seconds between two movements of the bar."""


@contextlib.contextmanager
def run_tasks(cluster: Cluster, data: bytes, tasks: list[ScanTask]) -> Iterator[Iterator[dict[str, Any]]]:
    """Have tasks scanned by actors, and give the receipts as they come.

    Ray Data replaces actors that die, without a bound: the task of a dead actor is given to the next one for ever. So
    workers count attempts, in the folder that they share; see :mod:`~dreamy_lens.cluster.scan_tasks`.

    Args:
        cluster: Ray cluster that runs the actors.
        data: Bytes of the :class:`~dreamy_lens.cluster.scan_worker.ScanWorker`.
        tasks: Tasks to scan, at least one.
    """
    ray_data = importlib.import_module("ray.data")
    context, log = ray_data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, log.level
    context.enable_progress_bars = False
    log.setLevel(logging.ERROR)
    # One at a time to each: a second one would wait at a busy worker while another has nothing to do.
    pool = ray_data.ActorPoolStrategy(size=min(cluster.workers, len(tasks)), max_tasks_in_flight_per_actor=1)
    rows = [{"task": json.dumps(task.to_list())} for task in tasks]
    receipts = ray_data.from_items(rows, override_num_blocks=len(tasks)).map_batches(
        ScanActor,
        batch_size=1,
        compute=pool,
        # As a reference: Ray warns of large arguments of actors that it may have to make again.
        fn_constructor_args=([cluster.ray.put(data)],),
        num_cpus=cluster.cpus,
        num_gpus=cluster.gpus or None,
    )
    rows = iter(receipts.iter_rows())
    try:
        yield (json.loads(row["receipt"]) for row in rows)
    finally:
        close = getattr(rows, "close", None)
        if close is not None:
            close()
        context.enable_progress_bars = before[0]
        log.setLevel(before[1])


class ProgressCounter:
    """Actor that collects the workers' reports on how far each task is."""

    def __init__(self) -> None:
        self._counts: dict[int, dict[str, int]] = {}

    def report(self, task: int, counts: dict[str, int]) -> None:
        """Take the counts of a task so far."""
        self._counts[task] = counts

    def counts(self) -> dict[int, dict[str, int]]:
        """Return the counts of all tasks so far."""
        return self._counts


class ClusterBar(TokenBar):
    """Progress bar of a scan on a cluster: as that of one process, with the number of tasks that are done.

    Args:
        scan: Scan that is shared out.
        ledger: Ledger of the scan's tasks.
        receipts: Receipts of tasks that are done already.
        shown: Whether to show the bar; None shows it in terminals and notebooks.
    """

    def __init__(self, scan: Scan, ledger: TaskLedger, receipts: dict[int, Any], shown: bool | None) -> None:
        self._counts = {number: receipt["counts"] for number, receipt in receipts.items() if "counts" in receipt}
        self._done, self._ledger = set(receipts), ledger
        self._known = _total(scan)
        self._tokens_before = self._sum("tokens")
        super().__init__(shown, sum(map(len, scan.banks)), self._part())

    def _sum(self, name: str) -> int:
        return sum(counts[name] for counts in self._counts.values())

    def _part(self) -> float:
        if self._known is None:
            return len(self._done) / len(self._ledger.tasks)
        return min(1.0, self._sum(self._known[0]) / max(1, self._known[1]))

    def _speed(self, tokens: int) -> str:
        if self._start is None and tokens <= self._tokens_before:
            return "workers get ready"
        return super()._speed(tokens)

    def take(self, receipt: dict[str, Any]) -> None:
        """Count one more task as done."""
        self._done.add(receipt["parcel"])
        if "counts" in receipt:
            self._counts[receipt["parcel"]] = receipt["counts"]
        self.update()

    def update(self) -> None:
        """Show where the scan stands."""
        if self.is_shown:
            parts = f"{len(self._done)} of {len(self._ledger.tasks)} parts"
            self.show(self._sum("tokens"), self._part(), parts)

    @contextlib.contextmanager
    def watching(self, cluster: Cluster, name: str) -> Iterator[None]:
        """Follow the reports that workers send to an actor of this name, until the block ends."""
        if not self.is_shown:
            yield
            return
        ray = cluster.ray
        counter = ray.remote(num_cpus=0)(ProgressCounter).options(name=name).remote()
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(POLL_SECONDS):
                with contextlib.suppress(Exception):  # the scan is worth more than the sight of it
                    reports = ray.get(counter.counts.remote(), timeout=10)
                    self._counts |= {task: counts for task, counts in reports.items() if task not in self._done}
                    self.update()

        watcher = threading.Thread(target=follow, name="dreamy-lens-scan-bar", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            ray.kill(counter)

    def __enter__(self) -> ClusterBar:
        return self


def _total(scan: Scan) -> tuple[str, int] | None:
    """Return what is counted, and how much of it the corpus has; None if that is not known."""
    if scan.config.tokens is not None:
        return "tokens", scan.config.tokens
    sizes = [scan.corpus.characters(shard) for shard in range(len(scan.corpus.shards))]
    known = [size for size in sizes if size is not None]
    return ("characters", sum(known)) if len(known) == len(sizes) else None

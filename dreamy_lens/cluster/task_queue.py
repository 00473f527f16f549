"""The queue that gives the tasks of a scan to workers, through Ray Data, and the progress bar of the scan."""

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
"""Seconds between two updates of the progress bar."""


@contextlib.contextmanager
def run_tasks(cluster: Cluster, data: bytes, tasks: list[ScanTask]) -> Iterator[Iterator[dict[str, Any]]]:
    """Run tasks on actors, and provide an iterator of their receipts in the order in which tasks end.

    Ray Data replaces dead actors without a limit, and gives the task of a dead actor to another one each time. So the
    workers themselves count attempts, in the folder that they share; see :mod:`~dreamy_lens.cluster.scan_tasks`.

    Args:
        cluster: Ray cluster that runs the actors.
        data: Bytes of the :class:`~dreamy_lens.cluster.scan_worker.ScanWorker`.
        tasks: Tasks to scan, at least one.
    """
    ray_data = importlib.import_module("ray.data")
    context, log = ray_data.DataContext.get_current(), logging.getLogger("ray.data")
    earlier_settings = context.enable_progress_bars, log.level
    context.enable_progress_bars = False
    log.setLevel(logging.ERROR)
    # One task at a time for each worker: a second task would wait at a busy worker while another worker is idle.
    pool = ray_data.ActorPoolStrategy(size=min(cluster.workers, len(tasks)), max_tasks_in_flight_per_actor=1)
    rows = [{"task": json.dumps(task.to_list())} for task in tasks]
    receipts = ray_data.from_items(rows, override_num_blocks=len(tasks)).map_batches(
        ScanActor,
        batch_size=1,
        compute=pool,
        # Passed as a reference, because Ray warns of large arguments of actors that it may have to restart.
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
        context.enable_progress_bars, level = earlier_settings
        log.setLevel(level)


class ProgressCounter:
    """Ray actor that collects the progress reports of workers."""

    def __init__(self) -> None:
        self._counts: dict[int, dict[str, int]] = {}

    def report(self, task: int, counts: dict[str, int]) -> None:
        """Replace the counts of a task by newer ones."""
        self._counts[task] = counts

    def counts(self) -> dict[int, dict[str, int]]:
        """Return the latest counts of all tasks, by the numbers of the tasks."""
        return self._counts


class ClusterBar(TokenBar):
    """Progress bar of a scan on a cluster, which also shows the number of tasks that are done.

    Args:
        scan: Scan whose tasks run on the cluster.
        ledger: Ledger of the scan's tasks.
        receipts: Receipts of the tasks that are already done.
        shown: Whether to show the bar; None shows it in terminals and notebooks.
    """

    def __init__(self, scan: Scan, ledger: TaskLedger, receipts: dict[int, Any], shown: bool | None) -> None:
        self._counts = {number: receipt["counts"] for number, receipt in receipts.items() if "counts" in receipt}
        self._done, self._ledger = set(receipts), ledger
        self._total = _total(scan)
        self._tokens_before = self._sum("tokens")
        super().__init__(shown, sum(map(len, scan.banks)), self._share_done())

    def _sum(self, name: str) -> int:
        return sum(counts[name] for counts in self._counts.values())

    def _share_done(self) -> float:
        """Return the share of the scan that is done, from 0 to 1."""
        if self._total is None:
            return len(self._done) / len(self._ledger.tasks)
        return min(1.0, self._sum(self._total[0]) / max(1, self._total[1]))

    def _speed(self, tokens: int) -> str:
        if self._start is None and tokens <= self._tokens_before:
            return "workers get ready"
        return super()._speed(tokens)

    def take(self, receipt: dict[str, Any]) -> None:
        """Count the task of a receipt as done."""
        self._done.add(receipt["parcel"])
        if "counts" in receipt:
            self._counts[receipt["parcel"]] = receipt["counts"]
        self.update()

    def update(self) -> None:
        """Show the current state of the scan."""
        if self.is_shown:
            parts = f"{len(self._done)} of {len(self._ledger.tasks)} parts"
            self.show(self._sum("tokens"), self._share_done(), parts)

    @contextlib.contextmanager
    def watching(self, cluster: Cluster, name: str) -> Iterator[None]:
        """Show the progress reports of workers while the `with` block runs.

        Args:
            cluster: Ray cluster that runs the workers.
            name: Name of the actor to which workers send reports.
        """
        if not self.is_shown:
            yield
            return
        ray = cluster.ray
        counter = ray.remote(num_cpus=0)(ProgressCounter).options(name=name).remote()
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(POLL_SECONDS):
                with contextlib.suppress(Exception):  # a failed update of the bar must not stop the scan
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
    """Return the unit of progress ("tokens" or "characters") and the scan's total in it; None if it is not known."""
    if scan.config.tokens is not None:
        return "tokens", scan.config.tokens
    sizes = [scan.corpus.characters(shard) for shard in range(len(scan.corpus.shards))]
    known_sizes = [size for size in sizes if size is not None]
    return ("characters", sum(known_sizes)) if len(known_sizes) == len(sizes) else None

"""Parcels handed to workers by Ray Data, and what is seen of it."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dreamy_lens.cluster.ray_cluster import Cluster
from dreamy_lens.cluster.scan_tasks import ScanTask, TaskLedger
from dreamy_lens.cluster.scan_worker import ScanActor

if TYPE_CHECKING:
    from dreamy_lens.scan.scan import Scan

POLL_SECONDS = 0.5
"""How often the bar is moved."""


@contextlib.contextmanager
def handed_out(cluster: Cluster, data: bytes, parcels: list[ScanTask]) -> Iterator[Iterator[dict[str, Any]]]:
    """The receipts of parcels, as they come: Ray Data hands them to actors, and replaces those that die.

    It has no bound on how often it does: what a dead actor was at is given to the next one for ever. So attempts are
    counted by the workers, in the folder that they share; see :mod:`~dreamy_lens.cluster.scan_tasks`.

    Args:
        cluster: where.
        data: of the workers.
        parcels: at least one.
    """
    of = importlib.import_module("ray.data")
    context, log = of.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, log.level
    context.enable_progress_bars = False
    log.setLevel(logging.ERROR)
    # One at a time to each: a second one would wait at a busy worker while another has nothing to do.
    pool = of.ActorPoolStrategy(size=min(cluster.workers, len(parcels)), max_tasks_in_flight_per_actor=1)
    given = of.from_items([{"parcel": json.dumps(one.to_list())} for one in parcels], override_num_blocks=len(parcels))
    made = given.map_batches(
        ScanActor,
        batch_size=1,
        compute=pool,
        # As a reference: Ray warns of large arguments of actors that it may have to make again.
        fn_constructor_args=([cluster.ray.put(data)],),
        num_cpus=cluster.cpus,
        num_gpus=cluster.gpus or None,
    )
    rows = iter(made.iter_rows())
    try:
        yield (json.loads(row["receipt"]) for row in rows)
    finally:
        close = getattr(rows, "close", None)
        if close is not None:
            close()
        context.enable_progress_bars = before[0]
        log.setLevel(before[1])


class ProgressCounter:
    """An actor that workers tell how far each parcel is."""

    def __init__(self) -> None:
        self._counts: dict[int, dict[str, int]] = {}

    def tell(self, parcel: int, counts: dict[str, int]) -> None:
        """Counts of a parcel, so far."""
        self._counts[parcel] = counts

    def told(self) -> dict[int, dict[str, int]]:
        """Of all parcels."""
        return self._counts


class ClusterBar:
    """Progress: the part of the corpus, tokens, tokens per second, parcels, time left.

    Args:
        scan: that is shared out.
        ledger: of its parcels.
        receipts: of those that are done.
        shown: None shows it in terminals and notebooks.
    """

    def __init__(self, scan: Scan, ledger: TaskLedger, receipts: dict[int, Any], shown: bool | None) -> None:
        from tqdm.auto import tqdm

        from dreamy_lens.scan.progress_bar import _FORMAT, _is_watched

        shown = _is_watched() if shown is None else shown
        self._counts = {n: r["counts"] for n, r in receipts.items() if "counts" in r}
        self._done, self._ledger = set(receipts), ledger
        self._known, self._features = _total(scan), sum(map(len, scan.banks))
        self._before, self._start = self._sum("tokens"), None
        self._bar = tqdm(
            total=1.0, initial=self._part(), desc="scanning", disable=not shown, bar_format=_FORMAT, dynamic_ncols=True
        )

    def _sum(self, name: str) -> int:
        return sum(counts[name] for counts in self._counts.values())

    def _part(self) -> float:
        if self._known is None:
            return len(self._done) / len(self._ledger.parcels)
        return min(1.0, self._sum(self._known[0]) / max(1, self._known[1]))

    def take(self, receipt: dict[str, Any]) -> None:
        """One more parcel."""
        self._done.add(receipt["parcel"])
        if "counts" in receipt:
            self._counts[receipt["parcel"]] = receipt["counts"]
        self.update()

    def update(self) -> None:
        """Show where the scan stands."""
        from dreamy_lens.scan.progress_bar import count

        if self._bar.disable:
            return
        self._bar.n = self._part()
        seconds, tokens = self._bar.format_dict["elapsed"], self._sum("tokens")
        if self._start is None:
            self._start = seconds if tokens > self._before else None
            self._before = tokens if tokens > self._before else self._before
            speed = "workers get ready" if self._start is None else ""
        else:
            speed = f"{count((tokens - self._before) / max(seconds - self._start, 1e-9))} tokens/s"
        parts = f"{len(self._done)} of {len(self._ledger.parcels)} parts"
        shown = [f"{count(tokens)} tokens", speed, f"{self._features:,} features", parts]
        self._bar.set_postfix_str(", ".join(filter(None, shown)))

    @contextlib.contextmanager
    def watching(self, cluster: Cluster, name: str) -> Iterator[None]:
        """Inside, the bar follows what workers tell an actor of this name."""
        if self._bar.disable:
            yield
            return
        ray = cluster.ray
        counter = ray.remote(num_cpus=0)(ProgressCounter).options(name=name).remote()
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(POLL_SECONDS):
                with contextlib.suppress(Exception):  # the scan is worth more than the sight of it
                    told = ray.get(counter.told.remote(), timeout=10)
                    self._counts |= {n: counts for n, counts in told.items() if n not in self._done}
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

    def __exit__(self, *error: object) -> None:
        self._bar.close()


def _total(scan: Scan) -> tuple[str, int] | None:
    """What is counted, and how much of it there is, as far as that is known."""
    if scan.settings.tokens is not None:
        return "tokens", scan.settings.tokens
    found = [scan.corpus.characters(shard) for shard in range(len(scan.corpus.shards))]
    known = [count for count in found if count is not None]
    return ("characters", sum(known)) if len(known) == len(found) else None

"""A scan on the workers of a Ray cluster, and what they found, put together: exactly what one process finds."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamy_lens.cluster import actor_pool, ray_cluster
from dreamy_lens.cluster.model_ref import ModelRef, dumps
from dreamy_lens.cluster.scan_tasks import FOLDER, ScanTask, TaskLedger, parcels_of
from dreamy_lens.cluster.scan_worker import DONE, FAILED, GIVEN_UP, ScanWorker, fetched
from dreamy_lens.cluster.shared_folder import SharedFolder
from dreamy_lens.cluster.task_queue import ClusterBar, handed_out
from dreamy_lens.cluster.token_values import spread
from dreamy_lens.errors import ClusterError, CorpusError, SettingsError
from dreamy_lens.scan import scan as one_scan
from dreamy_lens.scan.storage import HEADER

if TYPE_CHECKING:
    from dreamy_lens.scan.checkpoint import Checkpoint
    from dreamy_lens.scan.examples import Examples
    from dreamy_lens.scan.scan import Scan


@dataclasses.dataclass
class ClusterScan:
    """A scan that is shared out.

    Args:
        scan: of this process, whose model binds the features and describes what was found.
        model: as it is sent to workers.
        fluency_model: likewise, or None.
        address: of a cluster, or None; see :func:`~dreamy_lens.cluster.ray_cluster.cluster`.
        workers: how many; None is as many as there is room for.
        cpus_per_worker: cores of each.
        gpus_per_worker: GPUs of each.
    """

    scan: Scan
    model: ModelRef
    fluency_model: ModelRef | None = None
    address: str | None = None
    workers: int | None = None
    cpus_per_worker: float = 1
    gpus_per_worker: float = 0

    def run(self, out: Any = None, cache: bool = True, progress: bool | None = None) -> Examples:
        """Scan, or go on, or open what is there; see :func:`dreamy_lens.max_activating`."""
        scan, settings = self.scan, self.scan.settings
        if settings.tokens is not None and settings.seed is None:
            raise SettingsError(
                "The first tokens of a corpus (seed=None) are scanned in its order, by one process; leave out ray=, or "
                "give a seed to scan a random sample."
            )
        once = next((shard.name for shard in scan.corpus._shards if shard.once), None)
        if once is not None:
            raise CorpusError(
                f"{once} can be read only once, and workers have to read their parts of it each: save it as files."
            )
        scan.scanner()  # whether windows fit the model and results the memory is told before anything is started
        with contextlib.ExitStack() as stack:
            place = SharedFolder(out) if out is not None else None
            if place is None and cache and scan.is_reproducible:
                place = SharedFolder(scan.folder())
            keeps = place is not None
            if place is None:
                place = SharedFolder(stack.enter_context(tempfile.TemporaryDirectory(prefix="dreamy_lens.")))
            folder = self._results(place)
            if keeps and (finished := scan.opened(folder, cached=out is None)) is not None:
                if place.is_url and HEADER not in place.names(""):
                    place.put(folder, "")
                return finished
            ledger = TaskLedger.open(place, scan.identity)
            if ledger is not None:
                _forget_attempts(ledger)
            cluster = stack.enter_context(
                ray_cluster.cluster(
                    self.address,
                    workers=self.workers,
                    cpus_per_worker=self.cpus_per_worker,
                    gpus_per_worker=self.gpus_per_worker,
                )
            )
            if ledger is None:
                ledger = TaskLedger.new(place, scan.identity, self._parcels(cluster.workers))
            data = self._sent(ledger, cluster)
            whole = self._scan(cluster, ledger, data, progress)
            state = self._merged(ledger)
            scanner = scan.scanner()
            answers = spread(cluster, data, scanner, self.gpus_per_worker > 0)
            found = scan.examples(scanner, state, folder if keeps else None, whole, progress, answers)
            if place.is_url:
                place.put(folder, "")
            if keeps and whole:
                place.remove_folder(FOLDER)
            return found

    def _results(self, place: SharedFolder) -> Path:
        """The folder of the results on this machine: the place itself, or where what a URL has is copied to."""
        if not place.is_url:
            return Path(place.text)
        folder = self.scan.folder() if self.scan.is_reproducible else Path(tempfile.mkdtemp(prefix="dreamy_lens."))
        folder.mkdir(parents=True, exist_ok=True)
        names = [name for name in place.names("") if name != FOLDER]
        if HEADER in names and not (folder / HEADER).exists():
            for name in sorted(names, key=lambda name: name == HEADER):  # which makes the rest valid
                place.get_file(name, folder / name)
        return folder

    def _parcels(self, workers: int) -> list[ScanTask]:
        corpus = self.scan.corpus
        found = parcels_of(corpus, workers, self.scan.settings.tokens is not None)
        if not found:
            raise CorpusError(f"{corpus.name} has no text. Give a corpus with documents.")
        return found

    def _sent(self, ledger: TaskLedger, cluster: ray_cluster.Cluster) -> bytes:
        fluency = None if self.fluency_model is None else self.fluency_model.packed()
        worker = ScanWorker(
            self.scan.given,
            self.model.packed(),
            fluency,
            self.scan.corpus,
            self.scan.settings,
            dataclasses.replace(ledger, parcels=[]),
            device="cuda" if cluster.gpus else "cpu",
            threads=max(1, int(cluster.cpus)),
            counter=_counter(ledger),
            attempts=actor_pool.ATTEMPTS,
            save_seconds=one_scan.SAVE_SECONDS,
        )
        try:
            return dumps(worker)
        except Exception as error:
            raise SettingsError(
                f"The features or the corpus cannot be sent to workers, because of an object in one of them ({error}). "
                "Give sparse autoencoders and models by their folder or Hugging Face id, and a corpus by its files."
            ) from error

    def _scan(self, cluster: ray_cluster.Cluster, ledger: TaskLedger, data: bytes, shown: bool | None) -> bool:
        """Have all parcels scanned; whether that came to an end, and was not interrupted."""
        receipts = ledger.receipts()
        ledger.split(receipts)
        with ClusterBar(self.scan, ledger, receipts, shown) as bar:
            try:
                while todo := [parcel for parcel in ledger.parcels if parcel.number not in receipts]:
                    with bar.watching(cluster, _counter(ledger)), handed_out(cluster, data, todo) as rows:
                        for receipt in rows:
                            if receipt["status"] == FAILED:
                                raise pickle.loads(bytes.fromhex(receipt["error"]))
                            receipts[receipt["parcel"]] = receipt
                            bar.take(receipt)
                    ledger.split(receipts)
            except KeyboardInterrupt:
                receipts = ledger.receipts()  # of which not all may have come here
                if not receipts:
                    raise
                print(
                    f"Stopped after {len(receipts)} of {len(ledger.parcels)} parts; call again with the same arguments "
                    "to go on.",
                    file=sys.stderr,
                )
                return False
        if not any(receipt["status"] == DONE for receipt in receipts.values()):
            whys = "; ".join(sorted({receipt["why"] for receipt in receipts.values()})[:3])
            raise ClusterError(f"No part of {self.scan.corpus.name} could be scanned: {whys}.")
        return True

    def _merged(self, ledger: TaskLedger) -> Checkpoint:
        """What was found in all parcels, in the order of the corpus."""
        from dreamy_lens.scan.checkpoint import Checkpoint
        from dreamy_lens.scan.scan import _nothing

        scan = self.scan
        state, receipts = scan.scanner().empty(), ledger.receipts()
        for parcel in sorted(ledger.parcels, key=lambda one: (one.shard, one.block)):
            receipt = receipts.get(parcel.number)
            if receipt is None:
                continue
            if receipt["file"] is not None:
                with fetched(ledger.place, receipt["file"]) as file:
                    state.merge(Checkpoint.load(file, ledger.identity, scan.model.device))
            if receipt["status"] == GIVEN_UP:
                state.failed[scan.corpus.shards[receipt["at"][0]]] = receipt["why"]
        if not state.counts["windows"]:
            raise CorpusError(_nothing(state, scan.corpus, scan.settings))
        return state


def _counter(ledger: TaskLedger) -> str:
    """The name of the actor that workers tell how far they are."""
    return f"dreamy_lens {ledger.mark}"


def _forget_attempts(ledger: TaskLedger) -> None:
    """Those of an earlier call are over, however they ended."""
    for parcel in ledger.parcels:
        folder = f"{parcel.name}.attempts"
        for name in ledger.place.names(folder):
            ledger.place.remove(f"{folder}/{name}")

"""A scan on the workers of a Ray cluster, whose results are exactly those of one process."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any

from dreamy_lens.cluster import actor_pool
from dreamy_lens.cluster.model_ref import ModelRef, dumps
from dreamy_lens.cluster.ray_cluster import Cluster, RayConfig, connected
from dreamy_lens.cluster.scan_tasks import FOLDER, ScanTask, TaskLedger, plan_tasks
from dreamy_lens.cluster.scan_worker import DONE, FAILED, GIVEN_UP, ScanWorker, local_copy
from dreamy_lens.cluster.shared_folder import SharedFolder
from dreamy_lens.cluster.task_queue import ClusterBar, run_tasks
from dreamy_lens.cluster.value_jobs import value_job_runner
from dreamy_lens.errors import ClusterError, CorpusError, SettingsError
from dreamy_lens.scan import scan as scan_module
from dreamy_lens.scan.checkpoint import Checkpoint
from dreamy_lens.scan.examples import Examples
from dreamy_lens.scan.scan import Scan
from dreamy_lens.scan.storage import HEADER


@dataclasses.dataclass
class ClusterScan:
    """A scan that is shared out to the workers of a Ray cluster.

    Args:
        scan: Scan of this process, whose model binds the features and builds the examples.
        model: Model to send to workers.
        fluency_model: Fluency model to send to workers; None is `model`.
        ray: Cluster to use, and what its workers get.
    """

    scan: Scan
    model: ModelRef
    fluency_model: ModelRef | None
    ray: RayConfig

    def run(self, out: Any = None, cache: bool = True, progress: bool | None = None) -> Examples:
        """Scan, go on with an unfinished scan, or open a finished one; see :func:`dreamy_lens.max_activating`."""
        scan, config = self.scan, self.scan.config
        if config.tokens is not None and config.seed is None:
            raise SettingsError(
                "The first tokens of a corpus (seed=None) are scanned in its order, by one process; leave out ray=, or "
                "give a seed to scan a random sample."
            )
        if scan.corpus.single_pass_shards:
            name = scan.corpus.single_pass_shards[0]
            raise CorpusError(
                f"{name} can be read only once, and workers have to read their parts of it each: save it as files."
            )
        scan.scanner()  # raises before anything is started if windows do not fit the model, or results the memory
        with contextlib.ExitStack() as stack:
            place = SharedFolder(out) if out is not None else None
            if place is None and cache and scan.is_reproducible:
                place = SharedFolder(scan.folder())
            keeps = place is not None
            if place is None:
                place = SharedFolder(stack.enter_context(tempfile.TemporaryDirectory(prefix="dreamy_lens.")))
            folder = self._results(place)
            if keeps and (finished := scan.open_finished(folder, cached=out is None)) is not None:
                if place.is_url and HEADER not in place.names(""):
                    place.put(folder, "")
                return finished
            ledger = TaskLedger.open(place, scan.identity)
            if ledger is not None:
                _forget_attempts(ledger)
            cluster = stack.enter_context(connected(self.ray))
            if ledger is None:
                ledger = TaskLedger.new(place, scan.identity, self._plan(cluster.workers))
            data = self._worker_data(ledger, cluster)
            whole = self._scan(cluster, ledger, data, progress)
            state = self._merged(ledger)
            scanner = scan.scanner()
            run_jobs = value_job_runner(cluster, data, scanner, always=cluster.gpus > 0)
            examples = scan.build_examples(scanner, state, folder if keeps else None, whole, progress, run_jobs)
            if place.is_url:
                place.put(folder, "")
            if keeps and whole:
                place.remove_folder(FOLDER)
            return examples

    def _results(self, place: SharedFolder) -> Path:
        """Return the folder of the results on this machine: the place itself, or a copy of what a URL has."""
        if not place.is_url:
            return Path(place.text)
        folder = self.scan.folder() if self.scan.is_reproducible else Path(tempfile.mkdtemp(prefix="dreamy_lens."))
        folder.mkdir(parents=True, exist_ok=True)
        names = [name for name in place.names("") if name != FOLDER]
        if HEADER in names and not (folder / HEADER).exists():
            for name in sorted(names, key=lambda name: name == HEADER):  # which makes the rest valid
                place.get_file(name, folder / name)
        return folder

    def _plan(self, workers: int) -> list[ScanTask]:
        corpus = self.scan.corpus
        tasks = plan_tasks(corpus, workers, self.scan.config.tokens is not None)
        if not tasks:
            raise CorpusError(f"{corpus.name} has no text. Give a corpus with documents.")
        return tasks

    def _worker_data(self, ledger: TaskLedger, cluster: Cluster) -> bytes:
        """Return the bytes of the worker that is sent to the cluster."""
        fluency = None if self.fluency_model is None else self.fluency_model.packed()
        worker = ScanWorker(
            self.scan.features,
            self.model.packed(),
            fluency,
            self.scan.corpus,
            self.scan.config,
            dataclasses.replace(ledger, tasks=[]),
            device="cuda" if cluster.gpus else "cpu",
            threads=max(1, int(cluster.cpus)),
            counter=_counter_name(ledger),
            attempts=actor_pool.ATTEMPTS,
            save_seconds=scan_module.SAVE_SECONDS,
        )
        try:
            return dumps(worker)
        except Exception as error:
            raise SettingsError(
                f"The features or the corpus cannot be sent to workers, because of an object in one of them ({error}). "
                "Give sparse autoencoders and models by their folder or Hugging Face id, and a corpus by its files."
            ) from error

    def _scan(self, cluster: Cluster, ledger: TaskLedger, data: bytes, shown: bool | None) -> bool:
        """Have all tasks scanned, and return whether that came to its end without an interrupt."""
        receipts = ledger.receipts()
        ledger.split(receipts)
        with ClusterBar(self.scan, ledger, receipts, shown) as bar:
            try:
                while todo := [task for task in ledger.tasks if task.number not in receipts]:
                    with bar.watching(cluster, _counter_name(ledger)), run_tasks(cluster, data, todo) as rows:
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
                    f"Stopped after {len(receipts)} of {len(ledger.tasks)} parts; call again with the same arguments "
                    "to go on.",
                    file=sys.stderr,
                )
                return False
        if not any(receipt["status"] == DONE for receipt in receipts.values()):
            whys = "; ".join(sorted({receipt["why"] for receipt in receipts.values()})[:3])
            raise ClusterError(f"No part of {self.scan.corpus.name} could be scanned: {whys}.")
        return True

    def _merged(self, ledger: TaskLedger) -> Checkpoint:
        """Return the results of all tasks, merged in the order of the corpus."""
        scan = self.scan
        state, receipts = scan.scanner().empty(), ledger.receipts()
        for task in sorted(ledger.tasks, key=lambda task: (task.shard, task.block)):
            receipt = receipts.get(task.number)
            if receipt is None:
                continue
            if receipt["file"] is not None:
                with local_copy(ledger.place, receipt["file"]) as file:
                    state.merge(Checkpoint.load(file, ledger.identity, scan.model.device))
            if receipt["status"] == GIVEN_UP:
                state.failed[scan.corpus.shards[receipt["at"][0]]] = receipt["why"]
        if not state.counts["windows"]:
            raise scan.nothing_found(state)
        return state


def _counter_name(ledger: TaskLedger) -> str:
    """Return the name of the actor that workers report to."""
    return f"dreamy_lens {ledger.mark}"


def _forget_attempts(ledger: TaskLedger) -> None:
    """Remove the attempts of an earlier call, which are over, however they ended."""
    for task in ledger.tasks:
        folder = f"{task.name}.attempts"
        for name in ledger.place.names(folder):
            ledger.place.remove(f"{folder}/{name}")

"""Scans on the workers of a Ray cluster, whose results are equal to those of one process."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any

from dreamy_lens._folder_lock import FolderBusy, lock_folder
from dreamy_lens.cluster import actor_pool
from dreamy_lens.cluster.model_ref import ModelRef, dumps
from dreamy_lens.cluster.ray_cluster import Cluster, RayConfig, connected
from dreamy_lens.cluster.scan_tasks import FOLDER, ScanTask, TaskLedger, plan_tasks
from dreamy_lens.cluster.scan_worker import DONE, FAILED, GIVEN_UP, ScanWorker, local_copy
from dreamy_lens.cluster.shared_folder import SharedFolder
from dreamy_lens.cluster.task_queue import ClusterBar, run_tasks
from dreamy_lens.cluster.value_jobs import value_job_runner
from dreamy_lens.errors import ClusterError, CorpusError, ExamplesError, SettingsError
from dreamy_lens.scan import scan as scan_module
from dreamy_lens.scan.checkpoint import Checkpoint
from dreamy_lens.scan.examples import Examples
from dreamy_lens.scan.scan import Scan
from dreamy_lens.scan.scan_folder import ScanFolder
from dreamy_lens.scan.storage import HEADER


@dataclasses.dataclass
class ClusterScan:
    """A scan whose tasks run on the workers of a Ray cluster.

    Args:
        scan: Scan in this process, whose model binds the features and builds the examples.
        model: Reference to the model, for the workers.
        fluency_model: Reference to the model whose cross-entropy is measured, for the workers; None is `model`.
        ray: Ray cluster to use, and the resources of its workers.
    """

    scan: Scan
    model: ModelRef
    fluency_model: ModelRef | None
    ray: RayConfig

    def run(self, out: Any = None, cache: bool = True, progress: bool | None = None) -> Examples:
        """Scan the corpus, continue an unfinished scan, or open a finished one; see :func:`dreamy_lens.max_activating`.

        Args:
            out: Folder or URL of the results; None is a folder of the cache.
            cache: Whether results without `out` are kept in the cache.
            progress: Whether to show a progress bar; None shows one in terminals and notebooks.

        Raises:
            SettingsError: The settings do not allow several processes, or an object cannot be sent to workers.
            CorpusError: The corpus can be read only once, or has no text.
            ClusterError: The cluster cannot be used, or no task could be scanned.
        """
        scan, config = self.scan, self.scan.config
        if config.tokens is not None and config.seed is None:
            raise SettingsError(
                "The first tokens of a corpus (seed=None) are scanned in order, by one process; leave out ray=, or "
                "give a seed to scan a random sample."
            )
        if scan.corpus.single_pass_shards:
            name = scan.corpus.single_pass_shards[0]
            raise CorpusError(
                f"{name} can be read only once, but each of the workers has to read its part of it: save it as files."
            )
        scan.scanner()  # raises, before a cluster starts, if windows are too long for the model or memory is too small
        with contextlib.ExitStack() as stack:
            place = self._place(out, cache, stack)
            is_kept = place is not None
            if place is None:
                place = SharedFolder(stack.enter_context(tempfile.TemporaryDirectory(prefix="dreamy_lens.")))
            results = ScanFolder(self._results(place), cached=out is None)
            folder = Path(str(results.path))
            if is_kept and (finished := scan.open_finished(results)) is not None:
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
            is_complete = self._scan(cluster, ledger, data, progress)
            state = self._merged(ledger)
            scanner = scan.scanner()
            run_jobs = value_job_runner(cluster, data, scanner, always=cluster.gpus > 0)
            examples = scan.build_examples(
                scanner, state, results if is_kept else None, is_complete, progress, run_jobs
            )
            if examples.folder is None:
                return examples
            if place.is_url:
                place.put(folder, "")
            if is_complete:
                place.remove_folder(FOLDER)
            return examples

    def _place(self, out: Any, cache: bool, stack: contextlib.ExitStack) -> SharedFolder | None:
        """Return the folder that keeps the scan: `out`, or a folder of the cache; None if there is none.

        No other process may scan into it until the stack is closed.

        Raises:
            ExamplesError: `out` cannot be written, or another process is scanning into it.
        """
        if out is not None and "://" in str(out):
            return SharedFolder(out)
        folder = self.scan.scan_folder(out, cache)
        folder.check_writable()
        if folder.path is None:
            return None
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_folder(folder.path / FOLDER, wait=False))
        except FolderBusy:
            if out is None:
                return None  # the other process will fill the cache
            raise ExamplesError(
                f"Another process is scanning into {str(folder.path)!r}: wait until it ends, or name another folder."
            ) from None
        return SharedFolder(folder.path)

    def _results(self, place: SharedFolder) -> Path:
        """Return the folder of the results on this machine: the shared folder, or a copy of it if it is a URL."""
        if not place.is_url:
            return Path(place.text)
        folder = self.scan.folder() if self.scan.is_reproducible else Path(tempfile.mkdtemp(prefix="dreamy_lens."))
        folder.mkdir(parents=True, exist_ok=True)
        names = [name for name in place.names("") if name != FOLDER]
        if HEADER in names and not (folder / HEADER).exists():
            for name in sorted(names, key=lambda name: name == HEADER):  # the header last, since it marks completeness
                place.get_file(name, folder / name)
        return folder

    def _plan(self, workers: int) -> list[ScanTask]:
        corpus = self.scan.corpus
        tasks = plan_tasks(corpus, workers, self.scan.config.tokens is not None)
        if not tasks:
            raise CorpusError(f"{corpus.name} has no text. Give a corpus with documents.")
        return tasks

    def _worker_data(self, ledger: TaskLedger, cluster: Cluster) -> bytes:
        """Return the bytes of the `ScanWorker` that is sent to the cluster."""
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
        """Run all tasks on the cluster, and return whether they were finished without an interrupt."""
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
                receipts = ledger.receipts()  # workers may have written more receipts than have arrived here
                if not receipts:
                    raise
                print(
                    f"Stopped after {len(receipts)} of {len(ledger.tasks)} parts; call again with the same arguments "
                    "to go on.",
                    file=sys.stderr,
                )
                return False
        if not any(receipt["status"] == DONE for receipt in receipts.values()):
            reasons = "; ".join(sorted({receipt["why"] for receipt in receipts.values()})[:3])
            raise ClusterError(f"No part of {self.scan.corpus.name} could be scanned: {reasons}.")
        return True

    def _merged(self, ledger: TaskLedger) -> Checkpoint:
        """Return the results of all tasks, merged in the order of the corpus."""
        scan = self.scan
        state, receipts = scan.scanner().new_checkpoint(), ledger.receipts()
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
            raise scan.no_windows_error(state)
        return state


def _counter_name(ledger: TaskLedger) -> str:
    """Return the name of the actor to which workers report their progress."""
    return f"dreamy_lens {ledger.mark}"


def _forget_attempts(ledger: TaskLedger) -> None:
    """Remove the records of attempts that an earlier call has left; none of those attempts is running any more."""
    for task in ledger.tasks:
        folder = f"{task.name}.attempts"
        for name in ledger.place.names(folder):
            ledger.place.remove(f"{folder}/{name}")

"""The worker that runs the tasks of a scan, and the Ray Data actor that holds it."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import platform
import secrets
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dreamy_lens import __version__
from dreamy_lens.cluster.model_ref import ModelRef
from dreamy_lens.cluster.ray_cluster import import_ray
from dreamy_lens.cluster.scan_tasks import MANIFEST, ScanTask, TaskLedger
from dreamy_lens.cluster.shared_folder import SharedFolder
from dreamy_lens.errors import ClusterError, CorpusError, DreamyLensError, ExamplesError
from dreamy_lens.scan.checkpoint import Checkpoint
from dreamy_lens.scan.config import ScanConfig
from dreamy_lens.scan.scan import Scan

DONE, GIVEN_UP, FAILED = "done", "given up", "failed"
LOADING, SCANNING = "loading", "scanning"

REPORT_SECONDS = 1.0
"""Seconds between two progress reports of a worker."""


@dataclass
class ScanWorker:
    """Worker that runs tasks of a scan.

    Args:
        features: Features to scan for, without patterns.
        model: Model whose activations the features read.
        fluency_model: Model whose cross-entropy is measured; None is `model`.
        corpus: Corpus to scan.
        config: Settings of the scan.
        ledger: Ledger of the scan's tasks.
        device: Device of models that are loaded by name; None is the first GPU if there is one.
        threads: Number of torch threads; None leaves it unchanged.
        counter: Name of the actor that receives progress reports; None sends no reports.
        attempts: Number of attempts from one save of a task before the task is given up.
        save_seconds: Seconds between two saves of the results of a task.
        version: Version of dreamy_lens in the process that distributes the tasks.
    """

    features: Any
    model: ModelRef
    fluency_model: ModelRef | None
    corpus: Any
    config: ScanConfig
    ledger: TaskLedger
    device: str | None = None
    threads: int | None = None
    counter: str | None = None
    attempts: int = 3
    save_seconds: float = 20.0
    version: str = __version__
    _counter: Any = None

    def ready(self) -> None:
        """Load the model and bind the features.

        Raises:
            ClusterError: This machine has another version of dreamy_lens, or does not see the shared folder.
            DreamyLensError: The model cannot be loaded, or a feature does not fit it.
        """
        if self.version != __version__:
            raise ClusterError(
                f"The worker on {platform.node()!r} has dreamy_lens {__version__}, and the calling process has "
                f"{self.version}: install the same version on all machines."
            )
        manifest = self.ledger.place.read(MANIFEST)
        if manifest is None or manifest.get("mark") != self.ledger.mark:
            raise ClusterError(
                f"The worker on {platform.node()!r} does not see the scan's folder, {self.ledger.place}, as the "
                "calling process does: name a folder with out= that all machines share, or a URL such as s3://bucket/scan."
            )
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        fluency = None if self.fluency_model is None else self.fluency_model.loaded(self.device)
        self.scan = Scan(self.features, self.model.loaded(self.device), self.corpus, self.config, fluency)
        self.scanner = self.scan.scanner()

    def run(self, task: ScanTask) -> dict[str, Any]:
        """Scan a task, or the part of it that is not done, and write the results.

        Returns:
            The receipt of the task, which is done, given up, or failed; a failed task ends the scan.
        """
        place, name = self.ledger.place, task.name
        receipt = place.read(f"{name}.json")
        if receipt is not None:
            return receipt
        saves = int((place.read(f"{name}.part.json") or {"saves": 0})["saves"])
        attempts = [file for file in place.names(f"{name}.attempts") if file.startswith(f"{saves:06d}-")]
        if len(attempts) >= self.attempts:
            return self._give_up(task, list(place.read_all(f"{name}.attempts/{file}" for file in attempts).values()))
        self._begin(task, saves, len(attempts), LOADING)
        try:
            if not hasattr(self, "scanner"):
                self.ready()
            place.write(self._attempt, {"phase": SCANNING})
            return self._scan(task, saves, careful=bool(attempts))
        except DreamyLensError as error:
            place.remove(self._attempt)
            return failure_receipt(task, error)
        except Exception as error:
            place.write(self._attempt, {"phase": SCANNING, "why": f"{type(error).__name__}: {error}"})
            if "CUDA" in str(error) or "HIP" in str(error):
                os._exit(1)  # a process whose device has failed cannot go on; Ray replaces it by a new one
            return self.run(task)

    def _begin(self, task: ScanTask, saves: int, number: int, phase: str) -> None:
        """Record an attempt of this worker at a task.

        Args:
            task: Task that the worker begins or continues.
            saves: Number of times the results of the task have been saved.
            number: Number of earlier attempts from this save.
            phase: What the worker does now: `LOADING` or `SCANNING`.
        """
        self._attempt = f"{task.name}.attempts/{saves:06d}-{number}-{secrets.token_hex(4)}.json"
        self.ledger.place.write(self._attempt, {"phase": phase})

    def _scan(self, task: ScanTask, saves: int, careful: bool = False) -> dict[str, Any]:
        """Scan the part of a task that is not done, and return the receipt.

        Args:
            task: Task to scan.
            saves: Number of times the results of the task have been saved.
            careful: Whether an earlier attempt failed; if so, results are saved more often.
        """
        checkpoint = self._saved(task)
        if checkpoint is None:
            checkpoint = self.scanner.new_checkpoint()
            checkpoint.shard, checkpoint.block = task.shard, task.block
        saved_at, reported_at, save_cost, pause = time.monotonic(), 0.0, 0.0, 0.0 if careful else self.save_seconds
        first_shard = checkpoint.shard

        def save_part() -> None:
            nonlocal saved_at, saves, save_cost
            began_at = time.monotonic()
            saves += 1
            save_checkpoint(self.ledger.place, checkpoint, f"{task.name}.part", self.ledger.identity)
            self.ledger.place.write(f"{task.name}.part.json", {"saves": saves})
            earlier_attempt = self._attempt
            self._begin(task, saves, 0, SCANNING)
            self.ledger.place.remove(earlier_attempt)
            saved_at = time.monotonic()
            save_cost = saved_at - began_at

        def after_block(checkpoint: Any, block: Any) -> None:
            nonlocal reported_at
            now = time.monotonic()
            if now - reported_at > REPORT_SECONDS:
                self._report(task, checkpoint)
                reported_at = now
            if now - saved_at >= max(pause, 20 * save_cost - 1.0):  # a checkpoint of gigabytes is saved less often
                save_part()

        for shard in range(first_shard, task.last + 1):
            if careful and shard > first_shard:
                save_part()
            # A single task may have no readable text although the corpus has, so this is not an error of the scan.
            try:
                self.scanner.run(checkpoint, [shard], task.end if shard == task.last else None, after_block)
            except CorpusError:
                if not checkpoint.failed:
                    raise
        self._report(task, checkpoint)
        save_checkpoint(self.ledger.place, checkpoint, f"{task.name}.safetensors", self.ledger.identity)
        receipt = {"parcel": task.number, "status": DONE, "file": f"{task.name}.safetensors"}
        return self._close(task, {**receipt, "counts": checkpoint.counts, "seconds": checkpoint.seconds})

    def _give_up(self, task: ScanTask, attempts: list[dict[str, Any]]) -> dict[str, Any]:
        """Give up a task after too many attempts, keep its results so far, and return the receipt.

        Args:
            task: Task to give up.
            attempts: Records of the attempts from the last save.
        """
        reasons = [attempt["why"] for attempt in attempts if "why" in attempt]
        if not reasons and attempts and all(attempt.get("phase") == LOADING for attempt in attempts):
            return failure_receipt(
                task,
                ClusterError(
                    f"{self.attempts} workers died while they loaded the model. They have often run out of memory: "
                    "ask for fewer workers with workers=, or for a smaller dtype=. Ray's logs are in "
                    "/tmp/ray/session_latest/logs on their machines."
                ),
            )
        checkpoint = self._saved(task)
        receipt: dict[str, Any] = {"parcel": task.number, "status": GIVEN_UP, "file": None}
        shard, block = task.shard, task.block
        if checkpoint is not None:
            shard, block = checkpoint.shard, checkpoint.block
            # A separate file, because a late worker of this task may still write to the other ones.
            save_checkpoint(self.ledger.place, checkpoint, f"{task.name}.until", self.ledger.identity)
            receipt |= {"file": f"{task.name}.until", "counts": checkpoint.counts}
        outcome = f"{self.attempts} workers died"
        if reasons:
            outcome = f"the last of {self.attempts} attempts ended with {reasons[-1]}"
        return self._close(task, {**receipt, "at": [shard, block], "why": f"from block {block} on {outcome}"})

    def _close(self, task: ScanTask, receipt: dict[str, Any]) -> dict[str, Any]:
        """Write the receipt of a task, unless a worker that seemed dead has already written one; return the receipt."""
        place, name = self.ledger.place, f"{task.name}.json"
        earlier = place.read(name)
        if earlier is not None:
            return earlier
        place.write(name, {**receipt, "worker": f"{platform.node()}:{os.getpid()}"})
        for file in (f"{task.name}.part", f"{task.name}.part.json"):
            place.remove(file)
        return receipt

    def _saved(self, task: ScanTask) -> Checkpoint | None:
        """Return the results of an unfinished task at its last save, or None if there was no save."""
        if self.ledger.place.read(f"{task.name}.part.json") is None:
            return None
        device = self.scan.model.device if hasattr(self, "scan") else "cpu"
        try:
            with local_copy(self.ledger.place, f"{task.name}.part") as file:
                return Checkpoint.load(file, self.ledger.identity, device)
        except (ExamplesError, FileNotFoundError):  # the save was interrupted
            return None

    def _report(self, task: ScanTask, checkpoint: Any) -> None:
        """Send the counts of a task to the progress counter, if there is one."""
        if self.counter is None:
            return
        with contextlib.suppress(Exception):  # a failed progress report must not stop the scan
            if self._counter is None:
                self._counter = import_ray().get_actor(self.counter)
            self._counter.report.remote(task.number, checkpoint.counts)


def failure_receipt(task: ScanTask, error: DreamyLensError) -> dict[str, Any]:
    """Return a receipt that ends the scan with an error; such a receipt is not written to the folder."""
    return {"parcel": task.number, "status": FAILED, "error": pickle.dumps(error).hex()}


def save_checkpoint(place: SharedFolder, checkpoint: Checkpoint, name: str, identity: dict[str, Any]) -> None:
    """Write a checkpoint to a shared folder.

    Args:
        place: Shared folder of the scan.
        checkpoint: Checkpoint to write.
        name: Path of the file in the folder.
        identity: Identity of the scan.
    """
    if not place.is_url:
        checkpoint.save(place.local(name), identity)
        return
    with tempfile.TemporaryDirectory(prefix="dreamy_lens.") as folder:
        place.put_file(checkpoint.save(Path(folder) / "state", identity), name)


@contextlib.contextmanager
def local_copy(place: SharedFolder, name: str) -> Iterator[Path]:
    """Provide the local path of a file in a shared folder; if the folder is a URL, the path of a temporary copy."""
    if not place.is_url:
        yield place.local(name)
        return
    with tempfile.TemporaryDirectory(prefix="dreamy_lens.") as folder:
        yield place.get_file(name, Path(folder) / "state")


class ScanActor:
    """Ray Data actor that holds a worker: rows with a task go in, rows with a receipt come out.

    Args:
        data: Ray reference to the bytes of a :class:`ScanWorker`, as the only item of a list.
    """

    def __init__(self, data: list[Any]) -> None:
        self._data, self._worker = data, None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Scan a batch of tasks, as JSON texts, and return their receipts, as JSON texts."""
        # The worker is not unpacked in __init__: if the process died there, Ray would restart it without end, and no
        # attempt would be counted.
        if self._worker is None:
            self._worker = pickle.loads(import_ray().get(self._data[0]))
        rows = [json.loads(str(row)) for row in batch["task"]]
        return {"receipt": [json.dumps(self._worker.run(ScanTask(*row))) for row in rows]}

"""The worker that scans tasks, and the actor that Ray Data makes of it."""

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
"""Seconds between two reports of a worker on how far it is."""


@dataclass
class ScanWorker:
    """Everything that a worker needs to scan tasks.

    Args:
        features: Features to scan for, without patterns.
        model: Model whose activations the features read.
        fluency_model: Model whose cross-entropy is measured; None is `model`.
        corpus: Corpus to scan.
        config: Settings of the scan.
        ledger: Ledger of the scan's tasks.
        device: Device of models that are loaded by name.
        threads: Threads of torch; None leaves them as they are.
        counter: Name of an actor that gets reports on how far each task is; None sends no reports.
        attempts: How often a task is begun at one place before it is given up.
        save_seconds: Seconds between two saves of the results of a task.
        version: Version of dreamy_lens in the process that shares out the scan.
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
            DreamyLensError: A feature does not fit the model, or this machine is not set up as the others.
        """
        if self.version != __version__:
            raise ClusterError(
                f"The worker on {platform.node()!r} has dreamy_lens {__version__}, and this process {self.version}: "
                "install the same version on all machines."
            )
        manifest = self.ledger.place.read(MANIFEST)
        if manifest is None or manifest.get("mark") != self.ledger.mark:
            raise ClusterError(
                f"The worker on {platform.node()!r} does not see the scan's folder, {self.ledger.place}, as others do: "
                "name a folder with out= that all machines share, or a URL such as s3://bucket/scan."
            )
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        fluency = None if self.fluency_model is None else self.fluency_model.loaded(self.device)
        self.scan = Scan(self.features, self.model.loaded(self.device), self.corpus, self.config, fluency)
        self.scanner = self.scan.scanner()

    def run(self, task: ScanTask) -> dict[str, Any]:
        """Scan a task, or the rest of it, and write the results.

        Returns:
            The receipt of the task: done, given up, or failed if the whole scan cannot go on.
        """
        place, name = self.ledger.place, task.name
        receipt = place.read(f"{name}.json")
        if receipt is not None:
            return receipt
        saves = int((place.read(f"{name}.part.json") or {"saves": 0})["saves"])
        begun = [file for file in place.names(f"{name}.attempts") if file.startswith(f"{saves:06d}-")]
        if len(begun) >= self.attempts:
            return self._give_up(task, list(place.read_all(f"{name}.attempts/{file}" for file in begun).values()))
        self._begin(task, saves, len(begun), LOADING)
        try:
            if not hasattr(self, "scanner"):
                self.ready()
            place.write(self._attempt, {"phase": SCANNING})
            return self._scan(task, saves, careful=bool(begun))
        except DreamyLensError as error:
            place.remove(self._attempt)
            return failure_receipt(task, error)
        except Exception as error:
            place.write(self._attempt, {"phase": SCANNING, "why": f"{type(error).__name__}: {error}"})
            if "CUDA" in str(error) or "HIP" in str(error):
                os._exit(1)  # nothing works any more in a process whose device has failed; a new one begins anew
            return self.run(task)

    def _begin(self, task: ScanTask, saves: int, number: int, phase: str) -> None:
        """Write that this worker goes on with a task that was saved so many times."""
        self._attempt = f"{task.name}.attempts/{saves:06d}-{number}-{secrets.token_hex(4)}.json"
        self.ledger.place.write(self._attempt, {"phase": phase})

    def _scan(self, task: ScanTask, saves: int, careful: bool = False) -> dict[str, Any]:
        """Scan what is left of a task.

        Args:
            task: Task to scan.
            saves: How often the results of the task have been saved.
            careful: Whether a worker has died at this task: then results are saved after every few passes.
        """
        checkpoint = self._saved(task)
        if checkpoint is None:
            checkpoint = self.scanner.empty()
            checkpoint.shard, checkpoint.block = task.shard, task.block
        saved, reported, cost, pause = time.monotonic(), 0.0, 0.0, 0.0 if careful else self.save_seconds
        first = checkpoint.shard

        def save_part() -> None:
            nonlocal saved, saves, cost
            began = time.monotonic()
            saves += 1
            save(self.ledger.place, checkpoint, f"{task.name}.part", self.ledger.identity)
            self.ledger.place.write(f"{task.name}.part.json", {"saves": saves})
            before = self._attempt
            self._begin(task, saves, 0, SCANNING)
            self.ledger.place.remove(before)
            saved = time.monotonic()
            cost = saved - began

        def after(checkpoint: Any, block: Any) -> None:
            nonlocal reported
            now = time.monotonic()
            if now - reported > REPORT_SECONDS:
                self._report(task, checkpoint)
                reported = now
            if now - saved >= max(pause, 20 * cost - 1.0):  # a state of gigabytes is saved less often
                save_part()

        for shard in range(first, task.last + 1):
            if careful and shard > first:
                save_part()
            # A task need not have what another one has, so that in one nothing may be readable.
            try:
                self.scanner.run(checkpoint, [shard], task.end if shard == task.last else None, after)
            except CorpusError:
                if not checkpoint.failed:
                    raise
        self._report(task, checkpoint)
        save(self.ledger.place, checkpoint, f"{task.name}.safetensors", self.ledger.identity)
        receipt = {"parcel": task.number, "status": DONE, "file": f"{task.name}.safetensors"}
        return self._close(task, {**receipt, "counts": checkpoint.counts, "seconds": checkpoint.seconds})

    def _give_up(self, task: ScanTask, attempts: list[dict[str, Any]]) -> dict[str, Any]:
        """Give up a task that was begun too often, and keep its results until then."""
        whys = [attempt["why"] for attempt in attempts if "why" in attempt]
        if not whys and attempts and all(attempt.get("phase") == LOADING for attempt in attempts):
            return failure_receipt(
                task,
                ClusterError(
                    f"{self.attempts} workers died while they loaded the model. They have often run out of memory: "
                    "ask for fewer of them with workers=, or for a smaller dtype=. Ray's logs are in "
                    "/tmp/ray/session_latest/logs on their machines."
                ),
            )
        checkpoint = self._saved(task)
        receipt: dict[str, Any] = {"parcel": task.number, "status": GIVEN_UP, "file": None}
        shard, block = task.shard, task.block
        if checkpoint is not None:
            shard, block = checkpoint.shard, checkpoint.block
            # A file of its own, which no belated worker writes over.
            save(self.ledger.place, checkpoint, f"{task.name}.until", self.ledger.identity)
            receipt |= {"file": f"{task.name}.until", "counts": checkpoint.counts}
        ended = f"{self.attempts} workers died"
        if whys:
            ended = f"the last of {self.attempts} attempts ended with {whys[-1]}"
        return self._close(task, {**receipt, "at": [shard, block], "why": f"from block {block} on {ended}"})

    def _close(self, task: ScanTask, receipt: dict[str, Any]) -> dict[str, Any]:
        """Write the receipt of a task, unless a worker that was thought dead has written one; return what is there."""
        place, name = self.ledger.place, f"{task.name}.json"
        earlier = place.read(name)
        if earlier is not None:
            return earlier
        place.write(name, {**receipt, "worker": f"{platform.node()}:{os.getpid()}"})
        for file in (f"{task.name}.part", f"{task.name}.part.json"):
            place.remove(file)
        return receipt

    def _saved(self, task: ScanTask) -> Checkpoint | None:
        """Return the results of a task that were saved on the way, or None."""
        if self.ledger.place.read(f"{task.name}.part.json") is None:
            return None
        device = self.scan.model.device if hasattr(self, "scan") else "cpu"
        try:
            with local_copy(self.ledger.place, f"{task.name}.part") as file:
                return Checkpoint.load(file, self.ledger.identity, device)
        except (ExamplesError, FileNotFoundError):  # of a save that was cut off
            return None

    def _report(self, task: ScanTask, checkpoint: Any) -> None:
        if self.counter is None:
            return
        with contextlib.suppress(Exception):  # the scan is worth more than the sight of it
            if self._counter is None:
                self._counter = import_ray().get_actor(self.counter)
            self._counter.report.remote(task.number, checkpoint.counts)


def failure_receipt(task: ScanTask, error: DreamyLensError) -> dict[str, Any]:
    """Return a receipt that ends the whole scan; it is not kept."""
    return {"parcel": task.number, "status": FAILED, "error": pickle.dumps(error).hex()}


def save(place: SharedFolder, checkpoint: Checkpoint, name: str, identity: dict[str, Any]) -> None:
    """Write results under a name in a shared folder."""
    if not place.is_url:
        checkpoint.save(place.local(name), identity)
        return
    with tempfile.TemporaryDirectory(prefix="dreamy_lens.") as folder:
        place.put_file(checkpoint.save(Path(folder) / "state", identity), name)


@contextlib.contextmanager
def local_copy(place: SharedFolder, name: str) -> Iterator[Path]:
    """Give the path on this machine of a file in a shared folder; a copy of the file if the folder is a URL."""
    if not place.is_url:
        yield place.local(name)
        return
    with tempfile.TemporaryDirectory(prefix="dreamy_lens.") as folder:
        yield place.get_file(name, Path(folder) / "state")


class ScanActor:
    """The class that Ray Data makes actors of: rows with a task go in, rows with a receipt come out.

    Args:
        data: Reference to the bytes of a :class:`ScanWorker`, in a list of one.
    """

    def __init__(self, data: list[Any]) -> None:
        self._data, self._worker = data, None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Scan a batch of tasks, as JSON texts, and return their receipts, as JSON texts."""
        # Not when the actor is made: Ray would make it again and again if its process died there, and count nothing.
        if self._worker is None:
            self._worker = pickle.loads(import_ray().get(self._data[0]))
        rows = [json.loads(str(row)) for row in batch["task"]]
        return {"receipt": [json.dumps(self._worker.run(ScanTask(*row))) for row in rows]}

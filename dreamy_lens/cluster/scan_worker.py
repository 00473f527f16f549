"""Scans parcels: what the actors do that Ray Data hands them to."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import platform
import secrets
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamy_lens import __version__
from dreamy_lens.cluster.model_ref import ModelRef
from dreamy_lens.cluster.scan_tasks import MANIFEST, ScanTask, TaskLedger
from dreamy_lens.cluster.shared_folder import SharedFolder
from dreamy_lens.errors import ClusterError, CorpusError, DreamyLensError, ExamplesError

DONE, GIVEN_UP, FAILED = "done", "given up", "failed"
LOADING, SCANNING = "loading", "scanning"

TELL_SECONDS = 1.0
"""How often a worker says how far it is."""


@dataclass
class ScanWorker:
    """Everything that is needed to scan parcels, as it is sent to a worker.

    Args:
        features: as for `max_activating`, without patterns.
        model: as it is sent.
        fluency_model: likewise, or None.
        corpus: of texts.
        settings: of the scan.
        ledger: of its parcels.
        device: of models that are loaded by name.
        threads: of torch.
        counter: the name of an actor that is told how far each parcel is; None tells nobody.
        attempts: how often a parcel is begun at one place before it is given up.
        save_seconds: how often what was found of a parcel is saved on the way.
        version: of dreamy_lens in the process that asks.
    """

    features: Any
    model: ModelRef
    fluency_model: ModelRef | None
    corpus: Any
    settings: Any
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
            DreamyLensError: what is wrong with them, or with this machine.
        """
        import torch

        from dreamy_lens.scan.scan import Scan

        if self.version != __version__:
            raise ClusterError(
                f"The worker on {platform.node()!r} has dreamy_lens {__version__}, and this process {self.version}: "
                "install the same version on all machines."
            )
        found = self.ledger.place.read(MANIFEST)
        if found is None or found.get("mark") != self.ledger.mark:
            raise ClusterError(
                f"The worker on {platform.node()!r} does not see the scan's folder, {self.ledger.place}, as others do: "
                "name a folder with out= that all machines share, or a URL such as s3://bucket/scan."
            )
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        fluency = None if self.fluency_model is None else self.fluency_model.loaded(self.device)
        self.scan = Scan(self.features, self.model.loaded(self.device), self.corpus, self.settings, fluency)
        self.scanner = self.scan.scanner()

    def run(self, parcel: ScanTask) -> dict[str, Any]:
        """Scan a parcel, or the rest of it, and write what was found.

        Returns:
            Its receipt: done, given up, or failed if the whole scan cannot go on.
        """
        place, name = self.ledger.place, parcel.name
        receipt = place.read(f"{name}.json")
        if receipt is not None:
            return receipt
        saves = int((place.read(f"{name}.part.json") or {"saves": 0})["saves"])
        begun = [one for one in place.names(f"{name}.attempts") if one.startswith(f"{saves:06d}-")]
        if len(begun) >= self.attempts:
            return self._stopped(parcel, list(place.read_all(f"{name}.attempts/{one}" for one in begun).values()))
        self._begin(parcel, saves, len(begun), LOADING)
        try:
            if not hasattr(self, "scanner"):
                self.ready()
            place.write(self._attempt, {"phase": SCANNING})
            return self._scanned(parcel, saves, careful=bool(begun))
        except DreamyLensError as error:
            place.remove(self._attempt)
            return failed(parcel, error)
        except Exception as error:
            place.write(self._attempt, {"phase": SCANNING, "why": f"{type(error).__name__}: {error}"})
            if "CUDA" in str(error) or "HIP" in str(error):
                os._exit(1)  # nothing works any more in a process whose device has failed; another one begins anew
            return self.run(parcel)

    def _begin(self, parcel: ScanTask, saves: int, number: int, phase: str) -> None:
        """Leave word that this worker goes on with a parcel from what was saved so many times."""
        self._attempt = f"{parcel.name}.attempts/{saves:06d}-{number}-{secrets.token_hex(4)}.json"
        self.ledger.place.write(self._attempt, {"phase": phase})

    def _scanned(self, parcel: ScanTask, saves: int, careful: bool = False) -> dict[str, Any]:
        """Scan what is left of a parcel.

        Args:
            parcel: it.
            saves: how often what was found in it has been saved.
            careful: whether somebody has died of it: then everything that can be scanned is saved as soon as it is.
        """
        progress = self._found(parcel)
        if progress is None:
            progress = self.scanner.empty()
            progress.shard, progress.block = parcel.shard, parcel.block
        saved, told, cost, pause = time.monotonic(), 0.0, 0.0, 0.0 if careful else self.save_seconds
        first = progress.shard

        def save_part() -> None:
            nonlocal saved, saves, cost
            began = time.monotonic()
            saves += 1
            save(self.ledger.place, progress, f"{parcel.name}.part", self.ledger.identity)
            self.ledger.place.write(f"{parcel.name}.part.json", {"saves": saves})
            before = self._attempt
            self._begin(parcel, saves, 0, SCANNING)
            self.ledger.place.remove(before)
            saved = time.monotonic()
            cost = saved - began

        def after(progress: Any, block: Any) -> None:
            nonlocal told
            now = time.monotonic()
            if now - told > TELL_SECONDS:
                self._tell(parcel, progress)
                told = now
            if now - saved >= max(pause, 20 * cost - 1.0):  # a state of gigabytes is saved less often
                save_part()

        for shard in range(first, parcel.last + 1):
            if careful and shard > first:
                save_part()
            # A parcel need not have what another one has, so that in one nothing may be readable.
            try:
                self.scanner.run(progress, [shard], parcel.end if shard == parcel.last else None, after)
            except CorpusError:
                if not progress.failed:
                    raise
        self._tell(parcel, progress)
        save(self.ledger.place, progress, f"{parcel.name}.safetensors", self.ledger.identity)
        receipt = {"parcel": parcel.number, "status": DONE, "file": f"{parcel.name}.safetensors"}
        return self._closed(parcel, {**receipt, "counts": progress.counts, "seconds": progress.seconds})

    def _stopped(self, parcel: ScanTask, attempts: list[dict[str, Any]]) -> dict[str, Any]:
        """What becomes of a parcel that was begun too often: what was found in it until then is kept."""
        whys = [one["why"] for one in attempts if "why" in one]
        if not whys and attempts and all(one.get("phase") == LOADING for one in attempts):
            return failed(
                parcel,
                ClusterError(
                    f"{self.attempts} workers died while they loaded the model. They have often run out of memory: "
                    "ask for fewer of them with workers=, or for a smaller dtype=. Ray's logs are in "
                    "/tmp/ray/session_latest/logs on their machines."
                ),
            )
        found = self._found(parcel)
        receipt: dict[str, Any] = {"parcel": parcel.number, "status": GIVEN_UP, "file": None}
        shard, block = parcel.shard, parcel.block
        if found is not None:
            shard, block = found.shard, found.block
            # A file of its own, which no belated worker writes over.
            save(self.ledger.place, found, f"{parcel.name}.until", self.ledger.identity)
            receipt |= {"file": f"{parcel.name}.until", "counts": found.counts}
        ended = f"{self.attempts} workers died"
        if whys:
            ended = f"the last of {self.attempts} attempts ended with {whys[-1]}"
        return self._closed(parcel, {**receipt, "at": [shard, block], "why": f"from block {block} on {ended}"})

    def _closed(self, parcel: ScanTask, receipt: dict[str, Any]) -> dict[str, Any]:
        """Write the receipt, unless somebody who was thought dead has."""
        place, name = self.ledger.place, f"{parcel.name}.json"
        found = place.read(name)
        if found is not None:
            return found
        place.write(name, {**receipt, "worker": f"{platform.node()}:{os.getpid()}"})
        for one in (f"{parcel.name}.part", f"{parcel.name}.part.json"):
            place.remove(one)
        return receipt

    # What was found so far.

    def _found(self, parcel: ScanTask) -> Any:
        """What was saved of a parcel on the way, or None."""
        from dreamy_lens.scan.checkpoint import Checkpoint

        if self.ledger.place.read(f"{parcel.name}.part.json") is None:
            return None
        device = self.scan.model.device if hasattr(self, "scan") else "cpu"
        try:
            with fetched(self.ledger.place, f"{parcel.name}.part") as file:
                return Checkpoint.load(file, self.ledger.identity, device)
        except (ExamplesError, FileNotFoundError):  # of a save that was cut off
            return None

    def _tell(self, parcel: ScanTask, progress: Any) -> None:
        if self.counter is None:
            return
        from dreamy_lens.cluster.ray_cluster import import_ray

        with contextlib.suppress(Exception):  # the scan is worth more than the sight of it
            if self._counter is None:
                self._counter = import_ray().get_actor(self.counter)
            self._counter.tell.remote(parcel.number, progress.counts)


def failed(parcel: ScanTask, error: DreamyLensError) -> dict[str, Any]:
    """A receipt that ends the whole scan; it is not kept."""
    return {"parcel": parcel.number, "status": FAILED, "error": pickle.dumps(error).hex()}


def save(place: SharedFolder, progress: Any, name: str, identity: dict[str, Any]) -> None:
    """Write what was found under a name in a place."""
    if not place.is_url:
        progress.save(place.local(name), identity)
        return
    with tempfile.TemporaryDirectory(prefix="dreamy_lens.") as folder:
        place.put_file(progress.save(Path(folder) / "state", identity), name)


class fetched:
    """A file of a place by a path on this machine, for a while."""

    def __init__(self, place: SharedFolder, name: str) -> None:
        self.place, self.name = place, name

    def __enter__(self) -> Path:
        if not self.place.is_url:
            return self.place.local(self.name)
        self._folder = tempfile.TemporaryDirectory(prefix="dreamy_lens.")
        return self.place.get_file(self.name, Path(self._folder.name) / "state")

    def __exit__(self, *error: Any) -> None:
        if self.place.is_url:
            self._folder.cleanup()


class ScanActor:
    """The class that Ray Data makes actors of: rows with a parcel go in, rows with a receipt come out.

    Args:
        data: of a :class:`ScanWorker`, as a reference to bytes, in a list of one.
    """

    def __init__(self, data: list[Any]) -> None:
        self._data, self._worker = data, None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Receipts, as JSON texts, of parcels likewise."""
        # Not when the actor is made: Ray would make it again and again if its process died there, and count nothing.
        if self._worker is None:
            from dreamy_lens.cluster.ray_cluster import import_ray

            self._worker = pickle.loads(import_ray().get(self._data[0]))
        rows = [json.loads(str(row)) for row in batch["parcel"]]
        return {"receipt": [json.dumps(self._worker.run(ScanTask(*row))) for row in rows]}

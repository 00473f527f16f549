"""The tasks of a scan that workers share, and the folder that says which of them are done.

Under `parcels/` in the folder of a scan:

* `scan.json`: the manifest: the scan's identity, and every task.
* `0007.part`: results of task 7 so far, replaced now and then, so that a worker that dies costs a minute;
  `0007.part.json` says how often.
* `0007.safetensors`: all results of task 7; `0007.until`: its results until it was given up.
* `0007.json`: the receipt, written last: the task is done, or given up.
* `0007.attempts/<saves>-<name>`: one file for each time the task was begun after so many saves. After three at one
  place, none of which got further, the task is given up.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dreamy_lens.cluster.shared_folder import SharedFolder
from dreamy_lens.errors import DreamyLensError, ExamplesError
from dreamy_lens.scan.checkpoint import check_same
from dreamy_lens.scan.scan import PARTS

FOLDER = PARTS
MANIFEST = f"{FOLDER}/scan.json"
FORMAT = "dreamy_lens scan in parcels"
VERSION = 1

LEAST = 1 << 22
"""Fewest characters of a task: some 80,000 windows."""

EACH = 4
"""Tasks for each worker: the others wait for the last one for a quarter of its share at most."""


@dataclass(frozen=True)
class ScanTask:
    """Consecutive blocks of a corpus to scan.

    Attributes:
        number: Number of the task.
        shard: Shard of the first block.
        block: First block.
        last: Shard of the last block.
        end: Block of the last shard to stop before; None is the end of the shard.
        rest_of: Number of the task that was given up in an earlier shard, if this task is what it left.
    """

    number: int
    shard: int
    block: int
    last: int
    end: int | None
    rest_of: int | None = None

    @property
    def name(self) -> str:
        """Path of the task's files in the folder of the scan, without a suffix."""
        return f"{FOLDER}/{self.number:04d}"

    def to_list(self) -> list[int | None]:
        """Return the fields as JSON values."""
        return [self.number, self.shard, self.block, self.last, self.end, self.rest_of]

    def rest(self, shard: int, number: int) -> ScanTask | None:
        """Return a task for what follows a shard, or None if it is the last one."""
        return ScanTask(number, shard + 1, 0, self.last, self.end, self.number) if shard < self.last else None


def plan_tasks(corpus: Any, workers: int, sampled: bool) -> list[ScanTask]:
    """Divide a corpus into tasks.

    Where there are many shards, whole shards are taken together; otherwise the corpus is read once for its blocks, with
    no tokenizer, which takes a hundredth of the time that a scan takes.

    Args:
        corpus: Corpus to scan.
        workers: Number of workers that share the tasks.
        sampled: Whether a random part of each block is scanned, for which the blocks have to be known anyway.

    Raises:
        CorpusError: the corpus can be read only once.
    """
    shards = len(corpus.shards)
    if shards >= 2 * EACH * workers and not sampled:
        bounds = [shards * i // (EACH * workers) for i in range(EACH * workers + 1)]
        return [ScanTask(i, a, 0, b - 1, None) for i, (a, b) in enumerate(itertools.pairwise(bounds))]
    table = _table(corpus)
    most = max(LEAST, sum(count for *_, count in table) // (EACH * workers))
    found: list[ScanTask] = []
    size = most
    for shard, block, end, count in table:
        if size >= most:
            found.append(ScanTask(len(found), shard, block, shard, end))
            size = 0
        first = found[-1]
        found[-1] = ScanTask(first.number, first.shard, first.block, shard, end)
        size += count
    return found


def _table(corpus: Any) -> list[tuple[int, int, int | None, int]]:
    """Return (shard, block, end, characters) of every block; the rest of a shard that cannot be read is one block."""
    try:
        return [(shard, block, block + 1, count) for shard, block, count in corpus.block_sizes()]
    except DreamyLensError:
        raise
    except Exception:  # workers note what is wrong with a shard, and go on with the next one
        found: list[tuple[int, int, int | None, int]] = []
        for shard in range(len(corpus.shards)):
            number = 0
            try:
                for block in corpus.blocks(shard):
                    found.append((shard, block.number, block.number + 1, block.characters))
                    number = block.number + 1
            except Exception:
                found.append((shard, number, None, 0))
        return found


@dataclass
class TaskLedger:
    """The tasks of one scan, in the folder that its workers share.

    Attributes:
        place: Folder of the scan.
        mark: Random text in the manifest, by which workers know that they see the same folder.
        identity: Identity of the scan.
        tasks: All tasks; those that were left by a task that was given up come last.
    """

    place: SharedFolder
    mark: str
    identity: dict[str, Any]
    tasks: list[ScanTask]

    @classmethod
    def open(cls, place: SharedFolder, identity: dict[str, Any]) -> TaskLedger | None:
        """Open the ledger that an earlier call has written; None if there is none.

        Raises:
            ExamplesError: The ledger is of another scan.
        """
        manifest = place.read(MANIFEST)
        if manifest is None:
            return None
        version = manifest.get("version")
        if manifest.get("format") != FORMAT or not isinstance(version, int) or version > VERSION:
            raise ExamplesError(f"The {MANIFEST} in {place} is not one that this dreamy_lens reads; remove the folder.")
        check_same(manifest["identity"], identity, place.text)
        return cls(place, manifest["mark"], identity, [ScanTask(*row) for row in manifest["parcels"]])

    @classmethod
    def new(cls, place: SharedFolder, identity: dict[str, Any], tasks: Sequence[ScanTask]) -> TaskLedger:
        """Write the ledger of a scan that has not begun."""
        ledger = cls(place, secrets.token_hex(8), identity, list(tasks))
        ledger.write()
        return ledger

    def write(self) -> None:
        """Write the manifest, with all tasks."""
        rows = [task.to_list() for task in self.tasks]
        head = {"format": FORMAT, "version": VERSION, "mark": self.mark, "identity": self.identity, "parcels": rows}
        self.place.write(MANIFEST, head)

    def receipts(self) -> dict[int, dict[str, Any]]:
        """Return the receipts of tasks that are done or given up, by the tasks' numbers."""
        there = set(self.place.names(FOLDER))
        names = [task.name for task in self.tasks if f"{task.number:04d}.json" in there]
        found = self.place.read_all(f"{name}.json" for name in names)
        return {receipt["parcel"]: receipt for receipt in found.values() if "parcel" in receipt}

    def split(self, receipts: dict[int, dict[str, Any]]) -> None:
        """Make tasks of what tasks that were given up have left in later shards."""
        known = {task.rest_of for task in self.tasks}
        before = len(self.tasks)
        for task in list(self.tasks):
            receipt = receipts.get(task.number)
            if receipt and receipt["status"] == "given up" and task.number not in known:
                rest = task.rest(receipt["at"][0], len(self.tasks))
                self.tasks += [] if rest is None else [rest]
        if len(self.tasks) > before:
            self.write()

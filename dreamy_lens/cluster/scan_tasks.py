"""The tasks of a scan that workers share, and the folder that records which tasks are done.

The folder of a scan has a folder `parcels/` with these files (a parcel is a task):

* `scan.json`: the manifest, with the scan's identity and every task.
* `0007.part`: the results of task 7 so far. It is replaced from time to time, so that the death of a worker costs at
  most about a minute of work. `0007.part.json` has the number of saves.
* `0007.safetensors`: all results of task 7. `0007.until`: its results up to the point where it was given up.
* `0007.json`: the receipt, which is written last and says that the task is done or given up.
* `0007.attempts/<saves>-<name>`: one file for each attempt, with the number of saves at its start. After three attempts
  from one save, none of which reached the next save, the task is given up.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dreamy_lens.cluster.shared_folder import SharedFolder
from dreamy_lens.errors import DreamyLensError, ExamplesError
from dreamy_lens.scan.checkpoint import check_identity
from dreamy_lens.scan.scan import PARTS_FOLDER

FOLDER = PARTS_FOLDER
MANIFEST = f"{FOLDER}/scan.json"
FORMAT = "dreamy_lens scan in parcels"
VERSION = 1

MIN_CHARACTERS = 1 << 22
"""Fewest characters of a task: about 80,000 windows."""

TASKS_PER_WORKER = 4
"""Number of tasks for each worker. At the end of a scan, workers wait for the last one for at most a quarter of its
share."""


@dataclass(frozen=True)
class ScanTask:
    """A task of a scan: consecutive blocks of a corpus.

    Attributes:
        number: Number of the task.
        shard: Index of the shard of the first block.
        block: Number of the first block in its shard.
        last: Index of the shard of the last block.
        end: Number of the block in the last shard at which the task stops, without it; None is the end of the shard.
        rest_of: Number of the given-up task whose remaining shards this task has; None for any other task.
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
        """Return a task for the shards of this task that follow a shard, or None if there are none.

        Args:
            shard: Index of the shard after which the new task begins.
            number: Number of the new task.
        """
        return ScanTask(number, shard + 1, 0, self.last, self.end, self.number) if shard < self.last else None


def plan_tasks(corpus: Any, workers: int, sampled: bool) -> list[ScanTask]:
    """Divide a corpus into tasks.

    If there are many shards, each task has complete shards. Otherwise the corpus is read once to find its blocks. This
    needs no tokenizer, and takes about a hundredth of the time of the scan.

    Args:
        corpus: Corpus to scan.
        workers: Number of workers that share the tasks.
        sampled: Whether a random part of each block is scanned, for which the blocks have to be known in any case.

    Raises:
        CorpusError: The corpus can be read only once.
    """
    shards = len(corpus.shards)
    if shards >= 2 * TASKS_PER_WORKER * workers and not sampled:
        bounds = [shards * i // (TASKS_PER_WORKER * workers) for i in range(TASKS_PER_WORKER * workers + 1)]
        return [ScanTask(i, a, 0, b - 1, None) for i, (a, b) in enumerate(itertools.pairwise(bounds))]
    table = _block_table(corpus)
    task_size = max(MIN_CHARACTERS, sum(count for *_, count in table) // (TASKS_PER_WORKER * workers))
    tasks: list[ScanTask] = []
    size = task_size
    for shard, block, end, count in table:
        if size >= task_size:
            tasks.append(ScanTask(len(tasks), shard, block, shard, end))
            size = 0
        current = tasks[-1]
        tasks[-1] = ScanTask(current.number, current.shard, current.block, shard, end)
        size += count
    return tasks


def _block_table(corpus: Any) -> list[tuple[int, int, int | None, int]]:
    """Return (shard, block, end, characters) of every block; the rest of a shard that cannot be read is one block."""
    try:
        return [(shard, block, block + 1, count) for shard, block, count in corpus.block_sizes()]
    except DreamyLensError:
        raise
    except Exception:  # a shard cannot be read; the worker that gets it records the error
        blocks: list[tuple[int, int, int | None, int]] = []
        for shard in range(len(corpus.shards)):
            number = 0
            try:
                for block in corpus.blocks(shard):
                    blocks.append((shard, block.number, block.number + 1, block.characters))
                    number = block.number + 1
            except Exception:
                blocks.append((shard, number, None, 0))
        return blocks


@dataclass
class TaskLedger:
    """The tasks of one scan and their receipts, in the folder that its workers share.

    Attributes:
        place: Shared folder of the scan.
        mark: Random text in the manifest, with which workers check that they see this folder and not another.
        identity: Identity of the scan.
        tasks: All tasks; tasks for the rest of given-up tasks come last.
    """

    place: SharedFolder
    mark: str
    identity: dict[str, Any]
    tasks: list[ScanTask]

    @classmethod
    def open(cls, place: SharedFolder, identity: dict[str, Any]) -> TaskLedger | None:
        """Open the ledger that an earlier call has written; None if there is none.

        Args:
            place: Shared folder of the scan.
            identity: Identity of the scan that the ledger must belong to.

        Raises:
            ExamplesError: The ledger belongs to another scan, or has another format.
        """
        manifest = place.read(MANIFEST)
        if manifest is None:
            return None
        version = manifest.get("version")
        if manifest.get("format") != FORMAT or not isinstance(version, int) or version > VERSION:
            raise ExamplesError(
                f"The {MANIFEST} in {place} has a format that this dreamy_lens does not read. Remove the folder to "
                "scan again, or choose another one."
            )
        check_identity(manifest["identity"], identity, place.text)
        return cls(place, manifest["mark"], identity, [ScanTask(*row) for row in manifest["parcels"]])

    @classmethod
    def new(cls, place: SharedFolder, identity: dict[str, Any], tasks: Sequence[ScanTask]) -> TaskLedger:
        """Write the ledger of a scan that has not begun, and return it.

        Args:
            place: Shared folder of the scan.
            identity: Identity of the scan.
            tasks: All tasks of the scan.
        """
        ledger = cls(place, secrets.token_hex(8), identity, list(tasks))
        ledger.write()
        return ledger

    def write(self) -> None:
        """Write the manifest, with all tasks."""
        rows = [task.to_list() for task in self.tasks]
        manifest = {"format": FORMAT, "version": VERSION, "mark": self.mark, "identity": self.identity, "parcels": rows}
        self.place.write(MANIFEST, manifest)

    def receipts(self) -> dict[int, dict[str, Any]]:
        """Return the receipts of all tasks that are done or given up, by the numbers of the tasks."""
        files = set(self.place.names(FOLDER))
        names = [task.name for task in self.tasks if f"{task.number:04d}.json" in files]
        receipts = self.place.read_all(f"{name}.json" for name in names)
        return {receipt["parcel"]: receipt for receipt in receipts.values() if "parcel" in receipt}

    def split(self, receipts: dict[int, dict[str, Any]]) -> None:
        """Add a task for the remaining shards of each given-up task.

        Args:
            receipts: Receipts by the numbers of the tasks.
        """
        already_split = {task.rest_of for task in self.tasks}
        before = len(self.tasks)
        for task in list(self.tasks):
            receipt = receipts.get(task.number)
            if receipt and receipt["status"] == "given up" and task.number not in already_split:
                rest = task.rest(receipt["at"][0], len(self.tasks))
                self.tasks += [] if rest is None else [rest]
        if len(self.tasks) > before:
            self.write()

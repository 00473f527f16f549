"""A scan in parts that workers take: which there are, and what is in the folder they share.

Under `parcels/` in the place of a scan:

* `scan.json`: the manifest: the scan's identity, and every parcel.
* `0007.part`: what was found in parcel 7 so far, replaced now and then, so that a worker that dies costs a minute;
  `0007.part.json` says how often.
* `0007.safetensors`: all that was found in it; `0007.until`: what was found until it was given up.
* `0007.json`: the receipt, written last: the parcel is done, or given up.
* `0007.attempts/<saves>-<name>`: one for each time it was begun after so many saves. Three at one place, and none
  that got further: it is given up.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dreamy_lens.cluster.shared_folder import SharedFolder
from dreamy_lens.errors import DreamyLensError, ExamplesError
from dreamy_lens.scan.scan import PARTS

FOLDER = PARTS
MANIFEST = f"{FOLDER}/scan.json"
FORMAT = "dreamy_lens scan in parcels"
VERSION = 1

LEAST = 1 << 22
"""Characters of a parcel, at least: some 80,000 windows."""

EACH = 4
"""Parcels for each worker: what the last one to finish has the others wait for is a quarter of its share."""


@dataclass(frozen=True)
class ScanTask:
    """Blocks that follow each other.

    Attributes:
        number: of the parcel; results are merged in this order.
        shard: of the first block.
        block: the first block.
        last: the shard of the last block.
        end: the block of that shard to end before; None is its end.
        rest_of: the parcel that was given up in an earlier shard, if this is what it left.
    """

    number: int
    shard: int
    block: int
    last: int
    end: int | None
    rest_of: int | None = None

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{FOLDER}/{self.number:04d}"

    def to_list(self) -> list[int | None]:
        """As JSON values."""
        return [self.number, self.shard, self.block, self.last, self.end, self.rest_of]

    def rest(self, shard: int, number: int) -> ScanTask | None:
        """What follows a shard, as a parcel of its own."""
        return ScanTask(number, shard + 1, 0, self.last, self.end, self.number) if shard < self.last else None


def parcels_of(corpus: Any, workers: int, sampled: bool) -> list[ScanTask]:
    """Share a corpus out.

    Where there are many shards, whole shards are taken together; otherwise the corpus is read once for its blocks, with
    no tokenizer, which takes a hundredth of the time that a scan takes.

    Args:
        corpus: of texts.
        workers: how many will share them.
        sampled: whether a random part of each block is scanned, for which the blocks have to be known anyway.

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
    """(shard, block, end, characters) of every block; where a shard cannot be read on, the rest is as one."""
    try:
        return [(shard, block, block + 1, count) for shard, block, count in corpus.table()]
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
    """The parcels of one scan, in the folder that it shares.

    Attributes:
        place: of the scan.
        mark: of the manifest, by which workers know that they see the same folder.
        identity: of the scan.
        parcels: all of them; those that were left by one that was given up come last.
    """

    place: SharedFolder
    mark: str
    identity: dict[str, Any]
    parcels: list[ScanTask]

    @classmethod
    def open(cls, place: SharedFolder, identity: dict[str, Any]) -> TaskLedger | None:
        """What an earlier call has begun; None if there is nothing.

        Raises:
            ExamplesError: it is of another scan.
        """
        from dreamy_lens.scan.checkpoint import check_same

        found = place.read(MANIFEST)
        if found is None:
            return None
        if found.get("format") != FORMAT or not isinstance(found.get("version"), int) or found["version"] > VERSION:
            raise ExamplesError(f"The {MANIFEST} in {place} is not one that this dreamy_lens reads; remove the folder.")
        check_same(found["identity"], identity, place.text)
        return cls(place, found["mark"], identity, [ScanTask(*row) for row in found["parcels"]])

    @classmethod
    def new(cls, place: SharedFolder, identity: dict[str, Any], parcels: Sequence[ScanTask]) -> TaskLedger:
        """One for a scan that has not begun."""
        made = cls(place, secrets.token_hex(8), identity, list(parcels))
        made.write()
        return made

    def write(self) -> None:
        """Keep which parcels there are."""
        rows = [parcel.to_list() for parcel in self.parcels]
        head = {"format": FORMAT, "version": VERSION, "mark": self.mark, "identity": self.identity, "parcels": rows}
        self.place.write(MANIFEST, head)

    def receipts(self) -> dict[int, dict[str, Any]]:
        """Of the parcels that are done or given up, by their numbers."""
        there = set(self.place.names(FOLDER))
        names = [p.name for p in self.parcels if f"{p.number:04d}.json" in there]
        found = self.place.read_all(f"{name}.json" for name in names)
        return {receipt["parcel"]: receipt for receipt in found.values() if "parcel" in receipt}

    def split(self, receipts: dict[int, dict[str, Any]]) -> None:
        """Make parcels of what those that were given up have left in later shards."""
        known = {parcel.rest_of for parcel in self.parcels}
        before = len(self.parcels)
        for parcel in list(self.parcels):
            receipt = receipts.get(parcel.number)
            if receipt and receipt["status"] == "given up" and parcel.number not in known:
                rest = parcel.rest(receipt["at"][0], len(self.parcels))
                self.parcels += [] if rest is None else [rest]
        if len(self.parcels) > before:
            self.write()

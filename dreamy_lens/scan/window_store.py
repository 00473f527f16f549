"""What a scan keeps besides its tallies: the windows themselves, and a uniform sample of all windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamy_lens.corpus.corpus import Block
from dreamy_lens.corpus.windows import Windows
from dreamy_lens.models.transfer import to_device

SHARD_BITS, BLOCK_BITS, INDEX_BITS = 19, 24, 20
"""Of a window's number: its shard, its block in the shard, its place in the block."""


LEAST_SHARE = 16
"""Windows of a block that are worth tokenizing it for."""


def first_number(shard: int, block: int) -> int:
    """The number of a block's first window; numbers rise along the corpus."""
    return shard << (BLOCK_BITS + INDEX_BITS) | block << INDEX_BITS


@dataclass
class WindowStore:
    """Windows that are kept for some feature, by number.

    Attributes:
        length: tokens of a window.
        context: tokens on each side of it.
        number: int64 `[M]`, rising.
        ids: int32 `[M, length]`.
        before: int32 `[M, context]`, -1 where the document begins.
        after: int32 `[M, context]`, -1 where it has ended.
        character: where the window begins in its document, int64 `[M]`.
        cross_entropy: float32 `[M]`, NaN where it was not measured.
        documents: names, one for each window.
        kept: how many there were after the last :meth:`keep`.
    """

    length: int
    context: int
    number: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    ids: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.int32))
    before: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.int32))
    after: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.int32))
    character: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    cross_entropy: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    documents: np.ndarray = field(default_factory=lambda: np.empty(0, object))
    kept: int = 0
    _new: list[dict[str, np.ndarray]] = field(default_factory=list, repr=False)

    COLUMNS = ("number", "ids", "before", "after", "character", "cross_entropy", "documents")

    def __post_init__(self) -> None:
        for name, width in (("ids", self.length), ("before", self.context), ("after", self.context)):
            if getattr(self, name).shape[0] == 0:
                setattr(self, name, np.empty((0, width), np.int32))

    def __len__(self) -> int:
        return len(self.number) + sum(len(part["number"]) for part in self._new)

    def add(self, block: Block, windows: Windows, rows: np.ndarray, cross_entropy: np.ndarray | None) -> None:
        """Keep some windows of a block.

        Args:
            block: it.
            windows: of the block.
            rows: which of them, int64 `[m]`, rising.
            cross_entropy: of all windows of the block, or None.
        """
        if not len(rows):
            return
        starts, bounds = windows.starts[rows], windows.bounds
        section = windows.section[rows]
        around = np.arange(self.context)
        before = starts[:, None] - self.context + around
        after = starts[:, None] + self.length + around
        tokens = windows.tokens
        self._new.append(
            {
                "number": first_number(block.shard, block.number) + rows,
                "ids": windows.ids[rows].astype(np.int32),
                "before": np.where(before >= bounds[section, None], tokens[before.clip(0)], -1),
                "after": np.where(
                    after < bounds[section + 1, None], tokens[after.clip(max=max(len(tokens) - 1, 0))], -1
                ),
                "character": windows.characters(rows),
                "cross_entropy": np.full(len(rows), np.nan, np.float32)
                if cross_entropy is None
                else cross_entropy[rows].astype(np.float32),
                "documents": np.array([block.sections[s].document for s in section], object),
            }
        )

    def keep(self, numbers: np.ndarray) -> None:
        """Forget all windows but these."""
        self._settle()
        self._take(np.isin(self.number, numbers))
        self.kept = len(self.number)

    def merge(self, other: WindowStore) -> None:
        """Take in another one's windows."""
        self._settle()
        other._settle()
        for name in self.COLUMNS:
            setattr(self, name, np.concatenate([getattr(self, name), getattr(other, name)]))
        self._take(np.unique(self.number, return_index=True)[1])

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Where windows stand, int64 of the shape of `numbers`; -1 for those that are not kept."""
        self._settle()
        if not len(self.number):
            return np.full(numbers.shape, -1)
        found = np.searchsorted(self.number, numbers).clip(max=len(self.number) - 1)
        return np.where(self.number[found] == numbers, found, -1)

    def _settle(self) -> None:
        if self._new:
            parts = [*({name: getattr(self, name) for name in self.COLUMNS},), *self._new]
            self._new = []
            for name in self.COLUMNS:
                setattr(self, name, np.concatenate([part[name] for part in parts]))
            self._take(np.argsort(self.number, kind="stable"))

    def _take(self, rows: np.ndarray) -> None:
        for name in self.COLUMNS:
            setattr(self, name, getattr(self, name)[rows])

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as plain arrays, for whoever stores them."""
        self._settle()
        names, index = (
            np.unique(self.documents.astype(str), return_inverse=True) if len(self.documents) else ([], np.empty(0))
        )
        found = {name: getattr(self, name) for name in self.COLUMNS if name != "documents"}
        encoded = [str(name).encode("utf-8", "surrogatepass") for name in names]
        found["document"] = np.asarray(index, np.int64)
        found["name_bytes"] = np.frombuffer(b"".join(encoded), np.uint8)
        found["name_lengths"] = np.array([len(name) for name in encoded], np.int64)
        return found

    @classmethod
    def from_arrays(cls, length: int, context: int, arrays: dict[str, np.ndarray]) -> WindowStore:
        """The inverse of :meth:`arrays`."""
        data, ends = arrays["name_bytes"].tobytes(), np.cumsum(arrays["name_lengths"])
        starts = ends - arrays["name_lengths"]
        names = [data[a:b].decode("utf-8", "surrogatepass") for a, b in zip(starts, ends, strict=True)]
        documents = np.empty(len(arrays["document"]), object)
        documents[:] = [names[i] for i in arrays["document"]]
        found = cls(length, context)
        found.documents = documents
        for name in cls.COLUMNS:
            if name != "documents":
                setattr(found, name, arrays[name])
        return found


@dataclass
class WindowSample:
    """A uniform random sample of the windows of a corpus, with every feature's value on each.

    Each window has a random priority, which follows from its number and a seed; the smallest are the sample. So it does
    not matter in which order windows come, or where they are counted.

    Attributes:
        size: most windows in it, R.
        seed: of the priorities.
        number: int64 `[m]`.
        priority: int64 `[m]`, in the order of `number`.
        values: float32 `[R, F]` on the model's device, of which the first m rows count.
    """

    size: int
    seed: int
    values: Tensor
    number: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    priority: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def empty(cls, size: int, features: int, seed: int, device: Any = "cpu") -> WindowSample:
        """Of nothing."""
        return cls(size, seed, torch.empty(size, features, device=device))

    def add(self, values: Tensor, numbers: np.ndarray) -> None:
        """Take in windows: values `[B, F]`, and their numbers `[B]`, none of which was taken in before."""
        self._enter(values, numbers, priorities(numbers, self.seed))

    def merge(self, other: WindowSample) -> None:
        """Take in another sample of the same seed."""
        self._enter(other.values[: len(other.number)], other.number, other.priority)

    def _enter(self, values: Tensor, numbers: np.ndarray, priority: np.ndarray) -> None:
        if not self.size:
            return
        have = len(self.number)
        if have == self.size:
            good = priority < self.priority.max()
            numbers, priority = numbers[good], priority[good]
            rows = np.flatnonzero(good)
        else:
            rows = np.arange(len(numbers))
        if not len(rows):
            return
        both = np.concatenate([self.priority, priority])
        chosen = np.zeros(len(both), bool)
        chosen[np.argsort(both, kind="stable")[: self.size]] = True
        new = np.flatnonzero(chosen[have:])
        places = np.concatenate([np.flatnonzero(~chosen[:have]), np.arange(have, self.size)])[: len(new)]
        grown = max(have, int(places.max()) + 1) if len(places) else have
        for name, given in (("number", numbers), ("priority", priority)):
            column = np.concatenate([getattr(self, name), np.empty(grown - have, np.int64)])
            column[places] = given[new]
            setattr(self, name, column)
        device = self.values.device
        self.values[to_device(places, device)] = values[to_device(rows[new], values.device)].float().to(device)

    def ordered(self) -> tuple[np.ndarray, Tensor]:
        """Numbers, rising, int64 `[m]`, and values `[m, F]`."""
        order = np.argsort(self.number)
        return self.number[order], self.values[to_device(order, self.values.device)]


def priorities(numbers: np.ndarray, seed: int) -> np.ndarray:
    """Random numbers for windows, int64 `[B]`, not negative: splitmix64 of their numbers and a seed."""
    with np.errstate(over="ignore"):
        x = numbers.astype(np.uint64) + np.uint64(seed % (1 << 63)) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(1)).astype(np.int64)


def shares_of(characters: Sequence[int], windows: int, seed: int) -> np.ndarray:
    """How many windows of each block are scanned, int64, so that every window is about as likely as any other.

    Each block has a share in proportion to its characters, if that is some `LEAST_SHARE` windows for most. Where it is
    less, tokenizing blocks would cost much more than scanning them: then points are laid over the corpus, evenly from a
    random start, one for every `LEAST_SHARE` windows, and each point's windows come from the block it falls in. A
    block is drawn as often as its characters say, so that on average over seeds its share is the same; what is uneven
    in both cases is only how many windows so many characters have.

    Args:
        characters: of each block.
        windows: wanted in all.
        seed: of the start.
    """
    ends = np.cumsum([0, *characters], dtype=np.int64)
    total = max(1, int(ends[-1]))
    if windows >= LEAST_SHARE * len(characters):
        return np.diff([int(end) * windows // total for end in ends])
    points = max(1, windows // LEAST_SHARE)
    start = np.random.default_rng([seed, points]).random()
    places = (np.arange(points) + start) / points * total
    block = (np.searchsorted(ends, places, side="right") - 1).clip(0, max(0, len(characters) - 1))
    each = np.diff(np.arange(points + 1) * windows // points)
    return np.bincount(block, each, minlength=len(characters)).astype(np.int64)[: len(characters)]


def chosen(count: int, share: int | None, seed: Sequence[int]) -> np.ndarray:
    """Which of a block's windows are scanned, int64, rising: all of them, or so many drawn without replacement."""
    if share is None or share >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, size=share, replace=False))

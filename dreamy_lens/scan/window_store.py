"""Store of the windows that a scan keeps: their ids, the tokens around them, and their documents."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from dreamy_lens.corpus.corpus import Block
from dreamy_lens.corpus.windows import Windows

SHARD_BITS, BLOCK_BITS, INDEX_BITS = 19, 24, 20
"""Bits of a window's number for its shard, its block in the shard, and its index in the block."""


def first_number(shard: int, block: int) -> int:
    """Return the number of the first window of a block; numbers ascend along the corpus."""
    return shard << (BLOCK_BITS + INDEX_BITS) | block << INDEX_BITS


@dataclass
class WindowStore:
    """Windows that are kept for a feature or for the sample, sorted by number.

    Attributes:
        length: Tokens of a window.
        context: Tokens to keep on each side of a window.
        number: Numbers of the windows, int64, ascending.
        ids: Token ids, int32.
        before: Token ids before the window, int32; -1 before the beginning of the document.
        after: Token ids after the window, int32; -1 after the end of the document.
        character: Character of the document at which the window begins, int64.
        cross_entropy: Cross-entropy in nats per token, float32; NaN where it was not measured.
        documents: Name of each window's document.
        kept: Number of windows after the last :meth:`keep`.
    """

    length: int
    context: int
    number: Int[np.ndarray, " windows"] = field(default_factory=lambda: np.empty(0, np.int64))
    ids: Int[np.ndarray, "windows length"] = field(default_factory=lambda: np.empty((0, 0), np.int32))
    before: Int[np.ndarray, "windows context"] = field(default_factory=lambda: np.empty((0, 0), np.int32))
    after: Int[np.ndarray, "windows context"] = field(default_factory=lambda: np.empty((0, 0), np.int32))
    character: Int[np.ndarray, " windows"] = field(default_factory=lambda: np.empty(0, np.int64))
    cross_entropy: Float[np.ndarray, " windows"] = field(default_factory=lambda: np.empty(0, np.float32))
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

    def add(
        self,
        block: Block,
        windows: Windows,
        rows: Int[np.ndarray, " added"],
        cross_entropy: Float[np.ndarray, " windows"] | None,
    ) -> None:
        """Keep some windows of a block.

        Args:
            block: Block of the corpus.
            windows: Windows of the block.
            rows: Rows of the windows to keep, ascending.
            cross_entropy: Cross-entropy of all windows of the block; None if it is not measured.
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

    def keep(self, numbers: Int[np.ndarray, " kept"]) -> None:
        """Keep only the windows with the given numbers."""
        self._consolidate()
        self._take(np.isin(self.number, numbers))
        self.kept = len(self.number)

    def merge(self, other: WindowStore) -> None:
        """Add the windows of another store."""
        self._consolidate()
        other._consolidate()
        for name in self.COLUMNS:
            setattr(self, name, np.concatenate([getattr(self, name), getattr(other, name)]))
        self._take(np.unique(self.number, return_index=True)[1])

    def rows(self, numbers: Int[np.ndarray, ...]) -> Int[np.ndarray, ...]:
        """Return the row of each window, int64, in the shape of `numbers`; -1 for windows that are not kept."""
        self._consolidate()
        if not len(self.number):
            return np.full(numbers.shape, -1)
        rows = np.searchsorted(self.number, numbers).clip(max=len(self.number) - 1)
        return np.where(self.number[rows] == numbers, rows, -1)

    def _consolidate(self) -> None:
        """Move newly added windows into the sorted columns."""
        if self._new:
            parts = [*({name: getattr(self, name) for name in self.COLUMNS},), *self._new]
            self._new = []
            for name in self.COLUMNS:
                setattr(self, name, np.concatenate([part[name] for part in parts]))
            self._take(np.argsort(self.number, kind="stable"))

    def _take(self, rows: np.ndarray) -> None:
        """Keep only some rows, in the given order."""
        for name in self.COLUMNS:
            setattr(self, name, getattr(self, name)[rows])

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the windows as numeric arrays, by name."""
        self._consolidate()
        names, index = (
            np.unique(self.documents.astype(str), return_inverse=True) if len(self.documents) else ([], np.empty(0))
        )
        arrays = {name: getattr(self, name) for name in self.COLUMNS if name != "documents"}
        encoded = [str(name).encode("utf-8", "surrogatepass") for name in names]
        arrays["document"] = np.asarray(index, np.int64)
        arrays["name_bytes"] = np.frombuffer(b"".join(encoded), np.uint8)
        arrays["name_lengths"] = np.array([len(name) for name in encoded], np.int64)
        return arrays

    @classmethod
    def from_arrays(cls, length: int, context: int, arrays: dict[str, np.ndarray]) -> WindowStore:
        """Return a store with the windows that :meth:`arrays` returned."""
        data, ends = arrays["name_bytes"].tobytes(), np.cumsum(arrays["name_lengths"])
        starts = ends - arrays["name_lengths"]
        names = [data[a:b].decode("utf-8", "surrogatepass") for a, b in zip(starts, ends, strict=True)]
        documents = np.empty(len(arrays["document"]), object)
        documents[:] = [names[i] for i in arrays["document"]]
        store = cls(length, context)
        store.documents = documents
        for name in cls.COLUMNS:
            if name != "documents":
                setattr(store, name, arrays[name])
        return store

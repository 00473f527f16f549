"""One pass over a corpus, or a part of it, for many features at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from dreamy_lens.dataset.corpora import Block, Corpus
from dreamy_lens.dataset.keeping import Sample, Store, chosen, first_number
from dreamy_lens.dataset.problems import Problems
from dreamy_lens.dataset.progress import Progress
from dreamy_lens.dataset.tally import Tally
from dreamy_lens.dataset.windows import Windows, WindowSettings, windows_of
from dreamy_lens.errors import CorpusError, SettingsError
from dreamy_lens.models.access import HookedModel
from dreamy_lens.models.transfer import to_device, to_host
from dreamy_lens.scoring.banks import Bank
from dreamy_lens.scoring.bulk import TRIED, Bulk, Bulked
from dreamy_lens.scoring.prompts import Frame

WAITING = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Values that are collected before they are counted, by kind of device: counting has a cost of its own."""

PASSES = 8
"""Passes between two moments at which a scan can be stopped or saved, at most."""

SAMPLED = 1 << 28
"""Values on sampled windows that are kept at most."""


@dataclass(frozen=True)
class ScanSettings:
    """Of a scan, besides model, corpus and features.

    Attributes:
        k: how many of each feature's strongest windows are kept.
        length: tokens of a window.
        stride: tokens from one window to the next; None is `length`.
        context: tokens shown on each side of a kept window.
        tokens: scan windows of so many tokens in all, a random sample of the corpus; None scans all of it.
        seed: of the samples; with None, `tokens` are the first of the corpus.
        cross_entropy: whether that of every window is measured.
        sample: windows drawn at random, of which every feature's values are kept.
        prepend_bos: whether a BOS stands before every window; None is the model's convention.
        batch_size: windows in one pass; None chooses.
    """

    k: int = 64
    length: int = 12
    stride: int | None = None
    context: int = 24
    tokens: int | None = None
    seed: int | None = 0
    cross_entropy: bool = True
    sample: int = 1024
    prepend_bos: bool | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("k", 1), ("tokens", 1), ("seed", 0), ("sample", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if value is None and name in ("tokens", "seed", "batch_size"):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise SettingsError(f"{name} is a whole number of at least {least}; got {value!r}.")
        if self.tokens is not None and self.tokens < self.length:
            raise SettingsError(f"tokens={self.tokens} is less than one window of {self.length} tokens; ask for more.")
        _ = self.windows

    @property
    def windows(self) -> WindowSettings:
        """How windows are cut."""
        return WindowSettings(self.length, self.stride, self.context)


class Scanner:
    """Scans blocks of a corpus.

    Args:
        banks: the features.
        model: whose activations they read.
        corpus: of texts.
        settings: of the scan.
        fluency: whose cross-entropy is measured; None is the model.
    """

    def __init__(
        self,
        banks: Sequence[Bank],
        model: HookedModel,
        corpus: Corpus,
        settings: ScanSettings,
        fluency: HookedModel | None = None,
    ) -> None:
        self.banks, self.model, self.corpus, self.settings = tuple(banks), model, corpus, settings
        self.features = sum(len(bank) for bank in banks)
        prepend = bool(model.bos(settings.prepend_bos))
        self.frame = Frame(fluency or model, prepend)
        self.bulk = Bulk(banks, model, self.frame, settings.length, settings.cross_entropy, settings.batch_size)
        if settings.cross_entropy:
            self.bulk.layout.check()
        self.shares: dict[tuple[int, int], int] | None = None

    def empty(self) -> Progress:
        """Of a scan that has not begun."""
        s, device = self.settings, self.model.device
        size = max(0, min(s.sample, SAMPLED // max(self.features, 1)))
        return Progress(
            Tally.empty(self.features, s.k, s.cross_entropy, device),
            Sample.empty(size, self.features, s.seed or 0, device),
            Store(s.length, s.context),
        )

    def prepare(self) -> None:
        """Decide how many windows of each block are scanned, where a random part of the corpus is."""
        s = self.settings
        if s.tokens is None or s.seed is None or self.shares is not None:
            return
        if self.corpus.once:
            raise CorpusError(
                f"{self.corpus.name} can be read only once, and a random part of it cannot be drawn so. Take its first "
                "tokens with seed=None; or give a list, or a function that returns a new iterator."
            )
        table = self.corpus.table()
        wanted, total = s.tokens // s.length, max(1, sum(row[2] for row in table))
        ends = np.cumsum([0, *(row[2] for row in table)]) * wanted // total
        self.shares = {
            (shard, block): int(count) for (shard, block, _), count in zip(table, np.diff(ends), strict=True)
        }

    def run(
        self,
        progress: Progress,
        shards: Sequence[int] | None = None,
        until: int | None = None,
        after: Callable[[Progress, Block], bool | None] = lambda progress, block: None,
    ) -> bool:
        """Scan on from where `progress` stands.

        Args:
            progress: what was found so far; it grows in place.
            shards: which to scan; None is all from the next one on.
            until: scan no further than before this block of a shard.
            after: called whenever some windows of a block have been taken in, a few passes' worth; `progress` can be
                saved then. The scan ends if it returns True.

        Returns:
            Whether all was scanned.

        Raises:
            CorpusError: not one shard could be read.
        """
        self.prepare()
        todo = range(progress.shard, len(self.corpus.shards)) if shards is None else shards
        with self.bulk.standing():
            for shard in todo:
                if shard != progress.shard:
                    progress.shard, progress.block, progress.index = shard, 0, 0
                for block, windows in self._read(shard, progress.block, progress):
                    if until is not None and block.number >= until:
                        break
                    if self._first_reached(progress):
                        return True
                    for _ in self._take(block, windows, progress):
                        if after(progress, block):
                            return False
                progress.shard, progress.block, progress.index = shard + 1, 0, 0
        failed = [name for name in self.corpus.shards if name in progress.failed]
        if failed and len(failed) == len(self.corpus.shards) and not progress.counts["windows"]:
            raise CorpusError(f"Nothing of {self.corpus.name} could be read. {failed[0]}: {progress.failed[failed[0]]}")
        return True

    def _first_reached(self, progress: Progress) -> bool:
        s = self.settings
        return s.tokens is not None and s.seed is None and progress.counts["tokens"] + s.length > s.tokens

    def _read(self, shard: int, start: int, progress: Progress) -> Iterator[tuple[Block, Windows]]:
        """Blocks and their windows, the next of which are read and cut while the model is busy with these."""
        blocks: Iterator[Block] | None = None

        def following() -> tuple[Block, Windows] | None:
            nonlocal blocks
            blocks = iter(self.corpus.blocks(shard, start)) if blocks is None else blocks
            block = next(blocks, None)
            return None if block is None else (block, windows_of(block, self.model.vocabulary, self.settings.windows))

        with ThreadPoolExecutor(1, "dreamy-lens-reader") as reader:
            pending = reader.submit(following)
            while True:
                try:
                    found = pending.result()
                except Exception as error:  # whatever it is, other shards may be better
                    name = self.corpus.shards[shard]
                    progress.failed[name] = f"{type(error).__name__}: {error}"
                    return
                if found is None:
                    return
                pending = reader.submit(following)
                yield found

    def _take(self, block: Block, windows: Windows, progress: Progress) -> Iterator[None]:
        """Scan a block, a few passes at a time; between two of them `progress` is whole."""
        s, counts = self.settings, progress.counts
        share = None if self.shares is None else self.shares.get((block.shard, block.number), 0)
        rows = chosen(len(windows), share, [s.seed or 0, block.shard, block.number])
        if s.tokens is not None and s.seed is None:
            rows = rows[: progress.index + (s.tokens - counts["tokens"]) // s.length]
        ids = windows.ids
        while progress.index < len(rows):
            began = time.perf_counter()
            self.bulk.prepare(ids[rows[:TRIED]])
            part = rows[progress.index : progress.index + self._chunk]
            found = list(self.bulk.passes(ids[part]))
            progress.whole = False
            self._count(progress, block, windows, part, [one for _, one in found])
            progress.index += len(part)
            counts["windows"] += len(part)
            counts["tokens"] += len(part) * s.length
            if progress.index == len(rows):
                self._end(block, windows, progress)
            progress.whole = True
            progress.seconds += time.perf_counter() - began
            yield
            if (progress.shard, progress.block) != (block.shard, block.number):
                return
        self._end(block, windows, progress)
        yield

    def _end(self, block: Block, windows: Windows, progress: Progress) -> None:
        counts = progress.counts
        counts["documents"] += block.documents
        counts["characters"] += block.characters
        counts["duplicates"] += windows.duplicates
        counts["short"] += windows.short
        counts["blocks"] += 1
        progress.problems = Problems.total([progress.problems, block.problems])
        progress.block, progress.index = block.number + 1, 0

    @property
    def _chunk(self) -> int:
        """Windows that are taken in at a time: a few passes' worth, as counting has a cost of its own."""
        waiting = WAITING.get(self.model.device.type, WAITING["cpu"])
        passes = waiting // max(1, self.features * self.bulk.size)
        return self.bulk.size * max(1, min(passes, PASSES))

    def _count(
        self, progress: Progress, block: Block, windows: Windows, rows: np.ndarray, found: Sequence[Bulked]
    ) -> None:
        first = first_number(block.shard, block.number)
        device = self.model.device
        # Of every pass, the banks side by side.
        joined = [torch.cat([v.to(device) for v in one.values], dim=1) for one in found]
        values = torch.cat(joined) if len(joined) > 1 else joined[0]
        numbers = first + rows
        losses = None
        if found[0].cross_entropy is not None:
            losses = torch.cat([one.cross_entropy for one in found])  # pyright: ignore[reportArgumentType]
        hashes = to_device(windows.hashes[rows], device)
        progress.tally.add(values, to_device(numbers, device), hashes, losses)
        progress.sample.add(values, numbers)
        kept = to_host(progress.tally.numbers(int(numbers[0])))[0]
        new = np.union1d(kept, progress.sample.number[progress.sample.number >= numbers[0]]) - first
        of_all = None
        if losses is not None:
            of_all = np.full(len(windows), np.nan, np.float32)
            of_all[rows] = to_host(losses)[0]
        progress.store.add(block, windows, new, of_all)


def versions() -> Mapping[str, str]:
    """Of what computes the numbers."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("dreamy-lens", "torch", "transformer-lens", "transformers", "tokenizers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found

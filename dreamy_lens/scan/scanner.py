"""One pass over a corpus, or a part of it, for many features at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from dreamy_lens.corpus.corpus import Block, Corpus
from dreamy_lens.corpus.problems import Problems
from dreamy_lens.corpus.windows import Windows, cut_windows
from dreamy_lens.errors import CorpusError
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.transfer import to_device, to_host
from dreamy_lens.scan.checkpoint import Checkpoint
from dreamy_lens.scan.config import ScanConfig, check_state
from dreamy_lens.scan.feature_stats import FeatureStats
from dreamy_lens.scan.sampling import WindowSample, draw_windows, windows_per_block
from dreamy_lens.scan.window_store import WindowStore, first_number
from dreamy_lens.scoring.feature_bank import FeatureBank
from dreamy_lens.scoring.prompts import PromptFrame
from dreamy_lens.scoring.window_scorer import TRIAL_ROWS, WindowScorer

WAITING = {"cpu": 1 << 26, "cuda": 1 << 26}
"""Values that are collected before they are counted, at most, by kind of device: counting has a cost of its own."""

PASSES = 8
"""Passes between two moments at which a scan can be stopped or saved, at most, unless that is few windows."""

MANY, FEW = 1 << 15, 512
"""With so many features, windows that are better counted together, however many passes they are."""

LEAST_STORED = 1 << 14
"""Windows that are kept before it is looked which of them nothing refers to any more."""

SAMPLED = 1 << 28
"""Values on sampled windows that are kept at most."""


class Scanner:
    """Scans blocks of a corpus.

    Args:
        banks: Features to scan for.
        model: Model whose activations the features read.
        corpus: Corpus to scan.
        config: Settings of the scan.
        fluency: Model whose cross-entropy is measured; None is `model`.

    Raises:
        SettingsError: windows are longer than the context of a model, or what is to be kept does not fit in memory.
    """

    def __init__(
        self,
        banks: Sequence[FeatureBank],
        model: HookedModel,
        corpus: Corpus,
        config: ScanConfig,
        fluency: HookedModel | None = None,
    ) -> None:
        self.banks, self.model, self.corpus, self.config = tuple(banks), model, corpus, config
        self.features = sum(len(bank) for bank in banks)
        check_state(self.features, config.k)
        prepend = bool(model.bos(config.prepend_bos))
        self.frame = PromptFrame(fluency or model, prepend)
        self.bulk = WindowScorer(banks, model, self.frame, config.length, config.cross_entropy, config.batch_size)
        if config.cross_entropy:
            self.bulk.layout.check()
        self.shares: dict[tuple[int, int], int] | None = None

    def empty(self) -> Checkpoint:
        """Return the checkpoint of a scan that has not begun."""
        config, device = self.config, self.model.device
        size = max(0, min(config.sample, SAMPLED // max(self.features, 1)))
        return Checkpoint(
            FeatureStats.empty(self.features, config.k, config.cross_entropy, device),
            WindowSample.empty(size, self.features, config.seed or 0, device),
            WindowStore(config.length, config.context),
        )

    @property
    def is_to_prepare(self) -> bool:
        """Whether the corpus is read through before it is scanned."""
        config = self.config
        return config.tokens is not None and config.seed is not None and self.shares is None

    def prepare(self) -> None:
        """Decide how many windows of each block are scanned, where a random part of the corpus is."""
        config = self.config
        if not self.is_to_prepare or config.tokens is None or config.seed is None:
            return
        if self.corpus.single_pass:
            raise CorpusError(
                f"{self.corpus.name} can be read only once, and a random part of it cannot be drawn so. Take its first "
                "tokens with seed=None; or give a list, or a function that returns a new iterator."
            )
        table = self.corpus.block_sizes()
        counts = windows_per_block([row[2] for row in table], config.tokens // config.length, config.seed)
        self.shares = {(shard, block): int(count) for (shard, block, _), count in zip(table, counts, strict=True)}

    def run(
        self,
        checkpoint: Checkpoint,
        shards: Sequence[int] | None = None,
        until: int | None = None,
        after: Callable[[Checkpoint, Block], bool | None] = lambda checkpoint, block: None,
    ) -> bool:
        """Go on with a scan from a checkpoint.

        Args:
            checkpoint: Results so far, which grow in place.
            shards: Shards to scan; None is all from the next one on.
            until: Number of the block of a shard to stop before.
            after: Function that is called whenever some windows of a block have been counted, a few passes' worth,
                when `checkpoint` can be saved. The scan ends if it returns True.

        Returns:
            Whether the scan came to its end.

        Raises:
            CorpusError: not one shard could be read; or there is nothing left of what can be read only once.
        """
        self.prepare()
        todo = range(checkpoint.shard, len(self.corpus.shards)) if shards is None else shards
        with self.bulk.standing():
            for shard in todo:
                if shard != checkpoint.shard:
                    checkpoint.shard, checkpoint.block, checkpoint.index = shard, 0, 0
                for block, windows in self._read(shard, checkpoint.block, checkpoint):
                    if until is not None and block.number >= until:
                        break
                    if self._first_reached(checkpoint):
                        return True
                    for _ in self._take(block, windows, checkpoint):
                        if after(checkpoint, block):
                            return False
                checkpoint.shard, checkpoint.block, checkpoint.index = shard + 1, 0, 0
        failed = [name for name in self.corpus.shards if name in checkpoint.failed]
        if failed and len(failed) == len(self.corpus.shards) and not checkpoint.counts["windows"]:
            raise CorpusError(
                f"Nothing of {self.corpus.name} could be read. {failed[0]}: {checkpoint.failed[failed[0]]}"
            )
        if shards is None and not checkpoint.counts["windows"]:
            self._say_why(checkpoint)
        return True

    def _say_why(self, checkpoint: Checkpoint) -> None:
        """Raise CorpusError if it is clear why nothing was scanned."""
        counts, name = checkpoint.counts, self.corpus.name
        if self.corpus.single_pass and not counts["documents"] and not checkpoint.problems and not checkpoint.failed:
            raise CorpusError(
                f"{name} gave no text. It can be read only once, and that may have been done: make a new one; or give "
                "a list, or a function that returns a new iterator, which can be read again."
            )
        if self.shares is not None and counts["documents"]:
            raise CorpusError(
                f"None of the {self.config.tokens:,} tokens that were drawn from {name} is in a window of "
                f"{self.config.length}: most of its documents are shorter. Ask for more tokens, or a smaller length."
            )

    def _first_reached(self, checkpoint: Checkpoint) -> bool:
        config = self.config
        return (
            config.tokens is not None
            and config.seed is None
            and checkpoint.counts["tokens"] + config.length > config.tokens
        )

    def _share(self, block: Block) -> int | None:
        """How many of a block's windows are scanned; None is all."""
        return None if self.shares is None else self.shares.get((block.shard, block.number), 0)

    def _read(self, shard: int, start: int, checkpoint: Checkpoint) -> Iterator[tuple[Block, Windows | None]]:
        """Blocks and their windows, the next of which are read and cut while the model is busy with these.

        None stands for windows of which none is scanned.
        """
        blocks: Iterator[Block] | None = None

        def following() -> tuple[Block, Windows | None] | None:
            nonlocal blocks
            blocks = iter(self.corpus.blocks(shard, start)) if blocks is None else blocks
            block = next(blocks, None)
            if block is None:
                return None
            if self._share(block) == 0:
                return block, None
            return block, cut_windows(block, self.model.vocabulary, self.config.windows)

        with ThreadPoolExecutor(1, "dreamy-lens-reader") as reader:
            pending = reader.submit(following)
            while True:
                try:
                    found = pending.result()
                except Exception as error:  # whatever it is, other shards may be better
                    name = self.corpus.shards[shard]
                    checkpoint.failed[name] = f"{type(error).__name__}: {error}"
                    return
                if found is None:
                    return
                pending = reader.submit(following)
                yield found

    def _take(self, block: Block, windows: Windows | None, checkpoint: Checkpoint) -> Iterator[None]:
        """Scan a block, a few passes at a time; between two of them `checkpoint` is whole."""
        config, counts = self.config, checkpoint.counts
        if windows is None:
            self._end(block, windows, checkpoint)
            yield
            return
        rows = draw_windows(len(windows), self._share(block), [config.seed or 0, block.shard, block.number])
        if config.tokens is not None and config.seed is None:
            rows = rows[: checkpoint.index + (config.tokens - counts["tokens"]) // config.length]
        ids = windows.ids
        while checkpoint.index < len(rows):
            began = time.perf_counter()
            self.bulk.prepare(ids[rows[:TRIAL_ROWS]])
            part = rows[checkpoint.index : checkpoint.index + self._chunk]
            values, losses = self._values(ids[part])
            checkpoint.whole = False
            self._count(checkpoint, block, windows, part, values, losses)
            checkpoint.index += len(part)
            counts["windows"] += len(part)
            counts["tokens"] += len(part) * config.length
            if checkpoint.index == len(rows):
                self._end(block, windows, checkpoint)
            checkpoint.whole = True
            checkpoint.seconds += time.perf_counter() - began
            yield
            if (checkpoint.shard, checkpoint.block) != (block.shard, block.number):
                return
        self._end(block, windows, checkpoint)
        yield

    def _end(self, block: Block, windows: Windows | None, checkpoint: Checkpoint) -> None:
        counts = checkpoint.counts
        counts["documents"] += block.documents
        counts["characters"] += block.characters
        if windows is not None:
            counts["duplicates"] += windows.duplicates
            counts["short"] += windows.short
        counts["blocks"] += 1
        checkpoint.problems = Problems.total([checkpoint.problems, block.problems])
        checkpoint.block, checkpoint.index = block.number + 1, 0

    @property
    def _chunk(self) -> int:
        """Windows that are taken in at a time: a few passes' worth, as counting has a cost of its own."""
        waiting = WAITING.get(self.model.device.type, WAITING["cpu"])
        passes = waiting // max(1, self.features * self.bulk.size)
        most = max(PASSES, FEW // self.bulk.size) if self.features >= MANY else PASSES
        return self.bulk.size * max(1, min(passes, most))

    def _values(self, ids: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Of windows `[B, n]`: values `[B, F]`, of the banks side by side, and cross-entropies `[B]` if measured."""
        values = torch.empty(len(ids), self.features, device=self.model.device)
        losses = torch.empty(len(ids), device=self.model.device) if self.bulk.cross_entropy else None
        for rows, found in self.bulk.passes(ids):
            start = 0
            for some in found.values:
                values[rows, start : start + some.shape[1]] = some  # from whichever device
                start += some.shape[1]
            if losses is not None:
                losses[rows] = found.cross_entropy  # pyright: ignore[reportArgumentType]
        return values, losses

    def _count(
        self,
        checkpoint: Checkpoint,
        block: Block,
        windows: Windows,
        rows: np.ndarray,
        values: torch.Tensor,
        losses: torch.Tensor | None,
    ) -> None:
        """Take in some windows of a block: values `[B, F]`, cross-entropies `[B]`."""
        first = first_number(block.shard, block.number)
        device = self.model.device
        numbers = first + rows
        hashes = to_device(windows.hashes[rows], device)
        kept = to_host(checkpoint.stats.add(values, to_device(numbers, device), hashes, losses))[0]
        checkpoint.sample.add(values, numbers)
        new = np.union1d(kept, checkpoint.sample.number[checkpoint.sample.number >= numbers[0]]) - first
        of_all = None
        if losses is not None:
            of_all = np.full(len(windows), np.nan, np.float32)
            of_all[rows] = to_host(losses)[0]
        checkpoint.store.add(block, windows, new, of_all)
        if len(checkpoint.store) > max(LEAST_STORED, 2 * checkpoint.store.kept):
            checkpoint.prune()

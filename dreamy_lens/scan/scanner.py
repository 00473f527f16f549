"""Scanner: one pass over a corpus, or a part of it, for many features at once."""

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
from dreamy_lens.scan.config import ScanConfig, check_memory
from dreamy_lens.scan.feature_stats import FeatureStats
from dreamy_lens.scan.sampling import WindowSample, draw_windows, windows_per_block
from dreamy_lens.scan.window_store import WindowStore, first_number
from dreamy_lens.scoring.feature_bank import FeatureBank
from dreamy_lens.scoring.prompts import PromptFrame
from dreamy_lens.scoring.window_scorer import TRIAL_ROWS, WindowScorer

BUFFERED_VALUES = {"cpu": 1 << 26, "cuda": 1 << 26}
"""Largest number of values to collect before counting them, by kind of device; each counting has a fixed cost."""

MAX_PASSES = 8
"""Largest number of forward passes between two points at which a scan can be stopped or saved."""

MANY_FEATURES, MIN_CHUNK = 1 << 15, 512
"""With at least `MANY_FEATURES` features, at least `MIN_CHUNK` windows are counted together."""

MIN_STORED = 1 << 14
"""Number of stored windows from which the scanner removes those that no feature refers to any more."""

MAX_SAMPLED_VALUES = 1 << 28
"""Largest number of values on sampled windows to keep."""


class Scanner:
    """Scanner of the blocks of a corpus.

    Args:
        banks: Features to scan for.
        model: Model whose activations the features read.
        corpus: Corpus to scan.
        config: Settings of the scan.
        fluency: Model whose cross-entropy is measured; None is `model`.

    Attributes:
        features: Number of features in all banks.
        frame: Tokens around every window, and the fluency model.
        scorer: Scorer of windows.
        shares: Number of windows to scan of each block, by shard and block; None scans all windows.

    Raises:
        SettingsError: The windows are longer than the context of a model, or the statistics do not fit in memory.
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
        check_memory(self.features, config.k)
        prepend = bool(model.bos(config.prepend_bos))
        self.frame = PromptFrame(fluency or model, prepend)
        self.scorer = WindowScorer(banks, model, self.frame, config.length, config.cross_entropy, config.batch_size)
        if config.cross_entropy:
            self.scorer.layout.check()
        self.shares: dict[tuple[int, int], int] | None = None

    def new_checkpoint(self) -> Checkpoint:
        """Return the checkpoint of a scan that has not begun."""
        config, device = self.config, self.model.device
        size = max(0, min(config.sample, MAX_SAMPLED_VALUES // max(self.features, 1)))
        return Checkpoint(
            FeatureStats.empty(self.features, config.k, config.cross_entropy, device),
            WindowSample.empty(size, self.features, config.seed or 0, device),
            WindowStore(config.length, config.context),
        )

    @property
    def needs_preparation(self) -> bool:
        """True if the corpus has to be read once before the scan, to draw a random part of it."""
        config = self.config
        return config.tokens is not None and config.seed is not None and self.shares is None

    def prepare(self) -> None:
        """Choose the number of windows to scan of each block, if the scan is of a random part of the corpus.

        Raises:
            CorpusError: The corpus can be read only once.
        """
        config = self.config
        if not self.needs_preparation or config.tokens is None or config.seed is None:
            return
        if self.corpus.single_pass:
            raise CorpusError(
                f"{self.corpus.name} can be read only once, and drawing a random part of it needs two readings. Take "
                "its first tokens with seed=None; or give a list, or a function that returns a new iterator."
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
        """Continue a scan from a checkpoint.

        Args:
            checkpoint: Results so far; the scan adds to them in place.
            shards: Shards to scan; None is all shards from the checkpoint's on.
            until: Number of the block of a shard before which to stop; None is the end of the shard.
            after: Function that is called after every few forward passes, when all their windows are counted and
                `checkpoint` can be saved. If it returns True, the scan ends.

        Returns:
            Whether the scan reached its end.

        Raises:
            CorpusError: No shard could be read, or a corpus that can be read only once has been read already.
        """
        self.prepare()
        todo = range(checkpoint.shard, len(self.corpus.shards)) if shards is None else shards
        with self.scorer.keep_hooks():
            for shard in todo:
                if shard != checkpoint.shard:
                    checkpoint.shard, checkpoint.block, checkpoint.index = shard, 0, 0
                for block, windows in self._read(shard, checkpoint.block, checkpoint):
                    if until is not None and block.number >= until:
                        break
                    if self._has_first_tokens(checkpoint):
                        return True
                    for _ in self._take(block, windows, checkpoint):
                        if after(checkpoint, block):
                            return False
                checkpoint.shard, checkpoint.block, checkpoint.index = shard + 1, 0, 0
        failed = [name for name in self.corpus.shards if name in checkpoint.failed]
        if failed and len(failed) == len(self.corpus.shards) and not checkpoint.counts["windows"]:
            raise CorpusError(
                f"No part of {self.corpus.name} could be read. {failed[0]}: {checkpoint.failed[failed[0]]}"
            )
        if shards is None and not checkpoint.counts["windows"]:
            self._explain_no_windows(checkpoint)
        return True

    def _explain_no_windows(self, checkpoint: Checkpoint) -> None:
        """Raise CorpusError if the reason why no window was scanned is known."""
        counts, name = checkpoint.counts, self.corpus.name
        if self.corpus.single_pass and not counts["documents"] and not checkpoint.problems and not checkpoint.failed:
            raise CorpusError(
                f"{name} gave no text. It can be read only once, and may have been read already. Make a new one; or "
                "give a list, or a function that returns a new iterator, which can be read again."
            )
        if self.shares is not None and counts["documents"]:
            raise CorpusError(
                f"None of the {self.config.tokens:,} tokens that were drawn from {name} is in a window of "
                f"{self.config.length} tokens: most of its documents are shorter. Ask for more tokens, or a smaller "
                "length."
            )

    def _has_first_tokens(self, checkpoint: Checkpoint) -> bool:
        """Return whether a scan of the first tokens of a corpus has all of them."""
        config = self.config
        return (
            config.tokens is not None
            and config.seed is None
            and checkpoint.counts["tokens"] + config.length > config.tokens
        )

    def _share(self, block: Block) -> int | None:
        """Return the number of windows of a block to scan; None is all."""
        return None if self.shares is None else self.shares.get((block.shard, block.number), 0)

    def _read(self, shard: int, start: int, checkpoint: Checkpoint) -> Iterator[tuple[Block, Windows | None]]:
        """Yield the blocks of a shard and their windows; None stands for windows of which none is scanned.

        A second thread reads the next block and cuts its windows while the model scans the current block.
        """
        blocks: Iterator[Block] | None = None

        def next_block() -> tuple[Block, Windows | None] | None:
            nonlocal blocks
            blocks = iter(self.corpus.blocks(shard, start)) if blocks is None else blocks
            block = next(blocks, None)
            if block is None:
                return None
            if self._share(block) == 0:
                return block, None
            return block, cut_windows(block, self.model.vocabulary, self.config.windows)

        with ThreadPoolExecutor(1, "dreamy-lens-reader") as reader:
            pending = reader.submit(next_block)
            while True:
                try:
                    block_and_windows = pending.result()
                except Exception as error:  # any error ends this shard only: others may be readable
                    name = self.corpus.shards[shard]
                    checkpoint.failed[name] = f"{type(error).__name__}: {error}"
                    return
                if block_and_windows is None:
                    return
                pending = reader.submit(next_block)
                yield block_and_windows

    def _take(self, block: Block, windows: Windows | None, checkpoint: Checkpoint) -> Iterator[None]:
        """Scan a block, a few passes at a time; at each yield, `checkpoint` is consistent."""
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
            self.scorer.prepare(ids[rows[:TRIAL_ROWS]])
            part = rows[checkpoint.index : checkpoint.index + self._chunk]
            values, losses = self._values(ids[part])
            checkpoint.consistent = False
            self._count(checkpoint, block, windows, part, values, losses)
            checkpoint.index += len(part)
            counts["windows"] += len(part)
            counts["tokens"] += len(part) * config.length
            if checkpoint.index == len(rows):
                self._end(block, windows, checkpoint)
            checkpoint.consistent = True
            checkpoint.seconds += time.perf_counter() - began
            yield
            if (checkpoint.shard, checkpoint.block) != (block.shard, block.number):
                return
        self._end(block, windows, checkpoint)
        yield

    def _end(self, block: Block, windows: Windows | None, checkpoint: Checkpoint) -> None:
        """Count a block as scanned, and move the checkpoint to the next one."""
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
        """Number of windows to count at a time: those of a few passes, since each counting has a fixed cost."""
        buffered = BUFFERED_VALUES.get(self.model.device.type, BUFFERED_VALUES["cpu"])
        passes = buffered // max(1, self.features * self.scorer.size)
        most = max(MAX_PASSES, MIN_CHUNK // self.scorer.size) if self.features >= MANY_FEATURES else MAX_PASSES
        return self.scorer.size * max(1, min(passes, most))

    def _values(self, ids: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return values `[B, F]`, all banks side by side, and measured cross-entropies `[B]` of windows `[B, n]`."""
        values = torch.empty(len(ids), self.features, device=self.model.device)
        losses = torch.empty(len(ids), device=self.model.device) if self.scorer.cross_entropy else None
        for rows, scores in self.scorer.passes(ids):
            start = 0
            for bank_values in scores.values:
                values[rows, start : start + bank_values.shape[1]] = bank_values  # copies from another device if needed
                start += bank_values.shape[1]
            if losses is not None:
                losses[rows] = scores.cross_entropy  # pyright: ignore[reportArgumentType]
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
        """Add windows of a block to the results, with values `[B, F]` and cross-entropies `[B]`."""
        first = first_number(block.shard, block.number)
        device = self.model.device
        numbers = first + rows
        hashes = to_device(windows.hashes[rows], device)
        kept = to_host(checkpoint.stats.add(values, to_device(numbers, device), hashes, losses))[0]
        checkpoint.sample.add(values, numbers)
        new = np.union1d(kept, checkpoint.sample.number[checkpoint.sample.number >= numbers[0]]) - first
        cross_entropy = None
        if losses is not None:
            cross_entropy = np.full(len(windows), np.nan, np.float32)
            cross_entropy[rows] = to_host(losses)[0]
        checkpoint.store.add(block, windows, new, cross_entropy)
        if len(checkpoint.store) > max(MIN_STORED, 2 * checkpoint.store.kept):
            checkpoint.prune()

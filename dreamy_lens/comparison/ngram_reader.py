"""Dreams' text in a whole corpus: one streaming pass, in memory that does not grow with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dreamy_lens._host import progress_bar
from dreamy_lens.comparison.ngrams import NgramIndex
from dreamy_lens.corpus.corpus import Block, Corpus
from dreamy_lens.corpus.tokenizing import encode_sections
from dreamy_lens.models.vocabulary import Vocabulary


def in_corpus(
    prompts: Sequence[Sequence[int]], corpus: Corpus, vocabulary: Vocabulary, progress: bool | None = None
) -> NgramIndex:
    """The longest runs of tokens that prompts share with a corpus.

    Args:
        prompts: ids of each.
        corpus: what :func:`dreamy_lens.corpus.open` gives; every block of it is read.
        vocabulary: turns text into ids.
        progress: whether to show a bar; None shows one in terminals and notebooks.
    """
    grams, shards = NgramIndex(prompts), len(corpus.shards)
    longest = max(map(len, prompts), default=1)
    with progress_bar(progress, total=1.0, desc="reading", bar_format="{desc}: {percentage:3.0f}%|{bar}|") as bar:
        for shard in range(shards):
            before: _Tail | None = None
            for block in corpus.blocks(shard):
                before = _feed(grams, block, vocabulary, longest, before)
                bar.update((shard + (block.done or 0.0)) / shards - bar.n)
            bar.update((shard + 1) / shards - bar.n)
    return grams


class _Tail:
    """The end of a section whose document may go on: a run of tokens can lie across the cut."""

    def __init__(self, document: str, stop: int, ids: np.ndarray) -> None:
        self.document, self.stop, self.ids = document, stop, ids


def _feed(grams: NgramIndex, block: Block, vocabulary: Vocabulary, longest: int, before: _Tail | None) -> _Tail | None:
    """Look at one block; gives the end of its last section."""
    tokens, bounds = encode_sections([section.text for section in block.sections], vocabulary)
    pieces: list[np.ndarray] = []
    tails: list[tuple[np.ndarray, str]] = []
    for i, section in enumerate(block.sections):
        ids = tokens[bounds[i] : bounds[i + 1]]
        if before is not None and section.start and (section.document, section.start) == (before.document, before.stop):
            tails.append((before.ids, section.document))
            ids = np.concatenate([before.ids, ids])
        pieces.append(ids)
        last = ids[len(ids) - min(longest - 1, len(ids)) :]
        before = _Tail(section.document, section.start + len(section.text), last)
    grams.feed(pieces, [section.document for section in block.sections])
    if tails:  # what lies in a tail alone was counted with the section that it is of
        grams.feed([ids for ids, _ in tails], [document for _, document in tails], times=-1)
    return before

"""Search for the text of prompts in a whole corpus, in one pass whose memory does not grow with the corpus."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dreamy_lens._host import progress_bar
from dreamy_lens.comparison.ngrams import NgramIndex
from dreamy_lens.corpus.corpus import Block, Corpus
from dreamy_lens.corpus.tokenizing import encode_sections
from dreamy_lens.models.vocabulary import Vocabulary


def index_corpus(
    prompts: Sequence[Sequence[int]], corpus: Corpus, vocabulary: Vocabulary, progress: bool | None = None
) -> NgramIndex:
    """Read a corpus, and return the index of the n-grams that prompts share with it.

    Args:
        prompts: Token ids of each prompt.
        corpus: Corpus from :func:`dreamy_lens.corpus.open`; every block of it is read.
        vocabulary: Vocabulary that encodes the text of the corpus.
        progress: Whether to show a progress bar; None shows it in terminals and notebooks.
    """
    index, shards = NgramIndex(prompts), len(corpus.shards)
    longest = max(map(len, prompts), default=1)
    with progress_bar(progress, total=1.0, desc="reading", bar_format="{desc}: {percentage:3.0f}%|{bar}|") as bar:
        for shard in range(shards):
            before: _Tail | None = None
            for block in corpus.blocks(shard):
                before = _feed(index, block, vocabulary, longest, before)
                bar.update((shard + (block.done or 0.0)) / shards - bar.n)
            bar.update((shard + 1) / shards - bar.n)
    return index


class _Tail:
    """End of a section whose document may continue in the next section: an n-gram can lie across the cut.

    Attributes:
        document: Name of the document.
        stop: Character of the document at which the section ends.
        ids: Last token ids of the section.
    """

    def __init__(self, document: str, stop: int, ids: np.ndarray) -> None:
        self.document, self.stop, self.ids = document, stop, ids


def _feed(index: NgramIndex, block: Block, vocabulary: Vocabulary, longest: int, before: _Tail | None) -> _Tail | None:
    """Feed one block to an index.

    Args:
        index: Index of n-grams.
        block: Block of a corpus.
        vocabulary: Vocabulary that encodes text.
        longest: Number of tokens of the longest prompt.
        before: End of the section before this block; None at the start of a shard.

    Returns:
        End of the last section of the block.
    """
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
    index.feed(pieces, [section.document for section in block.sections])
    if tails:  # n-grams within a tail were already counted with its own section
        index.feed([ids for ids, _ in tails], [document for _, document in tails], times=-1)
    return before

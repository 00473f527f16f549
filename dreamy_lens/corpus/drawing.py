"""Short passages of a corpus, for contexts in which a prompt is scored."""

from __future__ import annotations

import numbers
import re
from typing import Any

import numpy as np

from dreamy_lens.corpus.sources import open_corpus
from dreamy_lens.errors import CorpusError, SettingsError, quoted

READ = 4_000_000
"""Most characters of a corpus that are read to choose passages from."""


def passages(source: Any, count: int = 8, *, words: int = 12, seed: int = 0) -> list[str]:
    """Draw passages of a corpus at random: whole words that follow each other in a text.

    They serve as contexts before a prompt: `dl.constraints.contexts(dl.corpus.passages("stories/"))`.

    Args:
        source: Anything that :func:`dreamy_lens.corpus.open` takes.
        count: Number of passages.
        words: Number of words of a passage.
        seed: Seed of the random choice. The same corpus and seed give the same passages.

    Returns:
        The passages, all different.

    Raises:
        CorpusError: The corpus cannot be read, or its beginning has too few passages of that length.
        SettingsError: `count` or `words` is not a whole number of at least 1.

    >>> from dreamy_lens import corpus
    >>> corpus.passages(["one two three four", "five six seven"], 2, words=3, seed=1)
    ['one two three', 'two three four']
    """
    for name, value in (("count", count), ("words", words)):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
            raise SettingsError(f"{name} is {quoted(value)}; it is a whole number of at least 1.")
    blocks = list(open_corpus(source).first_blocks(READ))
    texts, read = [section.text for block in blocks for section in block.sections], sum(b.characters for b in blocks)
    found = [[(m.start(), m.end()) for m in re.finditer(r"\S+", text)] for text in texts]
    counts = np.array([max(0, len(spans) - words + 1) for spans in found], dtype=np.int64)
    starts, total = np.cumsum(counts) - counts, int(counts.sum())
    chosen: dict[str, None] = {}
    # Passages may overlap. Equal ones are drawn again; a corpus that has few different ones ends the search.
    for number in np.random.default_rng(seed).permutation(total) if total <= READ else _draws(total, seed):
        at = int(np.searchsorted(starts, number, side="right") - 1)
        spans, first = found[at], int(number - starts[at])
        passage = texts[at][spans[first][0] : spans[first + words - 1][1]]
        if "{dream}" not in passage:
            chosen.setdefault(passage)
        if len(chosen) == count:
            return list(chosen)
    raise CorpusError(
        f"The corpus has only {len(chosen)} different passages of {words} words in its first {read:,} characters, and "
        f"{count} are wanted. Ask for fewer or shorter ones, or give a larger corpus."
    )


def _draws(total: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return (rng.integers(total) for _ in range(100_000))

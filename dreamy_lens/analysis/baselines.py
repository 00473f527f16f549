"""Random prompts and corpus windows, and a feature's values on them."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from dreamy_lens.corpus.sources import open_corpus
from dreamy_lens.corpus.windows import WindowSettings, cut_windows
from dreamy_lens.errors import CorpusError, FeatureError
from dreamy_lens.models.hooked_model import keep_hooks
from dreamy_lens.models.vocabulary import Vocabulary
from dreamy_lens.scoring.scorer import Scorer

READ = 4_000_000
"""Most characters of a corpus that are read to draw windows from."""

AT_ONCE = 1024
"""Most prompts that are scored by one call."""


def windows_of_corpus(
    source: Any, vocabulary: Vocabulary, count: int, length: int, seed: int
) -> tuple[Int64[np.ndarray, "windows length"], str]:
    """Draw different windows of a corpus at random, from its first :data:`READ` characters.

    Args:
        source: Anything that :func:`dreamy_lens.corpus.open` takes.
        vocabulary: Vocabulary of the model.
        count: Number of windows; fewer are returned if the corpus has fewer.
        length: Number of tokens of a window.
        seed: Seed of the random choice.

    Returns:
        The windows, and the name of the corpus.

    Raises:
        CorpusError: The corpus cannot be read, or has fewer than two windows of that length.
    """
    corpus = open_corpus(source)
    settings = WindowSettings(length=length, context=0)
    found = [cut_windows(block, vocabulary, settings).ids for block in corpus.first_blocks(READ)]
    rows = np.unique(np.concatenate(found), axis=0) if found else np.zeros((0, length), dtype=np.int64)
    if len(rows) < 2:
        raise CorpusError(
            f"The corpus has {len(rows)} different windows of {length} tokens, and a baseline needs at least 2. Give "
            "more text, or a smaller length."
        )
    chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
    return rows[chosen], corpus.name


def values_of(scorer: Scorer, rows: Int64[np.ndarray, "B length"]) -> Float32[np.ndarray, " B"]:
    """Return the finite values of prompts.

    Raises:
        FeatureError: Fewer than two values are finite.
    """
    with keep_hooks(scorer.models):
        parts = [scorer.values(rows[i : i + AT_ONCE]) for i in range(0, len(rows), AT_ONCE)]
    values = np.concatenate(parts).astype(np.float32)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        raise FeatureError(
            f"{scorer.bound.feature.label} has no finite value on prompts that were not optimised, so it has no "
            "baseline."
        )
    return values

"""Dreams' text in a whole corpus: one streaming pass, whatever its length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from dreamy_lens.comparison.grams import Grams
from dreamy_lens.errors import PromptError

_PIECE = 256  # texts that are tokenised in one call


def in_corpus(prompts: Sequence[Sequence[int]], corpus: Any, vocabulary: Any) -> Grams:
    """The longest runs of tokens that prompts share with a corpus.

    Args:
        prompts: ids of each.
        corpus: what :func:`dreamy_lens.corpus.open` gives, or an iterable of texts.
        vocabulary: turns text into ids; a text that it cannot read is passed over.
    """
    grams = Grams(prompts)
    for names, texts in _pieces(corpus):
        ids = _encoded(texts, vocabulary)
        grams.feed([np.asarray(i, dtype=np.int64) for i in ids], names)
    return grams


def _pieces(corpus: Any) -> Iterator[tuple[list[str], list[str]]]:
    """Names of documents and their texts, some at a time."""
    if hasattr(corpus, "blocks") and hasattr(corpus, "shards"):
        for shard in range(len(corpus.shards)):
            for block in corpus.blocks(shard):
                yield [s.document for s in block.sections], [s.text for s in block.sections]
        return
    names: list[str] = []
    texts: list[str] = []
    for number, one in enumerate(_texts(corpus)):
        names.append(str(getattr(one, "source", f"text {number}")))
        texts.append(str(getattr(one, "text", one)))
        if len(texts) == _PIECE:
            yield names, texts
            names, texts = [], []
    if texts:
        yield names, texts


def _texts(corpus: Any) -> Iterable[Any]:
    return [corpus] if isinstance(corpus, str) else corpus


def _encoded(texts: list[str], vocabulary: Any) -> list[list[int]]:
    encode: Callable[[list[str]], list[list[int]]] = vocabulary.encode_many
    try:
        return encode(texts)
    except PromptError:  # one of them cannot be read; the others can
        found: list[list[int]] = []
        for text in texts:
            try:
                found.append(vocabulary.encode(text))
            except PromptError:
                found.append([])
        return found

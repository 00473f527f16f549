"""Texts to ids and back to places in the text, many at a time and as fast as the tokenizer can."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Int

from dreamy_lens.models.vocabulary import REPLACEMENT, Vocabulary

_fast: WeakKeyDictionary[Vocabulary, bool] = WeakKeyDictionary()  # whether the short way gives the same ids


def encode_sections(
    texts: Sequence[str], vocabulary: Vocabulary
) -> tuple[Int[np.ndarray, " tokens"], Int[np.ndarray, " texts_and_end"]]:
    """Return the ids of all texts, one after the other, and where each text begins, followed by the end.

    The ids are those of `Vocabulary.encode_many`. A tokenizer written in Rust is asked directly, without the offsets
    that Hugging Face asks for and throws away, if that gave the same for the first texts of the vocabulary.
    """
    backend = _backend(vocabulary)
    if backend is None or _fast.get(vocabulary) is False:
        ids = vocabulary.encode_many(texts)
    else:
        ids = [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        if vocabulary not in _fast and texts:
            expected = vocabulary.encode_many(texts)
            _fast[vocabulary] = ids == expected
            ids = expected
    lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    bounds = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    return np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int32, count=int(bounds[-1])), bounds


def _backend(vocabulary: Vocabulary) -> Any:
    """The Rust tokenizer, if there is one that neither pads nor truncates just now."""
    tokenizer = vocabulary.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None) if getattr(tokenizer, "is_fast", False) else None
    if backend is None or not hasattr(backend, "encode_batch_fast"):
        return None
    return None if backend.padding is not None or backend.truncation is not None else backend


def character_offsets(text: str, places: Sequence[tuple[int, Any]], vocabulary: Vocabulary) -> list[int]:
    """Return the offsets in a text, in characters, at which runs of its tokens begin.

    Args:
        text: Text of the whole section, since tokens depend on what is around them.
        places: Index of the first token and ids of each run.
        vocabulary: Vocabulary of the model.

    Returns:
        For each run the offset at which its text stands, if it begins with a whole character; else the offset of the
        character that it begins inside of.
    """
    tokenizer = vocabulary.tokenizer
    if getattr(tokenizer, "is_fast", False):
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        starts = np.array(found["offset_mapping"], dtype=np.int64).reshape(-1, 2)[:, 0]
        guesses = [int(starts[first]) for first, _ in places]
    else:  # all that a tokenizer written in Python tells is what the tokens before read as
        ids = vocabulary.encode(text)
        guesses = [len(vocabulary.text(ids[:first]).rstrip(REPLACEMENT)) for first, _ in places]
    return [_adjusted_offset(text, guess, run, vocabulary) for guess, (_, run) in zip(guesses, places, strict=True)]


def _adjusted_offset(text: str, guess: int, ids: Sequence[int], vocabulary: Vocabulary) -> int:
    """The offset next to a guess at which the ids' text stands: some tokenizers leave the space of a word out."""
    reads = vocabulary.text(ids).rstrip(REPLACEMENT)
    for offset in (guess, guess - 1, guess + 1, guess - 2, guess + 2):
        if reads and 0 <= offset <= len(text) and text.startswith(reads, offset):
            return offset
    return guess

"""Token ids of many texts at once, and the offsets in the text at which tokens begin."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Int

from dreamy_lens.models.vocabulary import REPLACEMENT, Vocabulary

# Whether the direct call of a vocabulary's Rust tokenizer gives the ids of `Vocabulary.encode_many`.
_is_direct_exact: WeakKeyDictionary[Vocabulary, bool] = WeakKeyDictionary()


def encode_sections(
    texts: Sequence[str], vocabulary: Vocabulary
) -> tuple[Int[np.ndarray, " tokens"], Int[np.ndarray, " texts_and_end"]]:
    """Return the ids of all texts, one text after the other, and the index at which each text begins, then the end.

    The ids are those of `Vocabulary.encode_many`. A tokenizer written in Rust is called directly, which skips the
    offsets that Hugging Face computes and discards, if the direct call gave equal ids for the first texts.
    """
    backend = _backend(vocabulary)
    if backend is None or _is_direct_exact.get(vocabulary) is False:
        ids = vocabulary.encode_many(texts)
    else:
        ids = [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        if vocabulary not in _is_direct_exact and texts:
            expected = vocabulary.encode_many(texts)
            _is_direct_exact[vocabulary] = ids == expected
            ids = expected
    lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    bounds = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    return np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int32, count=int(bounds[-1])), bounds


def _backend(vocabulary: Vocabulary) -> Any:
    """Return the Rust tokenizer of a vocabulary, or None if there is none or it currently pads or truncates."""
    tokenizer = vocabulary.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None) if getattr(tokenizer, "is_fast", False) else None
    if backend is None or not hasattr(backend, "encode_batch_fast"):
        return None
    return None if backend.padding is not None or backend.truncation is not None else backend


def character_offsets(text: str, runs: Sequence[tuple[int, Any]], vocabulary: Vocabulary) -> list[int]:
    """Return the offsets in a text, in characters, at which runs of its tokens begin.

    Args:
        text: Text of the entire section, because tokens depend on the text around them.
        runs: Index of the first token and the ids of each run.
        vocabulary: Vocabulary of the model.

    Returns:
        For each run, the offset at which its text begins. If the run begins inside a character, the offset of that
        character.
    """
    tokenizer = vocabulary.tokenizer
    if getattr(tokenizer, "is_fast", False):
        encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        starts = np.array(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2)[:, 0]
        guesses = [int(starts[first]) for first, _ in runs]
    else:  # a tokenizer written in Python has no offsets, so the decoded tokens before the run are measured
        ids = vocabulary.encode(text)
        guesses = [len(vocabulary.text(ids[:first]).rstrip(REPLACEMENT)) for first, _ in runs]
    return [_adjusted_offset(text, guess, run, vocabulary) for guess, (_, run) in zip(guesses, runs, strict=True)]


def _adjusted_offset(text: str, guess: int, ids: Sequence[int], vocabulary: Vocabulary) -> int:
    """Return the offset near a guess at which the ids' text begins; some tokenizers leave out the space of a word."""
    decoded = vocabulary.text(ids).rstrip(REPLACEMENT)
    for offset in (guess, guess - 1, guess + 1, guess - 2, guess + 2):
        if decoded and 0 <= offset <= len(text) and text.startswith(decoded, offset):
            return offset
    return guess

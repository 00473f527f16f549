"""Decoding of token ids from the bytes of the tokens, without a model or a tokenizer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

REPLACEMENT = "\ufffd"
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")


class ByteDecoder:
    r"""Decoder of tokens whose bytes are known. Incomplete characters become U+FFFD, as in a tokenizer's decoding.

    Args:
        known: Bytes of each token, by token id.

    >>> reader = ByteDecoder({1: b" caf", 2: b"\xc3", 3: b"\xa9"})
    >>> reader.text([1, 2, 3]), reader.tokens([2])
    (' café', ['�'])
    """

    def __init__(self, known: Mapping[int, bytes]) -> None:
        self._known = dict(known)

    def text(self, ids: Iterable[int]) -> str:
        """Return the text of token ids."""
        return b"".join(self._known.get(int(i), b"") for i in ids).decode("utf-8", "replace")

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Return the text of each token by itself."""
        return [self.text([i]) for i in ids]


def token_bytes(vocabulary: Any, token: int) -> bytes:
    """Return the bytes that a token adds to a text, as far as its tokenizer reveals them.

    Args:
        vocabulary: Vocabulary of the model, a :class:`dreamy_lens.models.vocabulary.Vocabulary`.
        token: Id of the token.
    """
    piece = vocabulary.piece(token)
    if REPLACEMENT in piece:
        # The token is part of a character. Its name gives the bytes, in byte-level BPE or in SentencePiece's notation.
        name = vocabulary.tokenizer.convert_ids_to_tokens(int(token))
        match = _BYTE.fullmatch(name)
        if match:
            return bytes([int(match[1], 16)])
        alphabet = _alphabet()
        if all(c in alphabet for c in name):
            return bytes(alphabet[c] for c in name)
    return piece.encode("utf-8", "replace")


@cache
def _alphabet() -> dict[str, int]:
    """Return the byte of each character in token names of byte-level BPE; printable characters are their own byte."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(plain)]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}

"""Texts of windows from the bytes of their tokens, with no model and no tokenizer at hand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

REPLACEMENT = "\ufffd"
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")


class ByteDecoder:
    r"""Reads tokens whose bytes are known. Half characters become U+FFFD, as in a tokenizer's own decoding.

    Args:
        known: bytes by token id.

    >>> reader = ByteDecoder({1: b" caf", 2: b"\xc3", 3: b"\xa9"})
    >>> reader.text([1, 2, 3]), reader.tokens([2])
    (' café', ['�'])
    """

    def __init__(self, known: Mapping[int, bytes]) -> None:
        self._known = dict(known)

    def text(self, ids: Iterable[int]) -> str:
        """The text that ids stand for."""
        return b"".join(self._known.get(int(i), b"") for i in ids).decode("utf-8", "replace")

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Each token by itself."""
        return [self.text([i]) for i in ids]


def token_bytes(vocabulary: Any, token: int) -> bytes:
    """The bytes that a token adds to a text, as far as its tokenizer lets them be known.

    Args:
        vocabulary: a :class:`dreamy_lens.models.vocabulary.Vocabulary`.
        token: its id.
    """
    piece = vocabulary.piece(token)
    if REPLACEMENT in piece:
        # Part of a character: its name has the bytes, in the alphabet of byte-level BPE or SentencePiece's writing.
        name = vocabulary.tokenizer.convert_ids_to_tokens(int(token))
        found = _BYTE.fullmatch(name)
        if found:
            return bytes([int(found[1], 16)])
        alphabet = _alphabet()
        if all(c in alphabet for c in name):
            return bytes(alphabet[c] for c in name)
    return piece.encode("utf-8", "replace")


@cache
def _alphabet() -> dict[str, int]:
    """The byte that each character stands for in the names of byte-level BPE: printable ones for themselves."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(plain)]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}

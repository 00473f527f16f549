"""Cutting long documents into sections, the same way wherever reading begins.

A section is at most :data:`SECTION` characters. It ends after a line break if there is one in its last quarter, else
before white space, so that the next section begins with the space of its first word, as tokenizers like it; else after
its last whole character. Only the text from the section's start decides, so reading can be taken up at any section.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

SECTION = 1 << 16
"""The most characters (bytes, where a file is cut before it is decoded) that a section has."""

BLOCK = 1 << 18
"""A block is complete when its sections have this many bytes of UTF-8. With one section more, and a token for every
byte, it has fewer windows than the 2**20 that a window's number has room for."""

REPLACEMENT = "\ufffd"

_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")  # NUL, and halves of surrogate pairs, which have no UTF-8
_SPACE = re.compile(r"\s")


def cut_text(text: str) -> Iterator[tuple[int, str]]:
    """The sections of a text: (offset in characters, section), which together are the text.

    >>> [(start, len(section)) for start, section in cut_text("word " * 20_000)]
    [(0, 65534), (65534, 34466)]
    """
    start = 0
    while len(text) - start > SECTION:
        stop = start + _end_of_section(text[start : start + SECTION])
        yield start, text[start:stop]
        start = stop
    if start < len(text):
        yield start, text[start:] if start else text


def _end_of_section(text: str) -> int:
    """Where the first section of a text that is longer than a section ends."""
    line = text.rfind("\n", SECTION - SECTION // 4, SECTION)
    if line >= 0:
        return line + 1
    for character, behind in ((" ", 0), ("\n", 1), ("\t", 0)):
        at = text.rfind(character, SECTION // 2, SECTION)
        if at >= 0:
            return at + behind
    spaces = [m.start() for m in _SPACE.finditer(text, SECTION // 2)]
    return spaces[-1] if spaces else SECTION


def end_of_section(data: bytes, start: int) -> int:
    """Where a section ends that begins at `start` of encoded text, of which more than a section is at hand.

    The encoding must keep ASCII, as UTF-8 does. A line break of two characters is not taken apart.
    """
    limit = start + SECTION
    line = data.rfind(b"\n", limit - SECTION // 4, limit)
    if line >= 0:
        return line + 1
    for character, behind in ((b" ", 0), (b"\n", 1), (b"\t", 0)):
        at = data.rfind(character, start + SECTION // 2, limit)
        if at >= 0:
            return at + behind
    end = limit
    while end > limit - 4 and data[end] & 0xC0 == 0x80:  # inside a character of UTF-8
        end -= 1
    if data[end] & 0xC0 == 0x80:
        end = limit  # it is not UTF-8
    return end - (data[end - 1 : end + 1] == b"\r\n")


def clean(text: str) -> tuple[str, int, int]:
    r"""A text that every tokenizer can read, its bytes in UTF-8, and how many characters were replaced by U+FFFD.

    >>> clean("a\0b\ud800")
    ('a�b�', 8, 2)
    """
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        pass
    else:
        if "\0" not in text:
            return text, size, 0
    text, replaced = _NOT_TEXT.subn(REPLACEMENT, text)
    return text, len(text.encode()), replaced

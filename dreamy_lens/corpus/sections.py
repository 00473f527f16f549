"""Sections of long documents, cut in the same places wherever reading begins.

A section has at most :data:`SECTION` characters. It ends after a line break, if there is one in its last quarter. Else
it ends before white space, so that the next section begins with a space and a word, as tokenizers expect. Else it ends
after its last complete character. The cut depends only on the text from the section's start, so reading can begin at
any section.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

SECTION = 1 << 16
"""Most characters of a section; most bytes, where a file is cut before it is decoded."""

BLOCK = 1 << 18
"""Bytes of UTF-8 at which a block is complete. Even with one more section, and with one token per byte, a block has
fewer than 2**20 windows, so that the index of a window in its block fits into 20 bits."""

REPLACEMENT = "\ufffd"

_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")  # NUL, and lone surrogates, which UTF-8 cannot encode
_SPACE = re.compile(r"\s")


def cut_text(text: str) -> Iterator[tuple[int, str]]:
    """Yield the sections of a text as (offset in characters, section); joined, they are the text.

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
    """Return the offset at which the first section of a text ends; the text is longer than a section."""
    line_break = text.rfind("\n", SECTION - SECTION // 4, SECTION)
    if line_break >= 0:
        return line_break + 1
    for character, kept in ((" ", 0), ("\n", 1), ("\t", 0)):
        at = text.rfind(character, SECTION // 2, SECTION)
        if at >= 0:
            return at + kept
    spaces = [m.start() for m in _SPACE.finditer(text, SECTION // 2)]
    return spaces[-1] if spaces else SECTION


def end_of_section(data: bytes, start: int) -> int:
    """Return the index at which a section of encoded text ends.

    The cut never falls between the two characters of a Windows line break.

    Args:
        data: Encoded text, with more than one section after `start`. The encoding must keep ASCII, as UTF-8 does.
        start: Index at which the section begins.
    """
    limit = start + SECTION
    line_break = data.rfind(b"\n", limit - SECTION // 4, limit)
    if line_break >= 0:
        return line_break + 1
    for character, kept in ((b" ", 0), (b"\n", 1), (b"\t", 0)):
        at = data.rfind(character, start + SECTION // 2, limit)
        if at >= 0:
            return at + kept
    end = limit
    while end > limit - 4 and data[end] & 0xC0 == 0x80:  # a byte inside a UTF-8 character
        end -= 1
    if data[end] & 0xC0 == 0x80:
        end = limit  # the text is not UTF-8
    return end - (data[end - 1 : end + 1] == b"\r\n")


def clean(text: str) -> tuple[str, int, int]:
    r"""Return a text that every tokenizer can read, its size in UTF-8, and how many characters became U+FFFD.

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

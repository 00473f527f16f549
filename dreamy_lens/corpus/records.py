"""Documents in text files and in JSON files, read from any position.

A position in a file is a plain tuple of three numbers: the offset in decompressed bytes, the number of the document or
line at that offset, and the number of characters of this document that come before the offset.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from dreamy_lens.corpus.corpus import Piece
from dreamy_lens.corpus.problems import Problem
from dreamy_lens.corpus.sections import SECTION, end_of_section
from dreamy_lens.corpus.streams import Stream
from dreamy_lens.corpus.text_field import choose_text_field, explain_no_text

LONGEST_LINE = 1 << 26
"""Bytes of the longest line of JSON that is read, which takes about five times as much memory; longer lines are skipped
piece by piece."""

LARGEST_ARRAY = 1 << 27
"""Bytes of the largest file that may be one JSON array, because such a file is read into memory at once."""

PEEK = 1 << 20
"""Bytes that are read to find out which field of a JSON file holds the text."""

PEEK_ROWS = 100
"""Rows that are read to find out which field of a JSON file holds the text."""

_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_SPACES = b" \t\n\r\v\f"

Note = Callable[[Problem], None]
"""Function that is called with each problem."""

Position = tuple[int, int, int]
"""Offset in decompressed bytes, number of the document or line, characters of the document before the offset."""


def text_pieces(
    stream: Stream, name: str, position: Position, note: Note, separator: str | None, encoding: str
) -> Iterator[Piece]:
    """Yield the sections of a text file: of its one document, or of the documents between separators.

    White space around a document between separators is removed.

    Args:
        stream: Stream over the file that begins at the offset of `position`.
        name: Name of the file.
        position: Position in the file at which to begin.
        note: Function that is called with each problem.
        separator: Text between two documents; None if the file is one document. A line break in it matches the
            file's line breaks, Unix or Windows.
        encoding: Encoding of the file; it must keep ASCII.
    """
    _, number, start = position
    mark = separator.encode(encoding) if separator else b""
    if stream.offset == 0:
        stream.fill(len(_BOM))
        if stream.data[:2] in _UTF16:
            note(Problem(name, "it is UTF-16; convert it to UTF-8", "unreadable file"))
            return
        if stream.data.startswith(_BOM):
            stream.skip(len(_BOM))
    while True:
        if mark and not start:
            _skip_space(stream)
        count = stream.fill(SECTION + 2 * len(mark) + 1)
        if not count:
            return
        data, at = stream.data, stream.at
        end, gap = _find_separator(data, at, mark)
        is_last = end >= 0  # whether the section is the last of its document
        if not is_last:
            is_last = count <= SECTION
            end = at + count if is_last else end_of_section(data, at)
            gap = 0
        raw = data[at:end].rstrip(_SPACES) if mark and is_last else data[at:end]
        document = f"{name}:{number}" if mark else name
        text, invalid = _decode(raw, encoding)
        if invalid is not None:
            why = f"bytes that are not {encoding} were replaced, the first at byte {stream.offset + invalid:,}"
            note(Problem(document, why, "replaced characters"))
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        before = (stream.offset, number, start)
        stream.skip(end - at + gap)
        if is_last:
            number, start = number + (start > 0 or bool(text)), 0
        else:
            start += len(text)
        if text:
            yield Piece(document, before[2], text, before, (stream.offset, number, start))


def _find_separator(data: bytes, at: int, mark: bytes) -> tuple[int, int]:
    """Return (index, length) of the first separator that begins within a section, or (-1, 0) if none does."""
    if not mark:
        return -1, 0
    match = (data.find(mark, at, at + SECTION + len(mark)), len(mark))
    if b"\n" not in mark:
        return match
    windows_mark = mark.replace(b"\n", b"\r\n")
    windows_match = (data.find(windows_mark, at, at + SECTION + len(windows_mark)), len(windows_mark))
    return min((m for m in (match, windows_match) if m[0] >= 0), default=(-1, 0))


def _skip_space(stream: Stream) -> None:
    """Skip white space until the next other character or the end of the file."""
    while stream.fill(1):
        rest = stream.data[stream.at : stream.at + SECTION]
        space = len(rest) - len(rest.lstrip(_SPACES))
        stream.skip(space)
        if space < len(rest):
            return


def _decode(data: bytes, encoding: str) -> tuple[str, int | None]:
    """Return the text, and the index of the first byte that had to be replaced; None if all bytes are valid."""
    try:
        return data.decode(encoding), None
    except UnicodeDecodeError as error:
        return data.decode(encoding, "replace"), error.start


def json_rows(
    stream: Stream, name: str, position: Position, note: Note
) -> Iterator[tuple[int, Any, Position, Position]]:
    """Yield (number, row, position before, position after) of each line of a JSON file; skip lines that are not JSON.

    Args:
        stream: Stream over the file that begins at the offset of `position`.
        name: Name of the file.
        position: Position in the file at which to begin.
        note: Function that is called with each problem.
    """
    offset, number, _ = position
    if stream.offset == 0:
        stream.fill(len(_BOM))
        if stream.data.startswith(_BOM):
            stream.skip(len(_BOM))
    while (line := _line(stream)) is not None:
        before, number = (offset, number, 0), number + 1
        offset = stream.offset
        if not line.strip():
            continue
        label = f"{name}:{number - 1}"
        if len(line) > LONGEST_LINE:
            note(Problem(label, f"the line is longer than {LONGEST_LINE >> 20} MB", "broken line"))
            continue
        text, invalid = _decode(line, "utf-8")
        del line  # a long line and its text are not kept while it is parsed and used
        try:
            row = json.loads(text)
            del text
        except (ValueError, RecursionError) as error:
            why = "it is nested too deeply" if isinstance(error, RecursionError) else f"it is not JSON: {error}"
            note(Problem(label, why, "broken line"))
            continue
        if invalid is not None:
            note(Problem(label, "bytes that are not UTF-8 were replaced", "replaced characters"))
        yield number - 1, row, before, (offset, number, 0)


def _line(stream: Stream) -> bytes | None:
    """Return the next line without its line break, or None after the last line.

    Of a line that is longer than `LONGEST_LINE`, only the first `LONGEST_LINE + 1` bytes are returned.
    """
    wanted, searched = 1 << 16, 0
    while True:
        count = stream.fill(wanted)
        if not count:
            return None
        at = stream.data.find(b"\n", stream.at + searched)
        if at >= 0 or count < wanted:
            if at < 0 and stream.error:  # an incomplete line, which the error already reports
                return None
            end = at if at >= 0 else stream.at + count
            line = stream.data[stream.at : end]
            stream.skip(end - stream.at + (at >= 0))
            return line
        if count > LONGEST_LINE:
            break
        searched, wanted = count, min(2 * count, LONGEST_LINE + 1)
    beginning = stream.data[stream.at : stream.at + LONGEST_LINE + 1]
    while (count := stream.fill(1)) and (at := stream.data.find(b"\n", stream.at)) < 0:
        stream.skip(count)
    if count:
        stream.skip(at - stream.at + 1)
    return beginning


def json_pieces(rows: Iterator[tuple[int, Any, Any, Any]], name: str, field: str, note: Note) -> Iterator[Piece]:
    """Yield the text of each row as a document that is named after the file and the row's number.

    Args:
        rows: Rows as (number, row, position before, position after).
        name: Name of the file.
        field: Field that holds the text.
        note: Function that is called with each problem.
    """
    for number, row, before, after in rows:
        label = f"{name}:{number}"
        text = row.get(field) if isinstance(row, dict) else row
        if isinstance(text, str):
            if text:
                yield Piece(label, 0, text, before, after)
        else:
            note(Problem(label, explain_no_text(row, field), "no text"))


def json_array(stream: Stream, name: str, first: int, note: Note) -> Iterator[tuple[int, Any, int, int]]:
    """Yield (index, row, index, next index) of a file that is one JSON array, from the index `first`.

    Args:
        stream: Stream over the file, from its beginning.
        name: Name of the file.
        first: Index of the first row to yield.
        note: Function that is called with each problem.
    """
    if stream.fill(LARGEST_ARRAY + 1) > LARGEST_ARRAY:
        why = f"it is one JSON array of more than {LARGEST_ARRAY >> 20} MB; write one object per line (.jsonl)"
        note(Problem(name, why, "unreadable file"))
        return
    text, invalid = _decode(stream.data[stream.at :].removeprefix(_BOM), "utf-8")
    if invalid is not None and not first:
        note(Problem(name, "bytes that are not UTF-8 were replaced", "replaced characters"))
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        note(Problem(name, f"it is not JSON: {error}", "unreadable file"))
        return
    for i in range(first, len(rows)):
        yield i, rows[i], i, i + 1


def is_array(stream: Stream, name: str) -> bool:
    """Return whether a JSON file is one array, and not one row per line."""
    if not name.lower().removesuffix(".gz").removesuffix(".zst").endswith(".json"):
        return False
    stream.fill(1 << 12)
    return stream.data[stream.at : stream.at + (1 << 12)].removeprefix(_BOM).lstrip(_SPACES).startswith(b"[")


def json_field(stream: Stream, name: str, wanted: str | None) -> tuple[str | None, str]:
    """Return (field with the text, "") or (None, why there is none), judged by the first rows.

    Args:
        stream: Stream over the file, from its beginning.
        name: Name of the file.
        wanted: Field that the user named, or None.
    """
    stream.fill(PEEK)
    ignore: Note = lambda problem: None  # noqa: E731
    rows: Iterator[Any]
    if is_array(stream, name):
        rows = (row for _, row, _, _ in json_array(stream, name, 0, ignore))
    else:
        rows = (row for _, row, _, _ in json_rows(stream, name, (0, 1, 0), ignore))
    columns: dict[str, bool] = {}
    for _, row in zip(range(PEEK_ROWS), rows, strict=False):
        if isinstance(row, str):
            return wanted or "text", ""  # the row is the text itself
        for key, value in row.items() if isinstance(row, dict) else ():
            columns[key] = columns.get(key, False) or isinstance(value, str)
    return choose_text_field(columns, wanted) if columns else (wanted or "text", "")

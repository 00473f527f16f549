"""Documents in text files and in lines of JSON, read from any place on.

A place in a file is a plain tuple: offset in bytes, decompressed; number of the document or line; characters
of that document before the offset.
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

LONGEST_LINE = 1 << 28
"""Bytes of the longest line of JSON that is read; longer ones are passed over."""

LARGEST_ARRAY = 1 << 28
"""Bytes of the largest file that may be one array of JSON, since it is read as a whole."""

PEEK = 1 << 20
PEEK_ROWS = 100

_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_SPACES = b" \t\n\r\v\f"

Note = Callable[[Problem], None]
Place = tuple[int, int, int]


def text_pieces(
    stream: Stream, name: str, place: Place, note: Note, separator: str | None, encoding: str
) -> Iterator[Piece]:
    """The sections of a text file: one document, or those between separators, without white space around them.

    Args:
        stream: over the file, from the place's offset on.
        name: of the file.
        place: where to begin.
        note: is told of what is passed over or replaced.
        separator: what stands between documents; None if the file is one document. Its line breaks match those of the
            file, whichever it has.
        encoding: of the file, one that keeps ASCII.
    """
    _, number, start = place
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
        end, gap = _find(data, at, mark)
        whole = end >= 0
        if not whole:
            whole = count <= SECTION
            end = at + count if whole else end_of_section(data, at)
            gap = 0
        raw = data[at:end].rstrip(_SPACES) if mark and whole else data[at:end]
        document = f"{name}:{number}" if mark else name
        text, bad = _decode(raw, encoding)
        if bad is not None:
            why = f"bytes that are not {encoding} were replaced, the first at byte {stream.offset + bad:,}"
            note(Problem(document, why, "replaced characters"))
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        before = (stream.offset, number, start)
        stream.skip(end - at + gap)
        if whole:
            number, start = number + (start > 0 or bool(text)), 0
        else:
            start += len(text)
        if text:
            yield Piece(document, before[2], text, before, (stream.offset, number, start))


def _find(data: bytes, at: int, mark: bytes) -> tuple[int, int]:
    """(where the first separator begins, its length) if one begins within a section, else (-1, 0)."""
    if not mark:
        return -1, 0
    found = (data.find(mark, at, at + SECTION + len(mark)), len(mark))
    if b"\n" not in mark:
        return found
    wide = mark.replace(b"\n", b"\r\n")
    other = (data.find(wide, at, at + SECTION + len(wide)), len(wide))
    return min((f for f in (found, other) if f[0] >= 0), default=(-1, 0))


def _skip_space(stream: Stream) -> None:
    while stream.fill(1):
        rest = stream.data[stream.at : stream.at + SECTION]
        space = len(rest) - len(rest.lstrip(_SPACES))
        stream.skip(space)
        if space < len(rest):
            return


def _decode(data: bytes, encoding: str) -> tuple[str, int | None]:
    """The text, and where the first byte is that had to be replaced."""
    try:
        return data.decode(encoding), None
    except UnicodeDecodeError as error:
        return data.decode(encoding, "replace"), error.start


def json_rows(stream: Stream, name: str, place: Place, note: Note) -> Iterator[tuple[int, Any, Place, Place]]:
    """The rows of a file of JSON: (number, row, place before, place after). Lines that are not JSON are passed over."""
    offset, number, _ = place
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
        text, bad = _decode(line, "utf-8")
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            why = "it is nested too deeply" if isinstance(error, RecursionError) else f"it is not JSON: {error}"
            note(Problem(label, why, "broken line"))
            continue
        if bad is not None:
            note(Problem(label, "bytes that are not UTF-8 were replaced", "replaced characters"))
        yield number - 1, row, before, (offset, number, 0)


def _line(stream: Stream) -> bytes | None:
    """The next line without its end; None after the last. Of lines that are too long, a beginning that is too long."""
    want, searched = 1 << 16, 0
    while True:
        count = stream.fill(want)
        if not count:
            return None
        at = stream.data.find(b"\n", stream.at + searched)
        if at >= 0 or count < want:
            if at < 0 and stream.error:  # half a line, of which the error says enough
                return None
            end = at if at >= 0 else stream.at + count
            line = stream.data[stream.at : end]
            stream.skip(end - stream.at + (at >= 0))
            return line
        if count > LONGEST_LINE:
            break
        searched, want = count, 2 * count
    beginning = stream.data[stream.at : stream.at + LONGEST_LINE + 1]
    while (count := stream.fill(1)) and (at := stream.data.find(b"\n", stream.at)) < 0:
        stream.skip(count)
    if count:
        stream.skip(at - stream.at + 1)
    return beginning


def json_pieces(rows: Iterator[tuple[int, Any, Any, Any]], name: str, field: str, note: Note) -> Iterator[Piece]:
    """The texts of rows, each a document that is called after the file and its line."""
    for number, row, before, after in rows:
        label = f"{name}:{number}"
        text = row.get(field) if isinstance(row, dict) else row
        if isinstance(text, str):
            if text:
                yield Piece(label, 0, text, before, after)
        else:
            note(Problem(label, explain_no_text(row, field), "no text"))


def json_array(stream: Stream, name: str, first: int, note: Note) -> Iterator[tuple[int, Any, int, int]]:
    """The rows of a file that is one array of JSON, from an index on."""
    if stream.fill(LARGEST_ARRAY + 1) > LARGEST_ARRAY:
        why = f"it is one array of JSON of more than {LARGEST_ARRAY >> 20} MB; write one object a line (.jsonl)"
        note(Problem(name, why, "unreadable file"))
        return
    text, bad = _decode(stream.data[stream.at :].removeprefix(_BOM), "utf-8")
    if bad is not None and not first:
        note(Problem(name, "bytes that are not UTF-8 were replaced", "replaced characters"))
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        note(Problem(name, f"it is not JSON: {error}", "unreadable file"))
        return
    for i in range(first, len(rows)):
        yield i, rows[i], i, i + 1


def is_array(stream: Stream, name: str) -> bool:
    """Whether a file of JSON is one array rather than a row of lines."""
    if not name.lower().removesuffix(".gz").removesuffix(".zst").endswith(".json"):
        return False
    stream.fill(1 << 12)
    return stream.data[stream.at : stream.at + (1 << 12)].removeprefix(_BOM).lstrip(_SPACES).startswith(b"[")


def json_field(stream: Stream, name: str, wanted: str | None) -> tuple[str | None, str]:
    """(the field with the texts, or None; why there is none, or ""), judged by the first rows."""
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
            return wanted or "text", ""  # a line that is nothing but a text
        for key, value in row.items() if isinstance(row, dict) else ():
            columns[key] = columns.get(key, False) or isinstance(value, str)
    return choose_text_field(columns, wanted) if columns else (wanted or "text", "")

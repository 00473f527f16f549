"""Shards of a corpus that read files: text, JSON and Parquet."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from dreamy_lens.corpus.corpus import Piece, Shard
from dreamy_lens.corpus.paths import File
from dreamy_lens.corpus.problems import Problem
from dreamy_lens.corpus.records import Note, is_array, json_array, json_field, json_pieces, json_rows, text_pieces
from dreamy_lens.corpus.streams import UNREADABLE, error_line, open_stream
from dreamy_lens.corpus.text_field import choose_text_field, explain_no_text
from dreamy_lens.errors import CorpusError

SMALL = 8 << 20
"""Most bytes of several neighbouring files that make one shard."""

BATCH = 1 << 20
"""Bytes of rows of a Parquet file that are decoded at once."""


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading files.

    Attributes:
        text_field: Field or column with the texts; None takes "text", else "content", else the only one with strings.
        separator: Text between the documents of a text file; None if a file is one document.
        encoding: Encoding of text files; it must keep ASCII.
    """

    text_field: str | None = None
    separator: str | None = None
    encoding: str = "utf-8"


class FileShard(Shard):
    """Shard of one file, or of several small ones.

    A point of the shard is (index of the file, position in the file, stored bytes of the file that were read).
    """

    def __init__(self, files: Sequence[File], settings: ReadOptions) -> None:
        self.files, self.settings = tuple(files), settings
        last = f" … {files[-1].name} ({len(files)} files)" if len(files) > 1 else ""
        self.name = files[0].name + last
        self._before = [0, *accumulate(file.size for file in files)]
        self.size = self._before[-1]
        self._fields: dict[int, tuple[str | None, str]] = {}

    def pieces(self, point: Any, note: Note) -> Iterator[Piece]:
        """Yield the documents of the files, one file after the other, from a point."""
        first, position, _ = point or (0, None, 0)
        for i in range(first, len(self.files)):
            file = self.files[i]
            read = None
            try:
                for piece, read in self._pieces_of(i, position if i == first else None, note):
                    yield piece._replace(at=(i, piece.at, read), after=(i, piece.after, read))
            except UNREADABLE as error:
                if file.remote and _is_temporary(error):
                    raise CorpusError(
                        f"{file.path} could not be read: {error_line(error)}. Try again later."
                    ) from error
                prefix = "it breaks off, and the rest is missing: " if read or (position and i == first) else ""
                note(Problem(file.name, prefix + error_line(error), "unreadable file"))

    def done(self, point: Any) -> float | None:
        """Return the share of the bytes of all files that comes before a point."""
        if point is None or not self._before[-1]:
            return 1.0
        i, _, read = point
        return min(1.0, (self._before[i] + read) / self._before[-1])

    def field(self, i: int) -> tuple[str | None, str]:
        """Return (field or column with the texts of file `i`, "") or (None, why there is none).

        Raises:
            OSError, ValueError, EOFError: The file cannot be read.
        """
        if i not in self._fields:
            file, wanted = self.files[i], self.settings.text_field
            if file.format == "parquet":
                with file.open() as raw:
                    self._fields[i] = choose_text_field(_columns(_parquet(raw).schema_arrow), wanted)
            else:
                with open_stream(file) as stream:
                    self._fields[i] = json_field(stream, file.name, wanted)
        return self._fields[i]

    def _pieces_of(self, i: int, position: Any, note: Note) -> Iterator[tuple[Piece, int]]:
        """Yield the documents of file `i` from a position, each with the number of stored bytes read so far."""
        file, settings = self.files[i], self.settings
        if file.format == "text":
            position = position or (0, 1, 0)
            with open_stream(file, position[0]) as stream:
                for piece in text_pieces(stream, file.name, position, note, settings.separator, settings.encoding):
                    yield piece, stream.stored
                if stream.error:
                    raise stream.error
            return
        field, why = self.field(i)
        if field is None:
            note(Problem(file.name, why, "unreadable file"))
        elif file.format == "parquet":
            yield from _parquet_pieces(file, position or (0, 0), field, note)
        else:
            yield from _json_pieces(file, position, field, note)


def _json_pieces(file: File, position: Any, field: str, note: Note) -> Iterator[tuple[Piece, int]]:
    """Yield the texts of a JSON file from a position: an index of an array, or a position in a file of lines."""
    with open_stream(file, position[0] if isinstance(position, tuple) else 0) as stream:
        if isinstance(position, int) or (position is None and is_array(stream, file.name)):
            rows: Iterator[Any] = json_array(stream, file.name, position or 0, note)
        else:
            rows = json_rows(stream, file.name, position or (0, 1, 0), note)
        for piece in json_pieces(rows, file.name, field, note):
            yield piece, stream.stored
        if stream.error:
            raise stream.error


def _parquet_pieces(file: File, position: tuple[int, int], field: str, note: Note) -> Iterator[tuple[Piece, int]]:
    """Yield the texts of a table from (row group, row in it); skip the rest of a row group that cannot be read."""
    with file.open() as raw:
        table = _parquet(raw)
        sizes = [table.metadata.row_group(g).num_rows for g in range(table.num_row_groups)]
        before = [0, *accumulate(sizes)]
        for group in range(position[0], len(sizes)):
            first, row = position[1] if group == position[0] else 0, 0
            size = table.metadata.row_group(group).total_byte_size // max(1, sizes[group])
            rows = max(1, min(1024, BATCH // max(1, size)))
            try:
                for batch in table.iter_batches(rows, row_groups=[group], columns=[field], use_threads=False):
                    if row + len(batch) <= first:
                        row += len(batch)
                        continue
                    for text in _strings(batch.column(0)):
                        if row >= first:
                            label = f"{file.name}:{before[group] + row}"
                            read = file.size * (before[group] + row + 1) // max(1, before[-1])
                            if isinstance(text, bytes):
                                note(Problem(label, "bytes that are not UTF-8 were replaced", "replaced characters"))
                                text = text.decode("utf-8", "replace")
                            if not isinstance(text, str):
                                note(Problem(label, explain_no_text({field: text}, field), "no text"))
                            elif text:
                                yield Piece(label, 0, text, (group, row), (group, row + 1)), read
                        row += 1
            except UNREADABLE as error:
                if file.remote and _is_temporary(error):
                    raise
                label = f"{file.name}, row group {group}"
                why = f"from row {row} of {sizes[group]} to its end: {error_line(error)}"
                note(Problem(label, why, "unreadable file"))


def _parquet(raw: Any) -> Any:
    from pyarrow import parquet

    return parquet.ParquetFile(raw, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True)


def _columns(schema: Any) -> dict[str, bool]:
    """Return the name of every column of a table, with True if the column holds strings."""
    from pyarrow import types

    def is_text(kind: Any) -> bool:
        if types.is_dictionary(kind):
            kind = kind.value_type
        return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)

    return {field.name: is_text(field.type) for field in schema}


def _strings(column: Any) -> list[Any]:
    """Return the values of a column; a string that is not UTF-8 is returned as bytes."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        import pyarrow

        if pyarrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        values = column.cast(pyarrow.large_binary()).to_pylist()
        return [value if value is None else _text(value) for value in values]


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _is_temporary(error: BaseException) -> bool:
    """Return whether an error comes from the connection, so that another try may succeed, and not from the file."""
    about_file = (FileNotFoundError, PermissionError, IsADirectoryError, gzip.BadGzipFile)
    if not isinstance(error, OSError) or isinstance(error, about_file):
        return False
    return type(error) is not OSError or error.errno is not None  # pyarrow's error for damaged data has no number


def file_shards(files: Sequence[File], settings: ReadOptions) -> list[Shard]:
    """Return the shards of files; small neighbouring files share a shard.

    The first file that has fields is opened, so that an error about its text field comes at once.

    Args:
        files: Files of the corpus, in order.
        settings: How the files are read.

    Raises:
        CorpusError: No text field can be chosen in the first file with fields.
    """
    groups: list[list[File]] = []
    room = 0
    for file in files:
        if not groups or file.size > room:
            groups.append([])
            room = SMALL
        groups[-1].append(file)
        room -= file.size
    shards = [FileShard(group, settings) for group in groups]
    for shard in shards:
        for i, file in enumerate(shard.files):
            if file.format != "text":
                _check(shard, i)
                return list(shards)
    return list(shards)


def _check(shard: FileShard, i: int) -> None:
    file = shard.files[i]
    try:
        field, why = shard.field(i)
    except UNREADABLE:
        return  # reading the shard later skips the file and counts the problem
    if field is None:
        raise CorpusError(f"Where is the text in {file.name}? {why[0].upper()}{why[1:]}.")

"""Bytes of files, decompressed on the way, with as many in sight as a reader wants and no more in memory."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dreamy_lens.corpus.paths import File

CHUNK = 1 << 20
COMPRESSED_CHUNK = 1 << 16  # what is lost where a compressed file breaks off

UNREADABLE = (OSError, EOFError, zlib.error, ValueError)
"""What opening and decompressing raise; pyarrow's errors are among them."""


class Stream:
    """The bytes of a file from an offset on.

    Attributes:
        data: what is in sight; what is wanted next begins at `data[at]`.
        at: index into `data`.
        offset: of `data[at]` in the file, decompressed.
        error: what ended the reading before the end of the file, if something did. What came before it can be had.
    """

    def __init__(self, raw: Any, read: Any, offset: int) -> None:
        self._raw, self._read = raw, read
        self.data, self.at, self.offset = b"", 0, offset
        self.ended, self.error = False, None

    def fill(self, count: int) -> int:
        """Bring `count` bytes into sight if the file has them; returns how many there are."""
        have = len(self.data) - self.at
        if have >= count or self.ended:
            return have
        parts = [self.data[self.at :]]
        while have < count and not self.ended:
            try:
                part = self._read()
            except UNREADABLE as error:
                self.error, part = error, b""
            self.ended = not part
            parts.append(part)
            have += len(part)
        self.data, self.at = b"".join(parts), 0
        return have

    def skip(self, count: int) -> None:
        """Pass over bytes that are in sight."""
        self.at += count
        self.offset += count

    @property
    def stored(self) -> int:
        """Bytes of the file, as stored, that have been read."""
        return self._raw.tell()


@contextmanager
def open_stream(file: File, offset: int = 0) -> Iterator[Stream]:
    """A stream over a file from an offset on; in a compressed file, what is before it is decompressed and dropped.

    Raises:
        OSError: the file cannot be opened.
    """
    with file.open() as raw:
        if file.compression == ".gz":
            unzipped = gzip.GzipFile(fileobj=raw, mode="rb")
            read = lambda: unzipped.read1(COMPRESSED_CHUNK)  # noqa: E731
        elif file.compression == ".zst":
            import pyarrow

            inflating = pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, mode="r"), "zstd")
            read = lambda: inflating.read(COMPRESSED_CHUNK)  # noqa: E731
        else:
            raw.seek(offset)
            yield Stream(raw, lambda: raw.read(CHUNK), offset)
            return
        stream = Stream(raw, read, 0)
        while stream.offset < offset and stream.fill(1):
            stream.skip(min(len(stream.data) - stream.at, offset - stream.offset))
        yield stream


def error_line(error: BaseException) -> str:
    """Return the message of an error, in one line."""
    text = str(getattr(error, "strerror", None) or error or type(error).__name__)
    return " ".join(text.split()).rstrip(".")[:200]

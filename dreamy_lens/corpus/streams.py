"""Decompressed bytes of files, read into a buffer that holds no more than a reader needs."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dreamy_lens.corpus.paths import File

CHUNK = 1 << 20
"""Bytes that are read at once."""

COMPRESSED_CHUNK = 1 << 16
"""Decompressed bytes that are read at once; so much of the text is lost where a compressed file is cut off."""

UNREADABLE = (OSError, EOFError, zlib.error, ValueError)
"""Errors that opening, reading and decompressing raise; pyarrow's errors are subclasses of them."""


class Stream:
    """The bytes of a file from an offset to its end.

    Attributes:
        data: Bytes in the buffer; those before `data[at]` have been read.
        at: Index of the next byte in `data`.
        offset: Offset of the next byte in the decompressed file.
        error: Error that ended the reading before the end of the file, or None. The bytes before it stay readable.
    """

    def __init__(self, raw: Any, read: Any, offset: int) -> None:
        self._raw, self._read = raw, read
        self.data, self.at, self.offset = b"", 0, offset
        self.ended, self.error = False, None

    def fill(self, count: int) -> int:
        """Read until the buffer has `count` unread bytes or the file ends, and return how many it has."""
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
        """Move past `count` bytes of the buffer."""
        self.at += count
        self.offset += count

    @property
    def stored(self) -> int:
        """Number of stored bytes of the file that have been read."""
        return self._raw.tell()


@contextmanager
def open_stream(file: File, offset: int = 0) -> Iterator[Stream]:
    """Open a file as a stream that begins at an offset.

    A compressed file is decompressed from its start, and the bytes before the offset are dropped.

    Args:
        file: File to open.
        offset: Offset in the decompressed file.

    Raises:
        OSError: The file cannot be opened.
    """
    with file.open() as raw:
        if file.compression == ".gz":
            unzipped = gzip.GzipFile(fileobj=raw, mode="rb")
            read = lambda: unzipped.read1(COMPRESSED_CHUNK)  # noqa: E731
        elif file.compression == ".zst":
            import pyarrow

            decompressed = pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, mode="r"), "zstd")
            read = lambda: decompressed.read(COMPRESSED_CHUNK)  # noqa: E731
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

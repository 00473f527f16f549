"""Shards of a corpus that read texts in memory, iterators, or the documentation installed on this machine."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from dreamy_lens.corpus.corpus import Piece, Shard
from dreamy_lens.corpus.documentation import docstrings
from dreamy_lens.corpus.problems import Problem
from dreamy_lens.errors import CorpusError

SAMPLE = 1 << 18
"""Characters at the beginning of an iterable from which its fingerprint is computed."""


def named_text(item: Any, name: str) -> tuple[str, str] | Problem:
    """Return (name, text) of a str, or of an object with `.text` and perhaps `.source`; a problem for anything else.

    Args:
        item: Object that holds a text.
        name: Name of the text if the item has no `.source`.
    """
    if isinstance(item, str):
        return name, str(item)
    text = getattr(item, "text", None)
    if isinstance(text, str):
        source = getattr(item, "source", None)
        return (source if isinstance(source, str) and source else name), text
    return Problem(name, f"a text was expected, but it is {type(item).__name__}", "no text")


def texts_digest(items: Iterable[Any], limit: int | None = None) -> str:
    """Return a digest of texts and their names.

    Args:
        items: Texts, or objects that hold a text.
        limit: Number of characters after which the digest stops; None digests all texts.
    """
    digest, count = hashlib.sha256(), 0
    for i, item in enumerate(items):
        named = named_text(item, f"text {i}")
        for part in (named.name, named.why) if isinstance(named, Problem) else named:
            data = part.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
            count += len(part)
        if limit is not None and count > limit:
            break
    return digest.hexdigest()[:16]


class TextShard(Shard):
    """Shard of texts in memory. A point of the shard is the index of a text."""

    def __init__(self, name: str, texts: Sequence[Any]) -> None:
        self.name = name
        self.texts = texts

    @property
    def characters(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Number of characters of all texts."""
        return sum(len(t[1]) for t in (named_text(item, "") for item in self.texts) if not isinstance(t, Problem))

    def pieces(self, point: Any, note: Callable[[Problem], None]) -> Iterator[Piece]:
        """Yield the texts from an index to the end."""
        for i in range(point or 0, len(self.texts)):
            yield from _piece(self.texts[i], i, note)

    def done(self, point: Any) -> float | None:
        """Return the share of the texts that comes before a point."""
        return 1.0 if point is None else point / max(1, len(self.texts))

    def fingerprint(self) -> str:
        """Return a digest of all texts and their names."""
        return texts_digest(self.texts)


class DocstringShard(TextShard):
    """Shard of one split of the documentation installed on this machine.

    The documents are read at first use, and then stay in memory. Reading takes half a minute and depends on what is
    installed, so a pickled shard includes its texts.
    """

    def __init__(self, split: str, packages: tuple[str, ...]) -> None:
        self.name = split
        self.packages = packages
        self._texts: Sequence[Any] | None = None

    @property
    def texts(self) -> Sequence[Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Documents of the split."""
        if self._texts is None:
            self._texts = docstrings(self.name, self.packages)
        return self._texts

    @property
    def characters(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Number of characters of all texts; None until the texts have been read."""
        return None if self._texts is None else sum(len(document.text) for document in self._texts)

    @property
    def size(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Number of characters of all texts, which are read if they have not been."""
        return sum(len(document.text) for document in self.texts)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_texts": self.texts}


class IterableShard(Shard):
    """Shard of an iterable, or of a function that returns one. A point of the shard is the index of an item."""

    partial_fingerprint = True

    def __init__(self, name: str, source: Iterable[Any] | Callable[[], Iterable[Any]]) -> None:
        self.name = name
        self.source = source

    def pieces(self, point: Any, note: Callable[[Problem], None]) -> Iterator[Piece]:
        """Yield the texts from an index to the end; items before the index are iterated over and dropped."""
        for i, item in enumerate(self._items()):
            if i >= (point or 0):
                yield from _piece(item, i, note)

    def fingerprint(self) -> str:
        """Return a digest of the first texts, because reading all of them may take too long."""
        return f"{self.name}-{texts_digest(self._items(), SAMPLE)}"

    def _items(self) -> Iterator[Any]:
        items: Any = self.source() if callable(self.source) else self.source
        try:
            return iter(items)
        except TypeError:
            raise CorpusError(
                f"{self.name} returned {type(items).__name__}, which is not an iterator of texts. Return an iterator, "
                "a generator or a list of texts."
            ) from None


class SinglePassShard(Shard):
    """Shard of an iterator, which can be read only once. A point of the shard is the index of an item."""

    single_pass = True

    def __init__(self, name: str, source: Iterator[Any]) -> None:
        self.name = name
        self.source = source
        self._next = 0
        self._last: Any = None

    def pieces(self, point: Any, note: Callable[[Problem], None]) -> Iterator[Piece]:
        """Yield the texts from the iterator's current item to the end.

        Args:
            point: Index of the first text. It must not lie before the text that the iterator yielded last.
            note: Function that is called with each problem.

        Raises:
            CorpusError: The iterator has already passed the text.
        """
        point = point or 0
        if point < self._next - (self._last is not None):
            raise CorpusError(
                f"{self.name} can be read only once, and {self._next} of its texts have already been read. To read "
                "texts again, give a list, a function that returns a new iterator, or files."
            )
        if point == self._next - 1:
            yield from _piece(self._last, point, note)
        for item in self.source:
            self._next, self._last = self._next + 1, item
            yield from _piece(item, self._next - 1, note)

    def __reduce__(self) -> Any:
        raise CorpusError(
            f"{self.name} cannot be sent to another process. Give a list, files, or a function that returns iterators."
        )


def _piece(item: Any, i: int, note: Callable[[Problem], None]) -> Iterator[Piece]:
    """Yield an item as one piece, unless it has no text."""
    named = named_text(item, f"text {i}")
    if isinstance(named, Problem):
        note(named)
    elif named[1]:
        yield Piece(named[0], 0, named[1], i, i + 1)


def first_of(items: Iterable[Any]) -> list[Any]:
    """Return a list with the first item, or an empty list if there is none."""
    return list(itertools.islice(iter(items), 1))

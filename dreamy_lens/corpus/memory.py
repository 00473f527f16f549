"""Shards of texts in memory, of anything that yields texts, and of the documentation installed on this machine."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from dreamy_lens.corpus.corpus import Piece, Shard
from dreamy_lens.corpus.documentation import docstrings
from dreamy_lens.corpus.problems import Problem
from dreamy_lens.errors import CorpusError

SAMPLE = 1 << 18  # characters at the beginning of an iterable that tell it from others


def named_text(item: Any, name: str) -> tuple[str, str] | Problem:
    """Return (name, text) of a str, or of an object with `.text` and perhaps `.source`; a problem if it is neither."""
    if isinstance(item, str):
        return name, str(item)
    text = getattr(item, "text", None)
    if isinstance(text, str):
        source = getattr(item, "source", None)
        return (source if isinstance(source, str) and source else name), text
    return Problem(name, f"a text was expected, and it is {type(item).__name__}", "no text")


def texts_digest(items: Iterable[Any], limit: int | None = None) -> str:
    """Return a digest of texts and their names; of the first `limit` characters, or of all."""
    digest, count = hashlib.sha256(), 0
    for i, item in enumerate(items):
        found = named_text(item, f"text {i}")
        for part in (found.name, found.why) if isinstance(found, Problem) else found:
            data = part.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
            count += len(part)
        if limit is not None and count > limit:
            break
    return digest.hexdigest()[:16]


class TextShard(Shard):
    """Texts in memory; points are their indices."""

    def __init__(self, name: str, texts: Sequence[Any]) -> None:
        self.name = name
        self.texts = texts

    @property
    def characters(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of all texts."""
        return sum(len(t[1]) for t in (named_text(item, "") for item in self.texts) if not isinstance(t, Problem))

    def pieces(self, point: Any, note: Callable[[Problem], None]) -> Iterator[Piece]:
        """The texts from an index on."""
        for i in range(point or 0, len(self.texts)):
            yield from _piece(self.texts[i], i, note)

    def done(self, point: Any) -> float | None:
        """The part of the texts."""
        return 1.0 if point is None else point / max(1, len(self.texts))

    def fingerprint(self) -> str:
        """The hash of all texts and of their names."""
        return texts_digest(self.texts)


class DocstringShard(TextShard):
    """One split of the documentation installed here. It is read when it is first used, and then stays in memory.

    Reading takes half a minute and depends on what is installed, so that a pickled shard brings its texts along.
    """

    def __init__(self, split: str, packages: tuple[str, ...]) -> None:
        self.name = split
        self.packages = packages
        self._texts: Sequence[Any] | None = None

    @property
    def texts(self) -> Sequence[Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The documents of the split."""
        if self._texts is None:
            self._texts = docstrings(self.name, self.packages)
        return self._texts

    @property
    def characters(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of all texts, once they have been read."""
        return None if self._texts is None else sum(len(document.text) for document in self._texts)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_texts": self.texts}


class IterableShard(Shard):
    """What can be iterated over again, or a function that returns an iterator; points count what it yields."""

    partial_fingerprint = True

    def __init__(self, name: str, source: Iterable[Any] | Callable[[], Iterable[Any]]) -> None:
        self.name = name
        self.source = source

    def pieces(self, point: Any, note: Callable[[Problem], None]) -> Iterator[Piece]:
        """The texts from the n-th on; those before are passed over."""
        for i, item in enumerate(self._items()):
            if i >= (point or 0):
                yield from _piece(item, i, note)

    def fingerprint(self) -> str:
        """The hash of the first texts, since all of them may be too many."""
        return f"{self.name}-{texts_digest(self._items(), SAMPLE)}"

    def _items(self) -> Iterator[Any]:
        made: Any = self.source() if callable(self.source) else self.source
        try:
            return iter(made)
        except TypeError:
            raise CorpusError(f"{self.name} returned {type(made).__name__}, which is no iterator of texts.") from None


class SinglePassShard(Shard):
    """An iterator, which can be read once, and read on from where it stands."""

    single_pass = True

    def __init__(self, name: str, source: Iterator[Any]) -> None:
        self.name = name
        self.source = source
        self._next = 0
        self._last: Any = None

    def pieces(self, point: Any, note: Callable[[Problem], None]) -> Iterator[Piece]:
        """The texts from where it stands; that must be `point`, or the text before it.

        Raises:
            CorpusError: what is wanted has gone by.
        """
        point = point or 0
        if point < self._next - (self._last is not None):
            raise CorpusError(
                f"{self.name} can be read once, and {self._next} of its texts have been. Give a list, a function that "
                "returns a new iterator, or files, and they can be read again."
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
    found = named_text(item, f"text {i}")
    if isinstance(found, Problem):
        note(found)
    elif found[1]:
        yield Piece(found[0], 0, found[1], i, i + 1)


def first_of(items: Iterable[Any]) -> list[Any]:
    """The first item, in a list; an empty one if there is none."""
    return list(itertools.islice(iter(items), 1))

"""Corpora of texts in memory, and of the documentation installed on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dreamy_lens.dataset.corpora import Piece, Shard
from dreamy_lens.dataset.documentation import PACKAGES, docstrings
from dreamy_lens.dataset.problems import Problem
from dreamy_lens.errors import CorpusError


def text_of(item: Any, name: str) -> tuple[str, str] | Problem:
    """(name, text) of a str, or of something with `.text` and perhaps `.source`; a problem if it is neither."""
    if isinstance(item, str):
        return name, item
    text = getattr(item, "text", None)
    if isinstance(text, str):
        source = getattr(item, "source", None)
        return (source if isinstance(source, str) and source else name), text
    return Problem(name, f"a text was expected, and it is {type(item).__name__}", "no text")


class TextShard(Shard):
    """Texts in memory; points are their indices."""

    def __init__(self, name: str, texts: Sequence[Any]) -> None:
        self.name = name
        self.texts = texts

    @property
    def characters(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of all texts."""
        return sum(len(t[1]) for t in (text_of(item, "") for item in self.texts) if not isinstance(t, Problem))

    def pieces(self, point: Any, note: Callable[[Problem], None]) -> Iterator[Piece]:
        """The texts from an index on."""
        for i in range(point or 0, len(self.texts)):
            found = text_of(self.texts[i], f"text {i}")
            if isinstance(found, Problem):
                note(found)
            elif found[1]:
                yield Piece(found[0], 0, found[1], i, i + 1)

    def done(self, point: Any) -> float | None:
        """The part of the texts."""
        return 1.0 if point is None else point / max(1, len(self.texts))

    def fingerprint(self) -> str:
        """The hash of all texts and of their names."""
        digest = hashlib.sha256()
        for i, item in enumerate(self.texts):
            found = text_of(item, f"text {i}")
            for part in (found.name, found.why) if isinstance(found, Problem) else found:
                data = part.encode("utf-8", "surrogatepass")
                digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()[:16]


class DocstringShard(TextShard):
    """One split of the documentation installed here. It is read when it is first used, and then stays in memory.

    Reading takes half a minute and depends on what is installed, so that a pickled shard brings its texts along.
    """

    def __init__(self, split: str, packages: tuple[str, ...] = PACKAGES) -> None:
        self.name = split
        self.split, self.packages = split, packages
        self._texts: list[Any] | None = None

    @property
    def texts(self) -> Sequence[Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The documents of the split."""
        if self._texts is None:
            self._texts = docstrings(self.split, self.packages)
            if not self._texts:
                raise CorpusError(f"No documentation of {', '.join(self.packages)} is installed on this machine.")
        return self._texts

    def __getstate__(self) -> dict[str, Any]:
        _ = self.texts
        return self.__dict__

"""Corpora: texts in a fixed order, in blocks that can be read again and from anywhere.

What this module promises:

* *A fixed order.* A corpus is a row of shards, a shard a row of blocks, a block a row of sections. All of it follows
  from the source alone: no tokenizer, no random numbers.
* *Reading can be taken up anywhere.* ``blocks(shard, n)`` yields what ``blocks(shard)`` yields after n blocks.
* *Memory that does not grow with the corpus.* What is held is a block and a section.
* *What cannot be read does not end the reading.* It is passed over, and every block says what was passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dreamy_lens.corpus.problems import Problem, Problems
from dreamy_lens.corpus.sections import BLOCK, clean, cut_text
from dreamy_lens.errors import CorpusError, SettingsError


@dataclass(frozen=True)
class Section:
    """A document, or one piece of a long one.

    Attributes:
        document: what the document is called, for people.
        start: offset in the document, in characters, at which `text` begins; 0 for the first section of a document.
        text: free of lone surrogates and NUL characters, which are replaced by U+FFFD, one by one.
    """

    document: str
    start: int
    text: str


@dataclass(frozen=True)
class Block:
    """Some 256 kB of sections, the unit of work.

    Attributes:
        shard: index of the shard.
        number: index of the block in its shard.
        sections: in order. The last block of a shard has none if nothing but problems came after the block before it.
        problems: what was passed over between the end of the block before and the end of this one.
        done: the part of the shard that has been read with this block, from 0 to 1; None if it is not known.
    """

    shard: int
    number: int
    sections: tuple[Section, ...]
    problems: Problems = field(default_factory=Problems, compare=False, repr=False)
    done: float | None = field(default=None, compare=False)

    @property
    def characters(self) -> int:
        """Characters of all sections."""
        return sum(len(section.text) for section in self.sections)

    @property
    def documents(self) -> int:
        """Documents that begin in this block."""
        return sum(section.start == 0 for section in self.sections)


class Piece(NamedTuple):
    """What a shard yields: a document, or a piece of one. Reading from `at` begins with it, from `after` behind it."""

    document: str
    start: int
    text: str
    at: Any
    after: Any


class Shard:
    """A part of a corpus that is read in one go; what the kinds of sources implement.

    Attributes:
        name: Name of the shard, for messages.
        characters: Number of characters, if that is known before reading.
        single_pass: Whether the shard can be read only once.
        partial_fingerprint: Whether the fingerprint is of the beginning only, so that shards of equal fingerprints may
            differ.
    """

    name: str
    characters: int | None = None
    single_pass = False
    partial_fingerprint = False

    def pieces(self, point: Any, note: Callable[[Problem], None]) -> Iterator[Piece]:
        """The documents from a point on, None for the beginning; `note` is told of what is passed over."""
        raise NotImplementedError

    def done(self, point: Any) -> float | None:
        """The part of the shard before a point, from 0 to 1, if that is known."""
        return None


class Corpus:
    """Texts to hold dreams against, as `dreamy_lens.corpus.open` makes them. It can be pickled if its source can.

    Attributes:
        name: for people: "docstrings", "stories.txt", "4 texts", "folder corpus/ (12 files)".
        problems: what was passed over when the corpus was opened, and in all blocks that have been read since. A block
            that is read twice counts once.

    >>> from dreamy_lens import corpus
    >>> texts = corpus.open(["A first text.", "A second one."])
    >>> texts
    <corpus '2 texts': 1 shard>
    >>> for block in texts.blocks(0):
    ...     print(block.number, [section.text for section in block.sections])
    0 ['A first text.', 'A second one.']
    """

    def __init__(
        self, name: str, shards: list[Shard], fingerprint: str | Callable[[], str], problems: Problems
    ) -> None:
        self.name = name
        self.opening_problems = problems
        self._shards = tuple(shards)
        self._fingerprint = fingerprint
        # Of every shard: where its blocks begin, as far as they have been read; their characters; the end, if reached.
        self._points: list[list[tuple[Any, int]]] = [[(None, 0)] for _ in shards]
        self._characters: list[list[int]] = [[] for _ in shards]
        self._whole = [False] * len(shards)
        self._problems: dict[tuple[int, int], Problems] = {}

    def __repr__(self) -> str:
        count = len(self._shards)
        passed = f", {self.problems}" if self.problems else ""
        return f"<corpus {self.name!r}: {count} shard{'s' * (count != 1)}{passed}>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fingerprint": self.fingerprint}

    @property
    def fingerprint(self) -> str:
        """Changes when what the corpus yields changes; equal for equal sources."""
        if not isinstance(self._fingerprint, str):
            self._fingerprint = self._fingerprint()
        return self._fingerprint

    @property
    def partial_fingerprint(self) -> bool:
        """Whether corpora of equal fingerprints may differ, since the fingerprint is of their beginning only."""
        return any(shard.partial_fingerprint for shard in self._shards)

    @property
    def single_pass(self) -> bool:
        """Whether the corpus can be read only once."""
        return bool(self.single_pass_shards)

    @property
    def single_pass_shards(self) -> tuple[str, ...]:
        """The names of the shards that can be read only once."""
        return tuple(shard.name for shard in self._shards if shard.single_pass)

    @property
    def shards(self) -> tuple[str, ...]:
        """The names of the shards, in order."""
        return tuple(shard.name for shard in self._shards)

    @property
    def problems(self) -> Problems:
        """What was passed over so far, in the order of the corpus."""
        return Problems.total([self.opening_problems, *(self._problems[key] for key in sorted(self._problems))])

    def characters(self, shard: int) -> int | None:
        """Characters of a shard, if that is known without reading: of texts in memory, or after a first reading."""
        source = self._shard(shard)
        return sum(self._characters[shard]) if self._whole[shard] else source.characters

    def blocks(self, shard: int, start: int = 0) -> Iterator[Block]:
        """The blocks of a shard, from number `start` on.

        Skipping reads texts but tokenizes nothing, and where the corpus remembers the place from an earlier reading
        (it does so for files that are not compressed, and for all that is counted by rows) it does not even read.

        Args:
            shard: index of the shard.
            start: number of the first block that is wanted. Past the last one, nothing is yielded.

        Raises:
            SettingsError: there is no such shard.
            CorpusError: the source can be read only once, and was.
        """
        self._shard(shard)
        return self._read(shard, int(start))

    def block_sizes(self) -> list[tuple[int, int, int]]:
        """Return (shard, block, characters) of every block, by reading the corpus once without tokenizing it.

        The answer is kept, and goes along when the corpus is pickled, together with the places where blocks begin.

        Raises:
            CorpusError: the source can be read only once.

        >>> from dreamy_lens import corpus
        >>> corpus.open(["word " * 100_000, "A second one."]).block_sizes()
        [(0, 0, 327674), (0, 1, 172339)]
        """
        for shard, whole in enumerate(self._whole):
            if not whole:
                if self._shards[shard].single_pass:
                    raise CorpusError(
                        f"{self._shards[shard].name} can be read only once, and counting its blocks would read it."
                    )
                for _ in self._read(shard, len(self._characters[shard])):
                    pass
        return [(s, b, count) for s, counts in enumerate(self._characters) for b, count in enumerate(counts)]

    def _shard(self, shard: int) -> Shard:
        if not 0 <= shard < len(self._shards):
            raise SettingsError(f"There is no shard {shard}; {self.name} has {len(self._shards)}, counted from 0.")
        return self._shards[shard]

    def _read(self, shard: int, start: int) -> Iterator[Block]:
        source, points, counts = self._shards[shard], self._points[shard], self._characters[shard]
        number = max(0, min(start, len(points) - 1))
        point, drop = points[number]
        problems = Problems()

        def note(problem: Problem) -> None:
            if not drop:  # else it is one of the block before
                problems.add(problem)

        def block(reached: Any) -> Block | None:
            """What has been collected; None while the block is skipped."""
            if number == len(counts):
                counts.append(sum(len(section.text) for section in sections))
            if number < start:
                return None
            if problems:
                self._problems[shard, number] = problems
            return Block(shard, number, tuple(sections), problems, source.done(reached))

        sections: list[Section] = []
        size = 0
        for piece in source.pieces(point, note):
            cuts = list(cut_text(piece.text))
            for i, (offset, text) in enumerate(cuts):
                if drop:
                    drop -= 1
                    continue
                text, length, replaced = clean(text)
                if replaced:
                    why = f"{replaced} NUL characters or halves of surrogate pairs were replaced"
                    note(Problem(piece.document, why, "replaced characters"))
                sections.append(Section(piece.document, piece.start + offset, text))
                size += length
                if size < BLOCK:
                    continue
                if number + 1 == len(points):
                    points.append((piece.at, i + 1) if i + 1 < len(cuts) else (piece.after, 0))
                found = block(piece.after)
                number, sections, size, problems = number + 1, [], 0, Problems()
                if found is not None:
                    yield found
        if sections or problems:
            found = block(None)
            if found is not None:
                yield found
        self._whole[shard] = True

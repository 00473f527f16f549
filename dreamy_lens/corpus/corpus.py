"""Corpora: texts in a fixed order, divided into blocks that can be read again, from any block.

What this module promises:

* *A fixed order.* A corpus is a sequence of shards, a shard a sequence of blocks, a block a sequence of sections. The
  order follows from the source alone; neither a tokenizer nor random numbers take part.
* *Reading can begin at any block.* ``blocks(shard, n)`` yields what ``blocks(shard)`` yields after its first n blocks.
* *Memory that does not grow with the corpus.* Only one block and one section are held at a time.
* *Unreadable text does not end the reading.* It is skipped, and each block lists the problems met while reading it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from dreamy_lens.corpus.problems import Problem, Problems
from dreamy_lens.corpus.sections import BLOCK, clean, cut_text
from dreamy_lens.errors import CorpusError, SettingsError


@dataclass(frozen=True)
class Section:
    """A document, or one section of a long document.

    Attributes:
        document: Name of the document, to show.
        start: Offset in the document, in characters, at which `text` begins; 0 for the first section of a document.
        text: Text of the section. Each NUL character and each lone surrogate has been replaced by U+FFFD.
    """

    document: str
    start: int
    text: str


@dataclass(frozen=True)
class Block:
    """About 256 kB of sections: the unit in which a corpus is read and scanned.

    Attributes:
        shard: Index of the shard.
        number: Index of the block in its shard.
        sections: Sections of the block, in order. The last block of a shard has none if only problems came after the
            previous block.
        problems: Problems between the end of the previous block and the end of this block.
        done: Share of the shard that has been read after this block, from 0 to 1; None if it is not known.
    """

    shard: int
    number: int
    sections: tuple[Section, ...]
    problems: Problems = field(default_factory=Problems, compare=False, repr=False)
    done: float | None = field(default=None, compare=False)

    @property
    def characters(self) -> int:
        """Number of characters of all sections."""
        return sum(len(section.text) for section in self.sections)

    @property
    def documents(self) -> int:
        """Number of documents that begin in this block."""
        return sum(section.start == 0 for section in self.sections)


class Piece(NamedTuple):
    """A document, or a part of one, as a shard yields it.

    Attributes:
        document: Name of the document, to show.
        start: Offset in the document, in characters, at which `text` begins.
        text: Text of the piece.
        at: Point of the shard from which reading begins with this piece.
        after: Point of the shard from which reading begins after this piece.
    """

    document: str
    start: int
    text: str
    at: Any
    after: Any


class Shard:
    """Base class of the parts of a corpus, with one subclass for each kind of source.

    A point of a shard is a value from which reading can begin. Its type depends on the subclass; None is the beginning.

    Attributes:
        name: Name of the shard, for messages.
        characters: Number of characters; None if it is not known before reading.
        size: Size in a unit that all shards of a corpus share, such as stored bytes or rows; None if it is not known.
        single_pass: True if the shard can be read only once.
        partial_fingerprint: True if the fingerprint covers only the beginning, so that shards with equal fingerprints
            may differ.
    """

    name: str
    characters: int | None = None
    size: int | None = None
    single_pass = False
    partial_fingerprint = False

    def pieces(self, point: Any, note: Callable[[Problem], None]) -> Iterator[Piece]:
        """Yield the documents from a point to the end.

        Args:
            point: Point of the shard at which to begin; None is the beginning.
            note: Function that is called with each problem.
        """
        raise NotImplementedError

    def done(self, point: Any) -> float | None:
        """Return the share of the shard before a point, from 0 to 1; None if it is not known."""
        return None


class Corpus:
    """Texts in blocks, as `dreamy_lens.corpus.open` opens them. A corpus can be pickled if its source can.

    Attributes:
        name: Name to show: "docstrings", "stories.txt", "4 texts", "folder corpus/ (12 files)".
        opening_problems: Problems that were met when the corpus was opened.
        source: Argument and options with which :func:`dreamy_lens.corpus.open` opened the corpus, if it was given by
            name; None for one that is made of objects.

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
        self.source: tuple[Any, dict[str, Any]] | None = None
        self._shards = tuple(shards)
        self._fingerprint = fingerprint
        # For every shard: the beginning of each block read so far, as (point, sections of this point's piece that
        # belong to earlier blocks); the characters of each block read so far; whether the end was reached.
        self._points: list[list[tuple[Any, int]]] = [[(None, 0)] for _ in shards]
        self._characters: list[list[int]] = [[] for _ in shards]
        self._finished = [False] * len(shards)
        self._problems: dict[tuple[int, int], Problems] = {}

    def __repr__(self) -> str:
        count = len(self._shards)
        problems = f", {self.problems}" if self.problems else ""
        return f"<corpus {self.name!r}: {count} shard{'s' * (count != 1)}{problems}>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fingerprint": self.fingerprint}

    @property
    def fingerprint(self) -> str:
        """Text that is equal for equal sources, and changes when the text of the corpus changes."""
        if not isinstance(self._fingerprint, str):
            self._fingerprint = self._fingerprint()
        return self._fingerprint

    @property
    def partial_fingerprint(self) -> bool:
        """True if the fingerprint covers only the beginning, so that corpora with equal fingerprints may differ."""
        return any(shard.partial_fingerprint for shard in self._shards)

    @property
    def single_pass(self) -> bool:
        """True if the corpus can be read only once."""
        return bool(self.single_pass_shards)

    @property
    def single_pass_shards(self) -> tuple[str, ...]:
        """Names of the shards that can be read only once."""
        return tuple(shard.name for shard in self._shards if shard.single_pass)

    @property
    def shards(self) -> tuple[str, ...]:
        """Names of the shards, in order."""
        return tuple(shard.name for shard in self._shards)

    @property
    def problems(self) -> Problems:
        """Problems met so far, in the order of the corpus: at the opening, and in all blocks that have been read.

        A block that is read twice counts once.
        """
        return Problems.total([self.opening_problems, *(self._problems[key] for key in sorted(self._problems))])

    def first_blocks(self, characters: int) -> Iterator[Block]:
        """Yield blocks from the beginning of the corpus until they have so many characters, or the corpus ends."""
        read = 0
        for shard in range(len(self._shards)):
            for block in self.blocks(shard):
                yield block
                read += block.characters
                if read >= characters:
                    return

    def share_before(self, shard: int, done: float | None) -> float | None:
        """Return the share of the corpus that comes before a place in a shard, from 0 to 1; None if it is not known.

        Shards whose sizes are not known count as equally large.

        Args:
            shard: Number of the shard.
            done: Share of the shard that comes before the place; None if it is not known.

        >>> from dreamy_lens import corpus
        >>> corpus.open(["A first text.", "A second one."]).share_before(0, 0.5)
        0.5
        """
        if done is None and len(self._shards) == 1:
            return None
        sizes = self._sizes
        return (sum(sizes[:shard]) + (done or 0.0) * sizes[shard]) / sum(sizes)

    @cached_property
    def _sizes(self) -> list[int]:
        """Sizes of the shards, in a unit that they share."""
        sizes = [shard.size for shard in self._shards]
        known = [size for size in sizes if size is not None]
        return known if len(known) == len(sizes) and sum(known) else [1] * len(sizes)

    def characters(self, shard: int) -> int | None:
        """Return the number of characters of a shard; None if it is not known without reading.

        It is known for texts in memory, and for any shard that has been read once.
        """
        source = self._shard(shard)
        return sum(self._characters[shard]) if self._finished[shard] else source.characters

    def blocks(self, shard: int, start: int = 0) -> Iterator[Block]:
        """Yield the blocks of a shard, from block number `start` to the last.

        Skipping blocks reads texts but tokenizes nothing. If an earlier reading has reached block `start`, reading
        begins there at once in sources that can go to a position: files that are not compressed, and rows of tables.

        Args:
            shard: Index of the shard.
            start: Number of the first block. Past the last block, nothing is yielded.

        Raises:
            SettingsError: The shard does not exist.
            CorpusError: The source can be read only once, and has already been read.
        """
        self._shard(shard)
        return self._read(shard, int(start))

    def block_sizes(self) -> list[tuple[int, int, int]]:
        """Return (shard, block, characters) of every block, by reading the corpus once without tokenizing it.

        The corpus keeps the result and the points at which blocks begin, also when it is pickled.

        Raises:
            CorpusError: The source can be read only once.

        >>> from dreamy_lens import corpus
        >>> corpus.open(["word " * 100_000, "A second one."]).block_sizes()
        [(0, 0, 327674), (0, 1, 172339)]
        """
        for shard, finished in enumerate(self._finished):
            if not finished:
                if self._shards[shard].single_pass:
                    raise CorpusError(
                        f"{self._shards[shard].name} can be read only once, and counting its blocks would use that up. "
                        "Give a list, files, or a function that returns a new iterator."
                    )
                for _ in self._read(shard, len(self._characters[shard])):
                    pass
        return [(s, b, count) for s, counts in enumerate(self._characters) for b, count in enumerate(counts)]

    def _shard(self, shard: int) -> Shard:
        if not 0 <= shard < len(self._shards):
            raise SettingsError(
                f"There is no shard {shard}; {self.name} has {len(self._shards)} in all, numbered from 0."
            )
        return self._shards[shard]

    def _read(self, shard: int, start: int) -> Iterator[Block]:
        source, points, counts = self._shards[shard], self._points[shard], self._characters[shard]
        number = max(0, min(start, len(points) - 1))
        point, drop = points[number]  # drop: sections of the point's piece that belong to the previous block
        problems = Problems()

        def note(problem: Problem) -> None:
            if not drop:  # else the problem belongs to the previous block
                problems.add(problem)

        def finish_block(reached: Any) -> Block | None:
            """Return the block of the sections collected so far, or None if the block comes before `start`."""
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
                    why = f"{replaced} NUL characters or lone surrogates were replaced"
                    note(Problem(piece.document, why, "replaced characters"))
                sections.append(Section(piece.document, piece.start + offset, text))
                size += length
                if size < BLOCK:
                    continue
                if number + 1 == len(points):
                    points.append((piece.at, i + 1) if i + 1 < len(cuts) else (piece.after, 0))
                block = finish_block(piece.after)
                number, sections, size, problems = number + 1, [], 0, Problems()
                if block is not None:
                    yield block
        if sections or problems:
            block = finish_block(None)
            if block is not None:
                yield block
        self._finished[shard] = True

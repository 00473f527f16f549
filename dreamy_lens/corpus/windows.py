"""Windows: n consecutive tokens of a document, what the prompts of a dream are held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int
from numpy.lib.stride_tricks import sliding_window_view

from dreamy_lens.corpus.corpus import Block
from dreamy_lens.corpus.tokenizing import character_offsets, encode_sections
from dreamy_lens.errors import SettingsError
from dreamy_lens.models.vocabulary import Vocabulary

NO_HASH = 2**63 - 1
"""What no window hashes to, so that it can stand for "no window"."""


@dataclass(frozen=True)
class WindowSettings:
    """How windows are cut.

    Attributes:
        length: tokens of a window, one or more.
        stride: tokens from the start of a window to that of the next in a document; None, the default, is `length`:
            windows side by side. 1 takes every window there is.
        context: tokens before and after a window that are shown with it.

    >>> WindowSettings(length=8).step
    8
    """

    length: int = 12
    stride: int | None = None
    context: int = 24

    def __post_init__(self) -> None:
        for name, least in (("length", 1), ("stride", 1), ("context", 0)):
            value = getattr(self, name)
            if name == "stride" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise SettingsError(f"{name} is a whole number of tokens, at least {least}; got {value!r}.")

    @property
    def step(self) -> int:
        """The stride in tokens."""
        return self.length if self.stride is None else self.stride


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of one block.

    Attributes:
        tokens: Ids of the block's sections, one section after the other, without BOS, int32.
        starts: First token of each window, int64: window w is ``tokens[starts[w] : starts[w] + length]``. Windows are
            in the order of the corpus; of equal windows only the first of the block is there.
        section: Section of each window, int32, an index into ``block.sections``.
        bounds: First token of each section, and the end, int64.
        hashes: Hash of each window's ids, int64. Equal windows have equal hashes; others differ but for a chance of
            2**-64. None is :data:`NO_HASH`.
        duplicates: Number of windows that were dropped because they are repeats.
        short: Number of sections without any window, since their runs of ordinary tokens are shorter than one.
        length: Tokens of a window.
        block: Block that has the windows.
        vocabulary: Vocabulary of the tokens.
    """

    tokens: Int[np.ndarray, " tokens"]
    starts: Int[np.ndarray, " windows"]
    section: Int[np.ndarray, " windows"]
    bounds: Int[np.ndarray, " sections_and_end"]
    hashes: Int[np.ndarray, " windows"]
    duplicates: int
    short: int
    length: int
    block: Block = field(repr=False)
    vocabulary: Vocabulary = field(repr=False)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def ids(self) -> Int[np.ndarray, "windows length"]:
        """Token ids of every window, int64."""
        if not len(self.starts):
            return np.zeros((0, self.length), dtype=np.int64)
        return sliding_window_view(self.tokens, self.length)[self.starts].astype(np.int64)

    def character(self, w: int) -> int:
        """Offset in the document, in characters, at which the text of window w begins."""
        return int(self.characters([w])[0])

    def characters(self, which: Sequence[int] | np.ndarray) -> np.ndarray:
        """The offsets of several windows, int64 `[len(which)]`; each section concerned is tokenized once more.

        ``document[offset:]`` begins with the window's text, unless its first token is not a whole character (then the
        offset is that character's), or the tokenizer rewrites text, as those do that know no capitals.
        """
        which = np.asarray(which, dtype=np.int64)
        found = np.zeros(len(which), dtype=np.int64)
        for s in np.unique(self.section[which]):
            mine = np.flatnonzero(self.section[which] == s)
            starts = self.starts[which[mine]]
            runs = [(int(start - self.bounds[s]), self.tokens[start : start + self.length]) for start in starts]
            section = self.block.sections[s]
            found[mine] = section.start + np.array(character_offsets(section.text, runs, self.vocabulary))
        return found


def cut_windows(block: Block, vocabulary: Vocabulary, settings: WindowSettings) -> Windows:
    """Cut a block into windows: every `step` tokens from the start of a section, or from behind a special token.

    No window reaches over the end of a section or contains a special token; where one stands in the text (as
    "<|endoftext|>"), a document ends and another begins.

    Args:
        block: Block of a corpus.
        vocabulary: Vocabulary of the model.
        settings: Length of the windows, and the distance between them.

    >>> import dreamy_lens as dl
    >>> from dreamy_lens.models.load import as_hooked
    >>> vocabulary = as_hooked().vocabulary
    >>> (block,) = dl.corpus.open(["Return the sum of the elements along an axis, or all of them."]).blocks(0)
    >>> windows = cut_windows(block, vocabulary, WindowSettings(length=5))
    >>> [(windows.character(w), vocabulary.text(ids)) for w, ids in enumerate(windows.ids)]
    [(0, 'Return the sum of the'), (21, ' elements along an axis,'), (45, ' or all of them.')]
    """
    tokens, bounds = encode_sections([section.text for section in block.sections], vocabulary)
    starts = _starts(bounds, np.flatnonzero(_is_boundary(tokens, vocabulary)), settings)
    section = (np.searchsorted(bounds, starts, side="right") - 1).astype(np.int32)
    short = len(block.sections) - len(np.unique(section))
    hashes = _hashes(tokens, starts, settings.length)
    first = np.sort(np.unique(hashes, return_index=True)[1])
    duplicates = len(starts) - len(first)
    return Windows(
        tokens=tokens,
        starts=starts[first],
        section=section[first],
        bounds=bounds,
        hashes=hashes[first],
        duplicates=duplicates,
        short=short,
        length=settings.length,
        block=block,
        vocabulary=vocabulary,
    )


def _is_boundary(tokens: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Whether each token ends a run: it is special, or the model has no embedding for it."""
    special = np.zeros(vocabulary.size, dtype=bool)
    special[[i for i in vocabulary.special if 0 <= i < vocabulary.size]] = True
    inside = (tokens >= 0) & (tokens < vocabulary.size)
    return ~inside | special[np.where(inside, tokens, 0)]


def _starts(bounds: np.ndarray, breaks: np.ndarray, settings: WindowSettings) -> np.ndarray:
    """Where windows start, given where sections begin (and the last ends) and which tokens are in none."""
    # Beginnings and ends of runs, each sorted, pair up: between two beginnings there is exactly one end.
    begins = np.sort(np.concatenate([bounds[:-1], breaks + 1]))
    ends = np.sort(np.concatenate([bounds[1:], breaks]))
    counts = np.maximum((ends - begins - settings.length) // settings.step + 1, 0)
    before = np.cumsum(counts) - counts
    return np.repeat(begins - settings.step * before, counts) + settings.step * np.arange(counts.sum())


def _hashes(tokens: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Hashes, int64 `[W]`, of the windows that start there."""
    codes = _mix(tokens.astype(np.uint64) + np.uint64(1))
    hashes = np.full(len(starts), length, dtype=np.uint64)
    for i in range(length):
        hashes = _mix(hashes * np.uint64(0x9E3779B97F4A7C15) + codes[starts + i])
    found = hashes.view(np.int64)
    found[found == NO_HASH] -= 1
    return found


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: a bijection of 64 bits in which each bit depends on all."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

"""Windows: n consecutive tokens of a document, the dataset counterpart of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int
from numpy.lib.stride_tricks import sliding_window_view

from dreamy_lens.corpus.corpus import Block
from dreamy_lens.corpus.tokenizing import character_offsets, encode_sections
from dreamy_lens.errors import SettingsError, quoted
from dreamy_lens.models.vocabulary import Vocabulary

NO_HASH = 2**63 - 1
"""Number that is the hash of no window, and so can stand for "no window"."""


@dataclass(frozen=True)
class WindowSettings:
    """Length, stride and context of windows.

    Attributes:
        length: Number of tokens of a window, at least 1.
        stride: Number of tokens between the starts of two neighbouring windows of a document. None is `length`, so that
            windows do not overlap. 1 takes every possible window.
        context: Number of tokens before and after a window that are shown with it.

    >>> WindowSettings(length=8).step
    8
    """

    length: int = 12
    stride: int | None = None
    context: int = 24

    def __post_init__(self) -> None:
        # Arrays with a column for each token of a window and of the text around it are allocated for every block.
        for name, least, most in (("length", 1, 10**6), ("stride", 1, 2**63 - 1), ("context", 0, 10**5)):
            value = getattr(self, name)
            if name == "stride" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise SettingsError(f"{name} is a whole number of tokens, at least {least}; got {quoted(value)}.")
            if value > most:
                raise SettingsError(f"{name} is at most {most:,} tokens; got {quoted(value)}.")

    @property
    def step(self) -> int:
        """Number of tokens between the starts of two neighbouring windows."""
        return self.length if self.stride is None else self.stride


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of one block.

    Attributes:
        tokens: Token ids of the block's sections, one section after the other, without BOS, int32 `[tokens]`.
        starts: Index in `tokens` of the first token of each window, int64 `[windows]`: window w is
            ``tokens[starts[w] : starts[w] + length]``. Windows are in the order of the corpus. Of equal windows, only
            the first one of the block is kept.
        section: Section of each window, an index into ``block.sections``, int32 `[windows]`.
        bounds: Index in `tokens` of the first token of each section, then the end, int64 `[sections + 1]`.
        hashes: Hash of each window's ids, int64 `[windows]`. Equal windows have equal hashes; two different windows
            have equal hashes with probability 2**-64. No hash is :data:`NO_HASH`.
        duplicates: Number of windows that were dropped because they repeat an earlier one.
        short: Number of sections that have no window, because their runs of ordinary tokens are too short.
        length: Number of tokens of a window.
        block: Block from which the windows are cut.
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
        """Token ids of every window, int64 `[windows, length]`."""
        if not len(self.starts):
            return np.zeros((0, self.length), dtype=np.int64)
        return sliding_window_view(self.tokens, self.length)[self.starts].astype(np.int64)

    def character(self, w: int) -> int:
        """Return the offset in the document, in characters, at which the text of window `w` begins."""
        return int(self.characters([w])[0])

    def characters(self, which: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the offsets in their documents, in characters, at which the texts of several windows begin.

        ``document[offset:]`` begins with the window's text, with two exceptions. If the window begins inside a
        character, the offset is that of the character. If the tokenizer changes text, for example to lower case, the
        texts may differ. The sections that contain the windows are tokenized again.

        Args:
            which: Indices of windows.

        Returns:
            Offsets, int64 `[len(which)]`.
        """
        which = np.asarray(which, dtype=np.int64)
        offsets = np.zeros(len(which), dtype=np.int64)
        for s in np.unique(self.section[which]):
            rows = np.flatnonzero(self.section[which] == s)
            starts = self.starts[which[rows]]
            runs = [(int(start - self.bounds[s]), self.tokens[start : start + self.length]) for start in starts]
            section = self.block.sections[s]
            offsets[rows] = section.start + np.array(character_offsets(section.text, runs, self.vocabulary))
        return offsets


def cut_windows(block: Block, vocabulary: Vocabulary, settings: WindowSettings) -> Windows:
    """Cut a block into windows, one every `step` tokens.

    Counting begins at the start of each section, and again after each special token. No window crosses the end of a
    section, and none contains a special token: a special token in the text, such as ``"<|endoftext|>"``, ends one
    document and begins another.

    Args:
        block: Block of a corpus.
        vocabulary: Vocabulary of the model.
        settings: Length and stride of the windows.

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
    """Return whether each token belongs to no window, because it is special or has no embedding; bool `[tokens]`."""
    special = np.zeros(vocabulary.size, dtype=bool)
    special[[i for i in vocabulary.special if 0 <= i < vocabulary.size]] = True
    inside = (tokens >= 0) & (tokens < vocabulary.size)
    return ~inside | special[np.where(inside, tokens, 0)]


def _starts(bounds: np.ndarray, breaks: np.ndarray, settings: WindowSettings) -> np.ndarray:
    """Return the index of the first token of each window.

    Args:
        bounds: Index of the first token of each section, then the end.
        breaks: Indices of tokens that belong to no window.
        settings: Length and stride of the windows.
    """
    # Sorted beginnings and ends of runs belong together, because exactly one end lies between two beginnings.
    begins = np.sort(np.concatenate([bounds[:-1], breaks + 1]))
    ends = np.sort(np.concatenate([bounds[1:], breaks]))
    counts = np.maximum((ends - begins - settings.length) // settings.step + 1, 0)
    before = np.cumsum(counts) - counts
    return np.repeat(begins - settings.step * before, counts) + settings.step * np.arange(counts.sum())


def _hashes(tokens: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Return a hash of each window, int64 `[windows]`."""
    codes = _mix(tokens.astype(np.uint64) + np.uint64(1))
    hashes = np.full(len(starts), length, dtype=np.uint64)
    for i in range(length):
        hashes = _mix(hashes * np.uint64(0x9E3779B97F4A7C15) + codes[starts + i])
    signed = hashes.view(np.int64)
    signed[signed == NO_HASH] -= 1
    return signed


def _mix(x: np.ndarray) -> np.ndarray:
    """Apply the finaliser of splitmix64: a bijection of 64 bits in which each bit depends on all bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

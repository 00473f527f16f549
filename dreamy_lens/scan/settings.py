"""What can be chosen about a scan, besides model, corpus and features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dreamy_lens.corpus.windows import WindowSettings
from dreamy_lens.errors import SettingsError
from dreamy_lens.scan.feature_stats import BINS, LEVELS

STATE = 4 << 30
"""Bytes of what is kept of all features, at most."""


@dataclass(frozen=True)
class ScanSettings:
    """Of a scan, besides model, corpus and features.

    Attributes:
        k: how many of each feature's strongest windows are kept.
        length: tokens of a window.
        stride: tokens from one window to the next; None is `length`.
        context: tokens shown on each side of a kept window.
        tokens: scan windows of so many tokens in all, a random sample of the corpus; None scans all of it. Of each
            block its share by characters; or, where that is few windows, some of blocks that are drawn by characters.
        seed: of the samples; with None, `tokens` are the first of the corpus.
        cross_entropy: whether that of every window is measured.
        sample: windows drawn at random, of which every feature's values are kept.
        prepend_bos: whether a BOS stands before every window; None is the model's convention.
        batch_size: windows in one pass; None chooses.
    """

    k: int = 64
    length: int = 12
    stride: int | None = None
    context: int = 24
    tokens: int | None = None
    seed: int | None = 0
    cross_entropy: bool = True
    sample: int = 1024
    prepend_bos: bool | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("k", 1), ("tokens", 1), ("seed", 0), ("sample", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if value is None and name in ("tokens", "seed", "batch_size"):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise SettingsError(f"{name} is a whole number of at least {least}; got {value!r}.")
        for name in ("cross_entropy", "prepend_bos"):
            value = getattr(self, name)
            if not isinstance(value, (bool, np.bool_)) and (value is not None or name == "cross_entropy"):
                also = "" if name == "cross_entropy" else ", or None"
                raise SettingsError(f"{name} is True or False{also}; got {value!r}.")
        if self.tokens is not None and self.tokens < self.length:
            raise SettingsError(f"tokens={self.tokens} is less than one window of {self.length} tokens; ask for more.")
        _ = self.windows

    @property
    def windows(self) -> WindowSettings:
        """How windows are cut."""
        return WindowSettings(self.length, self.stride, self.context)


def check_state(features: int, k: int) -> None:
    """Raise SettingsError if what is kept of so many features, k windows of each, takes too much memory."""
    fixed, each = LEVELS * 12 + BINS * 8 + 48, 20
    size = features * (fixed + k * each)
    if size <= STATE:
        return
    most = (STATE // features - fixed) // each
    advice = f"use a k of at most {most:,}, or fewer features" if most > 0 else "scan fewer features at a time"
    raise SettingsError(
        f"What is kept of {features:,} features with k={k:,} windows of each takes {size / 2**30:,.1f} GB of memory, "
        f"and {STATE >> 30} are the most; {advice}."
    )

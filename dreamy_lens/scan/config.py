"""Settings of a scan."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from dreamy_lens.corpus.windows import WindowSettings
from dreamy_lens.errors import SettingsError, quoted, unknown_setting

_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}

MAX_BYTES = 4 << 30
"""Largest number of bytes that the statistics of all features may take."""


@dataclass(frozen=True)
class ScanConfig:
    """Settings of a scan. All are also keywords of :func:`dreamy_lens.max_activating`.

    Attributes:
        k: Number of each feature's strongest windows that are kept, each text once.
        length: Tokens of a window.
        stride: Tokens from one window to the next; None is `length`.
        context: Tokens to store on each side of a kept window, for display; the model does not read them.
        tokens: Number of tokens to scan, also as a text such as "500k" or "1.5M", in windows that are a random
            sample of the corpus: a share of every block, or, if the shares would be only a few windows, windows of
            randomly drawn blocks. None scans the whole corpus.
        seed: Seed of the random samples. With None, `tokens` are the first tokens of the corpus.
        cross_entropy: Whether to measure the cross-entropy of every window. Otherwise, the scan runs no layers deeper
            than the features', and computes the cross-entropy of the kept windows only.
        sample: Number of windows drawn at random whose values are kept for every feature, to estimate quantiles.
        prepend_bos: Whether a BOS stands before every window; None is the model's convention.
        batch_size: Windows in one pass through the model; None chooses the number.

    Raises:
        SettingsError: A setting is outside its range.

    >>> ScanConfig(length=8, k=16).windows
    WindowSettings(length=8, stride=None, context=24)
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
        if isinstance(self.tokens, str):
            object.__setattr__(self, "tokens", parse_count(self.tokens))
        for name, minimum in (("k", 1), ("tokens", 1), ("seed", 0), ("sample", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if value is None and name in ("tokens", "seed", "batch_size"):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < minimum:
                raise SettingsError(f"{name} is a whole number of at least {minimum}; got {quoted(value)}.")
            most = 2**128 if name == "seed" else 2**63 - 1
            if value > most:
                raise SettingsError(f"{name} is at most {most:,}; got {quoted(value)}.")
        for name in ("cross_entropy", "prepend_bos"):
            value = getattr(self, name)
            if not isinstance(value, (bool, np.bool_)) and (value is not None or name == "cross_entropy"):
                also = "" if name == "cross_entropy" else ", or None"
                raise SettingsError(f"{name} is True or False{also}; got {quoted(value)}.")
        if self.tokens is not None and self.tokens < self.length:
            raise SettingsError(f"tokens={self.tokens} is less than one window of {self.length} tokens; ask for more.")
        _ = self.windows

    @property
    def windows(self) -> WindowSettings:
        """Settings by which windows are cut."""
        return WindowSettings(self.length, self.stride, self.context)

    @classmethod
    def from_settings(
        cls, config: ScanConfig | None, settings: dict[str, Any], keywords: Sequence[str] = ()
    ) -> ScanConfig:
        """Return the settings with some fields replaced.

        Args:
            config: Settings to begin with; None is the defaults.
            settings: New values of fields, by name.
            keywords: Names of the caller's other keywords, which an unknown setting may stand for.

        Raises:
            SettingsError: A field does not exist; the message names the nearest one.
        """
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                raise unknown_setting(name, [*known, *keywords])
        if config is not None and not isinstance(config, cls):
            raise SettingsError(f"config is a ScanConfig; got {type(config).__name__!r}.")
        return cls(**({} if config is None else asdict(config)) | settings)


def parse_count(text: str) -> int:
    """Return the number of a text such as "500k".

    Raises:
        SettingsError: The text is not a count.

    >>> parse_count("500k"), parse_count("1.5M"), parse_count("2000")
    (500000, 1500000, 2000)
    """
    match = re.fullmatch(r"([0-9]+(?:[.,_][0-9]+)*)\s*([kKmMgGbB]?)", text.strip())
    try:
        number = math.nan if match is None or len(text) > 400 else float(match[1].replace("_", "").replace(",", ""))
    except ValueError:  # as of "1.2.3"
        number = math.nan
    if match is None or math.isnan(number):
        raise SettingsError(f"{quoted(text)} is not a count; write for example 500000, 500k or 1.5M.")
    count = number * _SIZES[match[2].lower()]
    if count >= 2**63:
        raise SettingsError(f"{quoted(text)} is more than any corpus has.")
    return int(count)


def check_memory(features: int, k: int) -> None:
    """Raise SettingsError if the statistics of the features, with k windows of each, take too much memory."""
    from dreamy_lens.scan.feature_stats import BINS
    from dreamy_lens.scan.window import LEVELS

    fixed, per_window = LEVELS * 12 + BINS * 8 + 48, 20
    size = features * (fixed + k * per_window)
    if size <= MAX_BYTES:
        return
    most = (MAX_BYTES // features - fixed) // per_window
    advice = f"use a k of at most {most:,}, or fewer features" if most > 0 else "scan fewer features at a time"
    raise SettingsError(
        f"The statistics of {features:,} features with k={k:,} windows of each take {size / 2**30:,.1f} GB of memory, "
        f"and the limit is {MAX_BYTES >> 30} GB; {advice}."
    )

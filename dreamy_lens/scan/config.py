"""The settings of a scan."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from dreamy_lens.corpus.windows import WindowSettings
from dreamy_lens.errors import SettingsError, unknown_setting
from dreamy_lens.scan.feature_stats import BINS, LEVELS

MOST_BYTES = 4 << 30
"""Bytes of memory that the statistics of all features may take."""


@dataclass(frozen=True)
class ScanConfig:
    """Settings of a scan. All are also keywords of :func:`dreamy_lens.max_activating`.

    Attributes:
        k: Number of each feature's strongest windows that are kept, each text once.
        length: Tokens of a window.
        stride: Tokens from one window to the next; None is `length`.
        context: Tokens that are shown on each side of a kept window; the model does not read them.
        tokens: Number of tokens to scan, in windows that are a random sample of the corpus: of every block its share,
            or, where that is few windows, of blocks that are drawn by their characters. None scans the whole corpus.
        seed: Seed of the samples; with None, `tokens` are the first tokens of the corpus.
        cross_entropy: Whether the cross-entropy of every window is measured. Without, only the cross-entropy of the
            kept windows is computed, and layers deeper than the features' are not run.
        sample: Number of windows drawn at random, of which every feature's value is kept, for quantiles.
        prepend_bos: Whether a BOS stands before every window; None is the model's convention.
        batch_size: Windows in one pass through the model; None chooses.

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

    @classmethod
    def from_settings(cls, config: ScanConfig | None, settings: dict[str, Any]) -> ScanConfig:
        """Return a configuration with some fields replaced.

        Args:
            config: Configuration to begin with; None is the default.
            settings: New values of fields, by name.

        Raises:
            SettingsError: There is no such field; the message names the nearest.
        """
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                raise unknown_setting(name, known)
        if config is not None and not isinstance(config, cls):
            raise SettingsError(f"config is a ScanConfig; got {type(config).__name__!r}.")
        return cls(**({} if config is None else asdict(config)) | settings)


def check_state(features: int, k: int) -> None:
    """Raise SettingsError if the statistics of so many features, with k windows of each, take too much memory."""
    fixed, each = LEVELS * 12 + BINS * 8 + 48, 20
    size = features * (fixed + k * each)
    if size <= MOST_BYTES:
        return
    most = (MOST_BYTES // features - fixed) // each
    advice = f"use a k of at most {most:,}, or fewer features" if most > 0 else "scan fewer features at a time"
    raise SettingsError(
        f"What is kept of {features:,} features with k={k:,} windows of each takes {size / 2**30:,.1f} GB of memory, "
        f"and {MOST_BYTES >> 30} are the most; {advice}."
    )

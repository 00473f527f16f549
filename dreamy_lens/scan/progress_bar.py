"""What is seen of a scan while it goes on, and how it is stopped."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from typing import Any

from dreamy_lens.corpus.corpus import Block
from dreamy_lens.scan.checkpoint import Checkpoint
from dreamy_lens.scan.scanner import Scanner

_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
_UNKNOWN = "{desc}: {elapsed}{postfix}"


class ScanBar:
    """A progress bar: the part of the corpus that was scanned, tokens, tokens per second, time left.

    When it is entered, the scan is prepared: a corpus of which a part is scanned is read through. Nothing is lost if
    that is interrupted, so it is done before any :class:`InterruptGuard` listens.

    Args:
        scanner: whose progress it is.
        shown: None shows it in terminals and notebooks.
    """

    def __init__(self, scanner: Scanner, shown: bool | None = None) -> None:
        from tqdm.auto import tqdm

        self._scanner = scanner
        disable = not (_is_watched() if shown is None else shown)
        self._bar = tqdm(total=1.0, desc="scanning", disable=disable, bar_format=_FORMAT, dynamic_ncols=True)
        self._start: tuple[int, float] | None = None

    def update(self, progress: Checkpoint, block: Block) -> None:
        """Show where the scan stands."""
        if self._bar.disable:
            return
        counts = progress.counts
        if self._start is None:
            self._start = counts["tokens"], self._bar.format_dict["elapsed"]
        part = self._part(progress, block)
        if part is None:
            self._bar.bar_format = _UNKNOWN
        else:
            self._bar.n = min(part, 1.0)
        seconds = self._bar.format_dict["elapsed"] - self._start[1]
        rate = (counts["tokens"] - self._start[0]) / seconds if seconds > 0 else 0.0
        speed = f", {count(rate)} tokens/s" if rate else ""
        self._bar.set_postfix_str(f"{count(counts['tokens'])} tokens{speed}, {self._scanner.features:,} features")

    def _part(self, progress: Checkpoint, block: Block) -> float | None:
        """Of the scan that is done, from 0 to 1; None where nobody knows how much there is."""
        s = self._scanner.settings
        if s.tokens is not None and s.seed is None:
            return progress.counts["tokens"] / s.tokens
        shards = len(self._scanner.corpus.shards)
        if self._scanner.shares is not None:
            total = sum(self._scanner.shares.values())
            return progress.counts["windows"] / total if total else None
        if block.done is None and shards == 1:
            return None
        return (block.shard + (block.done or 0.0)) / shards

    def __enter__(self) -> ScanBar:
        try:
            if self._scanner.is_to_prepare:
                self._bar.bar_format = _UNKNOWN
                self._bar.set_description_str("reading the corpus")
                self._scanner.prepare()
                self._bar.bar_format = _FORMAT
                self._bar.set_description_str("scanning")
        except BaseException:
            self._bar.close()
            raise
        return self

    def __exit__(self, kind: Any, *rest: object) -> None:
        if kind is None and not self._bar.disable and self._start is not None:
            self._bar.n = 1.0 if self._bar.bar_format == _FORMAT else self._bar.n
        self._bar.close()


class DescribingBar:
    """A progress bar for what comes after the scan: values at the tokens of every window that is kept."""

    def __init__(self, shown: bool | None = None) -> None:
        from tqdm.auto import tqdm

        disable = not (_is_watched() if shown is None else shown)
        form = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {elapsed}<{remaining}"
        self._bar = tqdm(desc="values at tokens", disable=disable, bar_format=form, delay=1.0, dynamic_ncols=True)

    def update(self, done: int, of: int) -> None:
        """So many of so many values are known."""
        self._bar.total = of
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> DescribingBar:
        return self

    def __exit__(self, *rest: object) -> None:
        self._bar.close()


class InterruptGuard:
    """Inside, a first Ctrl-C asks to stop where nothing is lost; a second one stops at once.

    Attributes:
        asked: whether there was one.
    """

    def __init__(self) -> None:
        self.asked = False
        self._former: Any = None

    def __enter__(self) -> InterruptGuard:
        if threading.current_thread() is threading.main_thread():
            former = signal.getsignal(signal.SIGINT)
            if former is signal.default_int_handler:  # somebody who has their own knows why
                self._former = signal.signal(signal.SIGINT, self._hear)
        return self

    def _hear(self, *of: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        with contextlib.suppress(RuntimeError):  # the program was just writing something itself
            print("\nstopping ... (Ctrl-C again to stop without waiting)", file=sys.stderr, flush=True)

    def __exit__(self, *rest: object) -> None:
        if self._former is not None:
            signal.signal(signal.SIGINT, self._former)


def count(number: float) -> str:
    """A count for people: three digits and a letter.

    >>> count(999), count(16_540), count(1_234_567), count(5e8)
    ('999', '16.5k', '1.23M', '500M')
    """
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"


def _is_watched() -> bool:
    """Whether somebody would see a progress bar: a notebook, or a terminal."""
    shell = sys.modules.get("IPython")
    instance = shell.get_ipython() if shell is not None else None
    return (instance is not None and hasattr(instance, "kernel")) or sys.stderr.isatty()

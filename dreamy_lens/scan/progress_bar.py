"""Progress bars of a scan, and a guard that lets Ctrl-C stop a scan at a point where nothing is lost."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from typing import Any

from dreamy_lens._host import progress_bar
from dreamy_lens.corpus.corpus import Block
from dreamy_lens.scan.checkpoint import Checkpoint
from dreamy_lens.scan.scanner import Scanner


class TokenBar:
    """Progress bar that shows the scanned part of the corpus, the tokens, and the tokens per second.

    Args:
        shown: Whether to show the bar; None shows it in terminals and notebooks.
        features: Number of features that are scanned for.
        part: Part of the scan that is done already, from 0 to 1.
    """

    FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    FORMAT_WITHOUT_END = "{desc}: {elapsed}{postfix}"

    def __init__(self, shown: bool | None, features: int, part: float = 0.0) -> None:
        self._bar = progress_bar(shown, total=1.0, initial=part, desc="scanning", bar_format=self.FORMAT)
        self._features = features
        self._start: tuple[int, float] | None = None

    @property
    def is_shown(self) -> bool:
        """True if the bar is shown."""
        return not self._bar.disable

    def show(self, tokens: int, part: float | None, *details: str) -> None:
        """Show the progress of the scan.

        Args:
            tokens: Number of tokens that were scanned.
            part: Part of the scan that is done, from 0 to 1; None if the end is not known.
            *details: Other texts to show after the number of features.
        """
        if part is None:
            self._bar.bar_format = self.FORMAT_WITHOUT_END
        else:
            self._bar.n = min(part, 1.0)
        postfix = [f"{compact_count(tokens)} tokens", self._speed(tokens), f"{self._features:,} features", *details]
        self._bar.set_postfix_str(", ".join(filter(None, postfix)))

    def _speed(self, tokens: int) -> str:
        """Return the tokens per second since :meth:`show` was first called."""
        seconds = self._bar.format_dict["elapsed"]
        if self._start is None:
            self._start = tokens, seconds
        before, start = self._start
        rate = (tokens - before) / (seconds - start) if seconds > start else 0.0
        return f"{compact_count(rate)} tokens/s" if rate else ""

    def __exit__(self, *error: object) -> None:
        self._bar.close()


class ScanBar(TokenBar):
    """Progress bar of a scan in this process.

    Entering the bar prepares the scan: if a random part of the corpus is to be scanned, the corpus is read once. An
    interrupt loses nothing then, so this comes before an :class:`InterruptGuard` is entered.

    Args:
        scanner: Scanner whose progress to show.
        shown: Whether to show the bar; None shows it in terminals and notebooks.
    """

    def __init__(self, scanner: Scanner, shown: bool | None = None) -> None:
        super().__init__(shown, scanner.features)
        self._scanner = scanner

    def update(self, checkpoint: Checkpoint, block: Block) -> None:
        """Show the progress of the scan."""
        if self.is_shown:
            self.show(checkpoint.counts["tokens"], self._part(checkpoint, block))

    def _part(self, checkpoint: Checkpoint, block: Block) -> float | None:
        """Return the part of the scan that is done, from 0 to 1; None where the size of the corpus is not known."""
        config = self._scanner.config
        if config.tokens is not None and config.seed is None:
            return checkpoint.counts["tokens"] / config.tokens
        if self._scanner.shares is not None:
            total = sum(self._scanner.shares.values())
            return checkpoint.counts["windows"] / total if total else None
        return self._scanner.corpus.share_before(block.shard, block.done)

    def __enter__(self) -> ScanBar:
        try:
            if self._scanner.needs_preparation:
                self._bar.bar_format = self.FORMAT_WITHOUT_END
                self._bar.set_description_str("reading the corpus")
                self._scanner.prepare()
                self._bar.bar_format = self.FORMAT
                self._bar.set_description_str("scanning")
        except BaseException:
            self._bar.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None and self.is_shown and self._start is not None:
            self._bar.n = 1.0 if self._bar.bar_format == self.FORMAT else self._bar.n
        super().__exit__(*error)


class ValuesBar:
    """Progress bar of the step after a scan, which computes values at the tokens of every kept window.

    Args:
        shown: Whether to show the bar; None shows it in terminals and notebooks.
    """

    FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {elapsed}<{remaining}"

    def __init__(self, shown: bool | None = None) -> None:
        self._bar = progress_bar(shown, desc="values at tokens", bar_format=self.FORMAT, delay=1.0)

    def update(self, done: int, total: int) -> None:
        """Show the number of known values, of all values."""
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> ValuesBar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()


class InterruptGuard:
    """Context in which a first Ctrl-C requests a stop at a point where nothing is lost, and a second stops at once.

    Attributes:
        stop_requested: Whether Ctrl-C was pressed.
    """

    def __init__(self) -> None:
        self.stop_requested = False
        self._former: Any = None

    def __enter__(self) -> InterruptGuard:
        if threading.current_thread() is threading.main_thread():
            former = signal.getsignal(signal.SIGINT)
            if former is signal.default_int_handler:  # a program keeps a handler of its own
                self._former = signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def _on_interrupt(self, *arguments: Any) -> None:
        if self.stop_requested:
            raise KeyboardInterrupt
        self.stop_requested = True
        with contextlib.suppress(RuntimeError):  # the program may be in the middle of writing to stderr
            print("\nstopping ... (Ctrl-C again to stop without waiting)", file=sys.stderr, flush=True)

    def __exit__(self, *error: object) -> None:
        if self._former is not None:
            signal.signal(signal.SIGINT, self._former)


def compact_count(number: float) -> str:
    """Return a count with three digits and a letter for its unit.

    >>> compact_count(999), compact_count(16_540), compact_count(1_234_567), compact_count(5e8)
    ('999', '16.5k', '1.23M', '500M')
    """
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"

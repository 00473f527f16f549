"""Content of a comparison: dreams and windows of one feature, and the conclusions from them, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from dreamy_lens.comparison.corpus_frontier import CorpusFrontier
from dreamy_lens.comparison.overlap import MEMORIZED, Overlap
from dreamy_lens.comparison.scan_source import ScanSource
from dreamy_lens.comparison.statements import Statement, make_statement
from dreamy_lens.html.words import format_values, plural
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.scan.window import Histogram, Window, frontier_windows
from dreamy_lens.search.pareto import hypervolume

SEARCH_ALL = "compare(..., corpus=...)"
"""Call that searches a whole corpus, as sentences name it; the command line has an option in its place."""


@dataclass(frozen=True, eq=False, repr=False)
class ComparisonContent:
    """Content of a comparison of dreams with the windows of a corpus. Pages, drawings and figures show it.

    Attributes:
        feature: Text form of the feature.
        title: Short name of the feature.
        model: Name of the model.
        frontier: Joint frontier of all runs; its prompts are the dreams.
        seeds: Seed of each run.
        evaluated: Number of prompts that the runs evaluated; None if unknown.
        top: Strongest windows, best first.
        fluent: Strongest window of each quarter of a nat; empty if the scan measured no cross-entropies.
        quantiles: Shares, each with windows whose value is near that quantile of all windows.
        cloud: Cross-entropy and value of windows sampled at random, `[S, 2]`.
        histogram: Histogram of the values of all windows.
        scanned: Corpus and scan that the windows are from.
        overlaps: Overlap of each dream with the corpus.
        limits: Cross-entropies that :attr:`statements` are about.
        series: Value of the feature if the prompt ended at each token, by token ids, where it was computed.
        warnings: Sentences about differences between runs and scan that a reader must know.
        settings: Settings of the runs, for the end of a page.
        quantile_values: Quantile for each share of :attr:`quantiles`: the value that this share of all windows does not
            exceed.
        fluent_levels: Number of the quarter of a nat of each window of :attr:`fluent`; None computes it from the
            window's cross-entropy.
        code: Program that makes the comparison again, as Python; "" if it is unknown.
    """

    feature: str
    title: str
    model: str
    frontier: Frontier
    seeds: tuple[int | None, ...]
    evaluated: int | None
    top: tuple[Window, ...]
    fluent: tuple[Window, ...]
    quantiles: tuple[tuple[float, tuple[Window, ...]], ...]
    cloud: np.ndarray
    histogram: Histogram
    scanned: ScanSource
    overlaps: tuple[Overlap, ...]
    limits: tuple[float, ...]
    series: Mapping[tuple[int, ...], np.ndarray] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    quantile_values: tuple[float, ...] = ()
    fluent_levels: tuple[int, ...] | None = None
    code: str = ""

    @cached_property
    def corpus_frontier(self) -> CorpusFrontier:
        """Bounds of the values that the corpus reaches at each cross-entropy."""
        scanned = self.scanned
        return CorpusFrontier(self.top, self.fluent, scanned.measured, self._complete, self.fluent_levels)

    @property
    def _complete(self) -> bool:
        """True if the scan kept every window of the corpus."""
        return len(self.top) >= self.scanned.windows

    @cached_property
    def statements(self) -> tuple[Statement, ...]:
        """Statement for each cross-entropy of :attr:`limits`."""
        scanned = self.scanned.extent
        return tuple(make_statement(c, self.frontier, self.corpus_frontier, scanned) for c in self.limits)

    @property
    def headline(self) -> Statement:
        """First of :attr:`statements` that is about a dream."""
        return next((s for s in self.statements if s.dream is not None), self.statements[0])

    @property
    def sentence(self) -> str:
        """Comparison in one sentence, the text of :attr:`headline`."""
        return self.headline.text

    @cached_property
    def beyond(self) -> tuple[bool, ...]:
        """True for each dream that is certainly stronger than all windows of the corpus that are at least as fluent."""
        return tuple(self.corpus_frontier.beyond(p.value, p.cross_entropy) for p in self.frontier)

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """Kept windows that no kept window beats in both value and cross-entropy, from fluent to strong."""
        return frontier_windows([*self.top, *self.fluent])

    @property
    def reference(self) -> tuple[float, float] | None:
        """Lowest value and highest cross-entropy of both frontiers; None if both are empty."""
        points = [(p.value, p.cross_entropy) for p in (*self.frontier, *self.windows) if p.cross_entropy is not None]
        return (min(v for v, _ in points), max(c for _, c in points)) if points else None

    def hypervolume(self, reference: tuple[float, float] | None = None) -> tuple[float, float]:
        """Return the area under the frontier of the dreams and under that of the windows. Larger is better.

        The area of the windows is a lower bound: between the windows that a scan keeps there may be others, within a
        quarter of a nat of cross-entropy if the scan measured it.

        Args:
            reference: (value, cross-entropy) from which both areas are measured; None is :attr:`reference`.
        """
        reference = self.reference if reference is None else reference
        if reference is None:
            return 0.0, 0.0
        dreams = self.frontier.hypervolume(reference)
        pairs = [(w.value, w.cross_entropy) for w in self.windows if w.cross_entropy is not None]
        if not pairs:
            return dreams, 0.0
        return dreams, hypervolume([v for v, _ in pairs], [c for _, c in pairs], reference)

    @property
    def summary(self) -> str:
        """All statements, findings and warnings of the comparison, one sentence per line."""
        return "\n".join([*(s.text for s in self.statements), *self.findings, *self.warnings])

    @property
    def findings(self) -> tuple[str, ...]:
        """Further sentences besides :attr:`statements`: dreams beyond the corpus, hypervolumes, memorized dreams."""
        sentences = [self._beyond_sentence()] if len(self.frontier) else []
        if self.reference is not None:
            (value, cost), areas = self.reference, self.hypervolume()
            dreams, windows, low = format_values(*areas, value)
            kept = "" if self.scanned.measured else f" (of the {plural(len(self.top), 'kept window')})"
            windows = f"at least {windows}" if self.scanned.measured and not self._complete else windows
            sentences.append(
                f"Hypervolume, the area under the frontier above value {low} and up to cross-entropy {cost:.2f}: "
                f"dreams {dreams}, windows {windows}{kept}."
            )
        memorized = self._memorized_sentence()
        return (*sentences, *([memorized] if memorized else []))

    def _beyond_sentence(self) -> str:
        """Say how many dreams are beyond the corpus."""
        n, total = sum(self.beyond), len(self.frontier)
        if n == total:
            subject = "Every dream of the frontier is" if total > 1 else "The dream is"
            return f"{subject} stronger than all windows that are at least as fluent."
        if n == 0:
            return "No dream is known to be stronger than all windows that are at least as fluent."
        subject = f"{n} of the {total} dreams on the frontier {'is' if n == 1 else 'are'}"
        return f"{subject} stronger than all windows that are at least as fluent."

    def _memorized_sentence(self) -> str:
        """Say how many dreams share so much text with the corpus that they may be memorized."""
        if not self.overlaps:
            return ""
        most = max(range(len(self.overlaps)), key=lambda i: (self.overlaps[i].longest.share, i))
        span, searched = self.overlaps[most].longest, any(o.corpus is not None for o in self.overlaps)
        where = "the corpus" if searched else "the kept and sampled windows and their context"
        if not span.length:
            return f"No token of any dream appears in {where}."
        if span.share < MEMORIZED:
            start = f"No dream has more than {span.length} of {span.total} tokens in a row in common with {where}"
            rest = ": none appears to be memorized." if searched else f"; {SEARCH_ALL} searches the whole corpus."
            return start + rest
        count = sum(o.longest.share >= MEMORIZED for o in self.overlaps)
        return (
            f"{plural(count, 'dream')} may be partly memorized: of dream {most + 1}, {span}"
            f"{'' if searched else ', the source of a kept window'}."
        )

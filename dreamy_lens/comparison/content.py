"""Dreams and windows of one feature side by side, and what follows from them, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from dreamy_lens.comparison.corpus_frontier import CorpusFrontier
from dreamy_lens.comparison.overlap import REMEMBERED, Overlap, SharedSpan
from dreamy_lens.comparison.scan_source import ScanSource
from dreamy_lens.comparison.statements import Statement, state
from dreamy_lens.html.words import plural, values
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.results.pareto import hypervolume
from dreamy_lens.scan.window import Histogram, Window, frontier_windows


@dataclass(frozen=True, eq=False, repr=False)
class ComparisonContent:
    """Dreams against the windows of a corpus: what pages, drawings and figures are made of.

    Attributes:
        feature: its text.
        title: the same in short.
        model: its name.
        frontier: the dreams that no other beats, of all runs.
        seeds: of the runs.
        evaluated: prompts that they evaluated, if known.
        top: the strongest windows, best first.
        fluent: the strongest window of each quarter of a nat, where all cross-entropies were measured.
        quantiles: shares, and windows about as strong as that share of the corpus is weaker than.
        cloud: cross-entropy and value of windows drawn at random, `[S, 2]`.
        histogram: of the values of all windows.
        scanned: what the windows are from.
        overlaps: for each dream of the frontier, what it has in common with the corpus.
        limits: cross-entropies that :attr:`statements` are about.
        series: by ids, the feature's value if the prompt ended at each token, where it was worked out.
        warnings: what a reader must know.
        settings: of the runs, for the foot of a page.
        quantile_values: for each of :attr:`quantiles`, the value that such a share of all windows does not exceed.
        fluent_levels: for each of :attr:`fluent`, which quarter of a nat it is the strongest of.
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

    @cached_property
    def reach(self) -> CorpusFrontier:
        """What the corpus is known to reach at each cross-entropy."""
        scanned = self.scanned
        return CorpusFrontier(self.top, self.fluent, scanned.measured, self._whole, self.fluent_levels)

    @property
    def _whole(self) -> bool:
        """Whether every window there is was kept."""
        return len(self.top) >= self.scanned.windows

    @cached_property
    def statements(self) -> tuple[Statement, ...]:
        """One for each of :attr:`limits`."""
        return tuple(state(c, self.frontier, self.reach, self.scanned.extent) for c in self.limits)

    @property
    def headline(self) -> Statement:
        """The first of :attr:`statements` that is about a dream."""
        return next((s for s in self.statements if s.dream is not None), self.statements[0])

    @property
    def sentence(self) -> str:
        """The comparison in a sentence: that of :attr:`headline`."""
        return self.headline.text

    @cached_property
    def beyond(self) -> tuple[bool, ...]:
        """For each dream, whether it lies where no window of the corpus does, for certain."""
        return tuple(self.reach.beyond(p.value, p.cross_entropy) for p in self.frontier)

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """The kept windows that no kept one beats in both value and cross-entropy, fluent to strong."""
        return frontier_windows([*self.top, *self.fluent])

    @property
    def reference(self) -> tuple[float, float] | None:
        """The lowest value and the highest cross-entropy of both frontiers; None if neither has any."""
        points = [(p.value, p.cross_entropy) for p in (*self.frontier, *self.windows) if p.cross_entropy is not None]
        return (min(v for v, _ in points), max(c for _, c in points)) if points else None

    def hypervolume(self, reference: tuple[float, float] | None = None) -> tuple[float, float]:
        """Area under both frontiers, dreams first, from a common reference; larger is better.

        That of the windows is at least so large: between those that are kept there may be others, within a quarter of
        a nat of cross-entropy where the scan measured it.

        Args:
            reference: (value, cross-entropy); None is :attr:`reference`.
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
        """What the comparison found, a sentence a line; what must be known to read it comes last."""
        return "\n".join([*(s.text for s in self.statements), *self.findings, *self.warnings])

    @property
    def findings(self) -> tuple[str, ...]:
        """What is said besides :attr:`statements`: how many dreams are beyond the corpus, areas, what is remembered."""
        found = [self._beyond()] if len(self.frontier) else []
        if self.reference is not None:
            (value, cost), areas = self.reference, self.hypervolume()
            mine, theirs, low = values(*areas, value)
            few = "" if self.scanned.measured else f" (of the {plural(len(self.top), 'kept window')})"
            theirs = f"at least {theirs}" if self.scanned.measured and not self._whole else theirs
            found.append(
                f"Hypervolume from value {low} and cross-entropy {cost:.2f}: dreams {mine}, windows {theirs}{few}."
            )
        remembered = self._remembered()
        return (*found, *([remembered] if remembered else []))

    def _beyond(self) -> str:
        n, total = sum(self.beyond), len(self.frontier)
        if n == total:
            many = "Every dream of the frontier is" if total > 1 else "The dream is"
            return f"{many} stronger than all windows at least as fluent."
        if n == 0:
            return "No dream is known to be stronger than all windows at least as fluent."
        return f"{n} of the {total} dreams on the frontier are stronger than all windows at least as fluent."

    def _remembered(self) -> str:
        if not self.overlaps:
            return ""
        best = max(range(len(self.overlaps)), key=lambda i: (self.overlaps[i].most.share, i))
        shared, whole = self.overlaps[best].most, any(o.corpus is not None for o in self.overlaps)
        where = "the corpus" if whole else "the kept and sampled windows and what surrounds them"
        if not shared.length:
            return f"No token of any dream stands in {where}."
        if shared.share < REMEMBERED:
            start = f"No dream has more than {shared.length} of {shared.of} tokens in a row in common with {where}"
            return (
                f"{start}: none is remembered." if whole else f"{start}; compare(..., corpus=...) searches all of it."
            )
        many = sum(o.most.share >= REMEMBERED for o in self.overlaps)
        return (
            f"{plural(many, 'dream')} may be remembered in part: of dream {best + 1}, {shared}"
            f"{'' if whole else ', one of the windows that were kept'}."
        )

    def most_shared(self) -> SharedSpan | None:
        """The longest run of tokens that any dream shares with the corpus."""
        runs = [o.most for o in self.overlaps]
        return max(runs, key=lambda s: s.share) if runs else None

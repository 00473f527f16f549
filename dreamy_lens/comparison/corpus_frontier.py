"""Frontier of a corpus: bounds of the values that its windows reach at each cross-entropy.

A scan keeps only a few of millions of windows, but two facts hold for all windows. No window outside the k strongest is
stronger than the weakest of these k. If the scan measured the cross-entropy of all windows, it also kept the strongest
window of each quarter of a nat. All bounds in this module follow from these two facts, so that no statement about the
corpus claims too much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dreamy_lens.scan.feature_windows import FLUENT_STEP, FeatureWindows
from dreamy_lens.scan.window import LEVELS, Window

LAST = LEVELS - 1
"""Number of the last step of cross-entropy, which has no upper end."""


@dataclass(frozen=True)
class Bounds:
    """Bounds of the best value among the windows of a corpus below some cross-entropy.

    Attributes:
        low: Value that a known window reaches; -inf if no window is known there.
        high: Value that no window exceeds; -inf if there is certainly no window there.
        window: Window that reaches `low`; None if no window is known there.
    """

    low: float
    high: float
    window: Window | None

    @property
    def exact(self) -> bool:
        """True if the best value of all windows is known exactly."""
        return self.low == self.high

    @property
    def empty(self) -> bool:
        """True if there is certainly no window below this cross-entropy."""
        return self.high == -math.inf


class CorpusFrontier:
    """Frontier of the windows of a corpus, as far as the kept windows determine it.

    Args:
        top: Strongest windows, best first.
        fluent: Strongest window of each step of cross-entropy, if `measured`.
        measured: Whether the scan measured the cross-entropy of all windows.
        complete: Whether `top` has every window of the corpus.
        levels: Number of the step of each window of `fluent`; None computes it from the window's cross-entropy.

    Attributes:
        scored: Kept windows with a finite cross-entropy, from fluent to strong.
    """

    def __init__(
        self,
        top: Sequence[Window],
        fluent: Sequence[Window] = (),
        measured: bool = False,
        complete: bool = False,
        levels: Sequence[int] | None = None,
    ) -> None:
        self.top, self.fluent, self.measured, self.complete = tuple(top), tuple(fluent), measured, complete
        scored = {
            w.number: w for w in (*top, *fluent) if w.cross_entropy is not None and math.isfinite(w.cross_entropy)
        }
        self.scored = tuple(sorted(scored.values(), key=lambda w: (w.cross_entropy, -w.value)))
        # A strong window without a known cross-entropy may be arbitrarily fluent.
        unknown = [w.value for w in top if w.cross_entropy is None]
        weakest = min((w.value for w in top), default=math.inf)
        self._unscored_bound = max([*unknown, -math.inf if complete else weakest])
        levels = [_level(w.cross_entropy) for w in fluent] if levels is None else levels
        self._best_of_step = {level: w.value for level, w in zip(levels, fluent, strict=True)}

    @classmethod
    def of(cls, examples: FeatureWindows) -> CorpusFrontier:
        """Return the frontier of one feature's examples."""
        complete = len(examples.top) >= examples.windows
        return cls(examples.top, examples.fluent, examples.measured, complete, examples.fluent_levels)

    def below(self, limit: float, inclusive: bool = False) -> Bounds:
        """Return the bounds for windows with a cross-entropy below a limit.

        Args:
            limit: Cross-entropy in nats per token; infinity is no limit.
            inclusive: Whether windows exactly at the limit count too.
        """
        best: Window | None = None
        for window in self.scored:
            cost = window.cross_entropy
            if cost is not None and (cost < limit or (inclusive and cost == limit)):
                best = window if best is None or window.value > best.value else best
        low = -math.inf if best is None else best.value
        if limit == math.inf and self.top:
            return Bounds(self.top[0].value, self.top[0].value, self.top[0])
        high = max(low, self._unscored_bound)
        if self.measured:
            # The strongest window of a step may lie anywhere in it, so a step counts if it begins below the limit.
            begun = [
                v
                for step, v in self._best_of_step.items()
                if step * FLUENT_STEP < limit or (inclusive and step * FLUENT_STEP == limit)
            ]
            high = min(high, max([*begun, low]))
        return Bounds(low, high, best)

    def ceiling(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the line above which no window lies, as steps.

        Returns:
            Cross-entropies at which the line rises, `[S]`, of which the first is -inf; and the highest value that
            windows may reach from there on, `[S]`, -inf where there are no windows.
        """
        edges = {w.cross_entropy for w in self.scored} | {step * FLUENT_STEP for step in self._best_of_step}
        costs = [-math.inf, *sorted(float(e) for e in edges if e is not None)]
        highs = [self.below(c, inclusive=True).high if c > -math.inf else self._most_fluent_bound() for c in costs]
        keep = [i for i in range(len(costs)) if i == 0 or highs[i] > highs[i - 1]]
        return np.array([costs[i] for i in keep]), np.array([highs[i] for i in keep])

    def beyond(self, value: float, cross_entropy: float) -> bool:
        """Return whether certainly no window that is at least as fluent reaches a value."""
        return value > self.below(cross_entropy, inclusive=True).high

    def _most_fluent_bound(self) -> float:
        """Return the upper bound for windows that are more fluent than all known windows."""
        return -math.inf if self.measured else self._unscored_bound


def _level(cross_entropy: float | None) -> int:
    """Return the step of a cross-entropy; the last step if it is unknown or infinite."""
    finite = cross_entropy is not None and math.isfinite(cross_entropy)
    return min(math.floor(cross_entropy / FLUENT_STEP), LAST) if finite else LAST  # type: ignore[operator]

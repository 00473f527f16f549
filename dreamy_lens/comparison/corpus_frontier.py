"""What a corpus is known to reach at each fluency, from the windows that were kept of it.

Of millions of windows a scan keeps few, and yet much is known of all of them: no window that is not among the k
strongest is stronger than the weakest of these; and where the cross-entropy of all was measured, the strongest of each
quarter of a nat is there. Everything here is a bound from these two facts, so that no statement about the corpus says
too much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dreamy_lens.scan.feature_windows import FLUENT_STEP, FeatureWindows
from dreamy_lens.scan.window import Window

LAST = 63
"""The number of the last step, which has no end."""


@dataclass(frozen=True)
class Bounds:
    """What the windows of a corpus reach below some cross-entropy.

    Attributes:
        low: what one of them does reach; -inf if none is known.
        high: what none of them exceeds; -inf if there is none at all.
        window: the one that reaches `low`.
    """

    low: float
    high: float
    window: Window | None

    @property
    def exact(self) -> bool:
        """Whether it is known what the best of all windows reaches."""
        return self.low == self.high

    @property
    def nothing(self) -> bool:
        """Whether there is certainly no window there."""
        return self.high == -math.inf


class CorpusFrontier:
    """What the windows of a corpus reach.

    Args:
        top: the strongest, best first.
        fluent: the strongest of each step of cross-entropy, if `measured`.
        measured: whether the cross-entropy of all windows was measured.
        complete: whether `top` has every window there is.
        levels: the steps that `fluent` are the strongest of; None is by their cross-entropies.
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
        known = {w.number: w for w in (*top, *fluent) if w.cross_entropy is not None and math.isfinite(w.cross_entropy)}
        self.known = tuple(sorted(known.values(), key=lambda w: (w.cross_entropy, -w.value)))
        # A strong window of which no cross-entropy is known may be as fluent as any.
        unknown = [w.value for w in top if w.cross_entropy is None]
        weakest = min((w.value for w in top), default=math.inf)
        self._others = max([*unknown, -math.inf if complete else weakest])
        levels = [_level(w.cross_entropy) for w in fluent] if levels is None else levels
        self._bins = {level: w.value for level, w in zip(levels, fluent, strict=True)}

    @classmethod
    def of(cls, examples: FeatureWindows) -> CorpusFrontier:
        """What one feature's examples say."""
        complete = len(examples.top) >= examples.windows
        return cls(examples.top, examples.fluent, examples.measured, complete, examples.fluent_levels)

    def below(self, limit: float, inclusive: bool = False) -> Bounds:
        """What windows with a cross-entropy below a limit reach.

        Args:
            limit: in nats per token; infinity is no limit.
            inclusive: those exactly at the limit count too.
        """
        best: Window | None = None
        for window in self.known:
            cost = window.cross_entropy
            if cost is not None and (cost < limit or (inclusive and cost == limit)):
                best = window if best is None or window.value > best.value else best
        low = -math.inf if best is None else best.value
        if limit == math.inf and self.top:
            return Bounds(self.top[0].value, self.top[0].value, self.top[0])
        high = max(low, self._others)
        if self.measured:
            # The strongest of a step may stand at its end, so a step that has begun counts whole.
            begun = [
                v
                for rank, v in self._bins.items()
                if rank * FLUENT_STEP < limit or (inclusive and rank * FLUENT_STEP == limit)
            ]
            high = min(high, max([*begun, low]))
        return Bounds(low, high, best)

    def ceiling(self) -> tuple[np.ndarray, np.ndarray]:
        """The line above which no window lies, as steps.

        Returns:
            Cross-entropies `[S]` at which it rises, the first of them -inf, and what windows at most reach from there
            on, `[S]`; -inf where there are none.
        """
        edges = {w.cross_entropy for w in self.known} | {rank * FLUENT_STEP for rank in self._bins}
        costs = [-math.inf, *sorted(float(e) for e in edges if e is not None)]
        highs = [self.below(c, inclusive=True).high if c > -math.inf else self._first() for c in costs]
        keep = [i for i in range(len(costs)) if i == 0 or highs[i] > highs[i - 1]]
        return np.array([costs[i] for i in keep]), np.array([highs[i] for i in keep])

    def beyond(self, value: float, cross_entropy: float) -> bool:
        """Whether no window at least as fluent reaches a value, for certain."""
        return value > self.below(cross_entropy, inclusive=True).high

    def _first(self) -> float:
        """What windows more fluent than every one that is known reach at most."""
        return -math.inf if self.measured else self._others


def _level(cross_entropy: float | None) -> int:
    known = cross_entropy is not None and math.isfinite(cross_entropy)
    return min(math.floor(cross_entropy / FLUENT_STEP), LAST) if known else LAST  # type: ignore[operator]

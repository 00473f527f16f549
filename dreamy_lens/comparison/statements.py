"""What a comparison says in sentences, none of which says more than is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dreamy_lens.comparison.corpus_frontier import LAST, Bounds, CorpusFrontier
from dreamy_lens.html.words import format_limit, plural, values
from dreamy_lens.scan.feature_windows import FLUENT_STEP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreamy_lens.results.frontier import Frontier
    from dreamy_lens.results.prompt import Prompt
    from dreamy_lens.scan.window import Window


@dataclass(frozen=True)
class Statement:
    """Dreams and windows below one cross-entropy.

    Attributes:
        limit: cross-entropy in nats per token that both are below; infinity is no limit.
        dream: the strongest dream there, if there is one.
        window: the strongest window that is known there, if there is one.
        low: what windows there do reach, -inf if nothing is known of any.
        high: what none of them exceeds, -inf if there is none.
        text: all this in a sentence.
    """

    limit: float
    dream: Prompt | None
    window: Window | None
    low: float
    high: float
    text: str

    @property
    def exact(self) -> bool:
        """Whether it is known what the best of all windows of the corpus reaches."""
        return self.low == self.high

    @property
    def difference(self) -> float | None:
        """By how much the dream is above the best of all windows; None if one is missing or that is not known."""
        if self.dream is None or not self.exact or not math.isfinite(self.low):
            return None
        return self.dream.value - self.low

    def __str__(self) -> str:
        return self.text


def state(limit: float, frontier: Frontier, reach: CorpusFrontier, tokens: str) -> Statement:
    """What is known below one cross-entropy.

    Args:
        limit: in nats per token; infinity is no limit.
        frontier: of the dreams.
        reach: of the windows.
        tokens: how much text was scanned, as "500M tokens".
    """
    fluent = [p for p in frontier if p.cross_entropy < limit]
    dream, bounds = (fluent[-1] if fluent else None), reach.below(limit)
    if limit == math.inf:
        text = _without_limit(dream, bounds, tokens)
    elif dream is None:
        text = _no_dream(limit, frontier, bounds, tokens)
    else:
        text = _below(limit, dream, bounds, reach, tokens)
    return Statement(limit, dream, bounds.window, bounds.low, bounds.high, text)


def _without_limit(dream: Prompt | None, bounds: Bounds, tokens: str) -> str:
    window = bounds.window
    if dream is None:
        return "No dream has finite scores."
    if window is None:
        return f"The strongest dream reaches {values(dream.value)[0]}; no window of {tokens} was kept."
    mine, theirs, apart = values(dream.value, window.value, abs(dream.value - window.value))
    at = f"{mine} at cross-entropy {dream.cross_entropy:.2f} against {theirs}"
    cost = window.cross_entropy
    at += "" if cost is None or not math.isfinite(cost) else f" at {cost:.2f}"
    return f"The strongest dream is {_apart(dream.value - window.value, apart)} the strongest of {tokens} ({at})."


def _no_dream(limit: float, frontier: Frontier, bounds: Bounds, tokens: str) -> str:
    lowest = f" (the most fluent: {frontier[0].cross_entropy:.2f})" if len(frontier) else ""
    start = f"No dream has a cross-entropy below {format_limit(limit)}{lowest}"
    if bounds.nothing:
        return f"{start}, and neither has any window of {tokens}."
    if bounds.exact:
        return f"{start}; the best of {tokens} reaches {values(bounds.low)[0]} there."
    if bounds.window is not None:
        low, high = values(bounds.low, bounds.high)
        return f"{start}; the best of {tokens} reaches between {low} and {high} there."
    return f"{start}; of {tokens} it is only known that none there exceeds {values(bounds.high)[0]}."


def _below(limit: float, dream: Prompt, bounds: Bounds, reach: CorpusFrontier, tokens: str) -> str:
    start = f"At cross-entropy below {format_limit(limit)} the best dream"
    value, low, high = dream.value, bounds.low, bounds.high
    if bounds.nothing:
        return f"{start} reaches {values(value)[0]}; no window of {tokens} is that fluent."
    if bounds.exact:
        mine, theirs, apart = values(value, low, abs(value - low))
        return f"{start} is {_apart(value - low, apart)} the best of {tokens} ({mine} against {theirs})."
    kept = _kept(reach, limit)
    if value > high:
        mine, theirs, apart = values(value, high, value - high)
        why = f": {kept}" if bounds.window is None else ""
        return f"{start} is at least {apart} above every one of {tokens} ({mine} against at most {theirs}{why})."
    if value < low:
        mine, theirs, apart = values(value, low, low - value)
        return f"{start} is at least {apart} below the best of {tokens} ({mine} against {theirs} or more)."
    if bounds.window is None:
        mine, theirs = values(value, high)
        return (
            f"{start} reaches {mine}. {kept[:1].upper()}{kept[1:]}, so of {tokens} it is only known that none there "
            f"exceeds {theirs}; a scan with cross_entropy=True tells more."
        )
    mine, theirs, apart, most = values(value, low, abs(value - low), high)
    if not reach.measured:
        return (
            f"{start} is {_apart(value - low, apart)} the best of the {plural(len(reach.top), 'kept window')} "
            f"({mine} against {theirs}); others of {tokens} may reach {most} there."
        )
    return (
        f"{start} reaches {mine}, and the best of {tokens} between {theirs} and {most}; at multiples of {FLUENT_STEP:g}"
        f"{f' up to {format_limit(LAST * FLUENT_STEP)}' if limit > LAST * FLUENT_STEP else ''} it is known exactly."
    )


def _kept(reach: CorpusFrontier, limit: float) -> str:
    """That the strongest windows are not fluent enough to say more."""
    if any(w.cross_entropy is None for w in reach.top):
        return f"the cross-entropy of the {plural(len(reach.top), 'kept window')} was not measured"
    return f"none of the {plural(len(reach.top), 'kept window')} has a cross-entropy below {format_limit(limit)}"


def _apart(difference: float, text: str) -> str:
    if difference == 0 or not text.strip("0.,"):
        return "as strong as"
    return f"{text} {'above' if difference > 0 else 'below'}"


def usual_limits(frontier: Frontier, reach: CorpusFrontier) -> tuple[float, ...]:
    """Cross-entropies at which a comparison says something, if nobody chose others.

    The first is as fluent as the strongest window of the corpus, rounded up to half a nat: there the corpus is at its
    best. Then come whole nats at which there are dreams, at most three, and no limit at all.
    """
    costs = [p.cross_entropy for p in frontier]
    strongest = reach.top[0].cross_entropy if reach.top else None
    first = [] if strongest is None or not math.isfinite(strongest) else [(math.floor(2 * strongest) + 1) / 2]
    if not costs:
        return (*first, math.inf)
    whole = list(range(math.floor(costs[0]) + 1, math.floor(costs[-1]) + 1))
    chosen = _spread(whole, 3)
    rest = [float(c) for c in chosen if all(abs(c - f) > 0.5 for f in first)]
    return (*first, *rest, math.inf)


def _spread(items: Sequence[int], most: int) -> list[int]:
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]

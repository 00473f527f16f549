"""Statements of a comparison in sentences, none of which claims more than is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dreamy_lens.comparison.corpus_frontier import LAST, Bounds, CorpusFrontier
from dreamy_lens.html.words import format_limit, format_values, plural
from dreamy_lens.scan.feature_windows import FLUENT_STEP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreamy_lens.results.frontier import Frontier
    from dreamy_lens.results.prompt import Prompt
    from dreamy_lens.scan.window import Window


@dataclass(frozen=True)
class Statement:
    """Comparison of dreams and windows below one cross-entropy.

    Attributes:
        limit: Cross-entropy in nats per token that dreams and windows are below; infinity is no limit.
        dream: Strongest dream below the limit; None if there is none.
        window: Strongest known window below the limit; None if no window is known there.
        low: Value that a known window below the limit reaches; -inf if no window is known there.
        high: Value that no window below the limit exceeds; -inf if there is certainly no window.
        text: Comparison in one sentence.
    """

    limit: float
    dream: Prompt | None
    window: Window | None
    low: float
    high: float
    text: str

    @property
    def exact(self) -> bool:
        """True if the best value of all windows below the limit is known exactly."""
        return self.low == self.high

    @property
    def difference(self) -> float | None:
        """Value of the dream minus the best value of all windows; None if either is missing or not known exactly."""
        if self.dream is None or not self.exact or not math.isfinite(self.low):
            return None
        return self.dream.value - self.low

    def __str__(self) -> str:
        return self.text


def make_statement(limit: float, frontier: Frontier, corpus: CorpusFrontier, tokens: str) -> Statement:
    """Compare dreams and windows below one cross-entropy.

    Args:
        limit: Cross-entropy in nats per token; infinity is no limit.
        frontier: Frontier of the dreams.
        corpus: Frontier of the windows of the corpus.
        tokens: Amount of text that was scanned, such as "500M tokens".
    """
    tokens = f"{tokens.removesuffix(' tokens')} corpus tokens"
    fluent = [p for p in frontier if p.cross_entropy < limit]
    dream, bounds = (fluent[-1] if fluent else None), corpus.below(limit)
    if limit == math.inf:
        text = _without_limit(dream, bounds, tokens)
    elif dream is None:
        text = _no_dream(limit, frontier, bounds, tokens)
    else:
        text = _below(limit, dream, bounds, corpus, tokens)
    return Statement(limit, dream, bounds.window, bounds.low, bounds.high, text)


def _without_limit(dream: Prompt | None, bounds: Bounds, tokens: str) -> str:
    """Return the sentence about the strongest dream and the strongest window of all."""
    window = bounds.window
    if dream is None:
        return "No dream has finite scores."
    if window is None:
        return f"The strongest dream scores {format_values(dream.value)[0]}; no window of {tokens} was kept."
    dream_value, corpus_value, apart = format_values(dream.value, window.value, abs(dream.value - window.value))
    cost = window.cross_entropy
    there = "" if cost is None or not math.isfinite(cost) else f" at {cost:.2f}"
    return (
        f"The strongest dream scores {dream_value} at cross-entropy {dream.cross_entropy:.2f}; the strongest of "
        f"{tokens} scores {corpus_value}{there} ({_signed(dream.value - window.value, apart)})."
    )


def _no_dream(limit: float, frontier: Frontier, bounds: Bounds, tokens: str) -> str:
    """Return the sentence for a limit below which there is no dream."""
    most_fluent = f" (the most fluent: {frontier[0].cross_entropy:.2f})" if len(frontier) else ""
    start = f"No dream has a cross-entropy below {format_limit(limit)}{most_fluent}"
    if bounds.empty:
        return f"{start}, and no window of {tokens} has one either."
    if bounds.exact:
        return f"{start}; the best of {tokens} scores {format_values(bounds.low)[0]} there."
    if bounds.window is not None:
        low, high = format_values(bounds.low, bounds.high)
        return f"{start}; the best of {tokens} scores between {low} and {high} there."
    return f"{start}; of {tokens} it is only known that no window there scores above {format_values(bounds.high)[0]}."


def _below(limit: float, dream: Prompt, bounds: Bounds, corpus: CorpusFrontier, tokens: str) -> str:
    """Return the sentence for a limit below which there is a dream."""
    start = f"Among prompts with cross-entropy below {format_limit(limit)}, the best dream scores"
    value, low, high = dream.value, bounds.low, bounds.high
    if bounds.empty:
        return f"{start} {format_values(value)[0]}; no window of {tokens} is that fluent."
    if bounds.exact:
        dream_value, corpus_value, apart = format_values(value, low, abs(value - low))
        return f"{start} {dream_value}; the best of {tokens} scores {corpus_value} ({_signed(value - low, apart)})."
    kept = _kept(corpus, limit)
    if value > high:
        dream_value, corpus_value, apart = format_values(value, high, value - high)
        reason = f": {kept}" if bounds.window is None else ""
        return f"{start} {dream_value}; the best of {tokens} scores at most {corpus_value} (+{apart} or more{reason})."
    if value < low:
        dream_value, corpus_value, apart = format_values(value, low, low - value)
        return f"{start} {dream_value}; the best of {tokens} scores {corpus_value} or more (−{apart} or less)."
    if bounds.window is None:
        dream_value, corpus_value = format_values(value, high)
        return (
            f"{start} {dream_value}. {kept[:1].upper()}{kept[1:]}, so of {tokens} it is only known that no window "
            f"there scores above {corpus_value}; a scan with cross_entropy=True tells more."
        )
    dream_value, corpus_value, apart, most = format_values(value, low, abs(value - low), high)
    if not corpus.measured:
        return (
            f"{start} {dream_value}; the best of the {plural(len(corpus.top), 'kept window')} scores {corpus_value} "
            f"({_signed(value - low, apart)}); other windows of {tokens} may score up to {most} there."
        )
    end = f" up to {format_limit(LAST * FLUENT_STEP)}" if limit > LAST * FLUENT_STEP else ""
    return (
        f"{start} {dream_value}; the best of {tokens} scores between {corpus_value} and {most}. "
        f"At multiples of {FLUENT_STEP:g}{end} it is known exactly."
    )


def _kept(corpus: CorpusFrontier, limit: float) -> str:
    """Say why the strongest windows do not determine the best window below a limit."""
    if any(w.cross_entropy is None for w in corpus.top):
        return f"the cross-entropy of the {plural(len(corpus.top), 'kept window')} was not measured"
    return f"none of the {plural(len(corpus.top), 'kept window')} has a cross-entropy below {format_limit(limit)}"


def _signed(difference: float, text: str) -> str:
    """Return a difference with its sign, such as "+1.30"; "equal" for none."""
    if difference == 0 or not text.strip("0.,"):
        return "equal"
    return f"{'+' if difference > 0 else '−'}{text}"


def default_limits(frontier: Frontier, corpus: CorpusFrontier) -> tuple[float, ...]:
    """Return the cross-entropies that a comparison makes statements about by default.

    The first is the cross-entropy of the strongest window, rounded up to half a nat, where the corpus is at its best.
    Then follow at most three whole nats at which there are dreams, and infinity, which is no limit.

    Args:
        frontier: Frontier of the dreams.
        corpus: Frontier of the windows of the corpus.
    """
    costs = [p.cross_entropy for p in frontier]
    strongest = corpus.top[0].cross_entropy if corpus.top else None
    first = [] if strongest is None or not math.isfinite(strongest) else [(math.floor(2 * strongest) + 1) / 2]
    if not costs:
        return (*first, math.inf)
    nats = list(range(math.floor(costs[0]) + 1, math.floor(costs[-1]) + 1))
    rest = [float(c) for c in _spread(nats, 3) if all(abs(c - f) > 0.5 for f in first)]
    return (*first, *rest, math.inf)


def _spread(items: Sequence[int], most: int) -> list[int]:
    """Return at most `most` items, evenly spread, with the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]

"""Attribution to look at: a strip of tokens, each with a card of its best and worst substitutes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dreamy_lens.figures.protocols import TokenAttribution, TokenSubstitute
from dreamy_lens.html.escaping import Html, escape
from dreamy_lens.html.numbers import decimals, number
from dreamy_lens.html.tokens import StripToken, token_strip

LEGEND = Html(
    '<span class="dl-ramp"></span> colour: value lost with the worst substitute '
    '<span class="dl-swatch"></span> bar: even with the best '
    "(dotted: it is better); point or tap for substitutes"
)


def attribution_strip(attribution: TokenAttribution, count: int = 3) -> Html:
    """Return the strip of one attribution, on its own scales.

    Args:
        attribution: attribution of one prompt.
        count: how many of the best and of the worst substitutes each token's card shows.
    """
    worst, best = attribution.drop_to_worst, attribution.drop_to_best
    (colour, bar), places = strip_scales(attribution), decimals([attribution.value, *worst], 3)
    strip = []
    for i, token in enumerate(attribution.tokens):
        top, bottom = attribution.top(i, count), attribution.worst(i, count)
        tried = f"best{_list(top, places)}<br>worst{_list(bottom, places)}" if top else "no substitute was tried here"
        card = Html(f"{i + 1} of {len(attribution)}: {tried}")
        note = f"worst {number(-worst[i], places, True)}, best {number(-best[i], places, True)}"
        strip.append(StripToken(token, float(worst[i] / colour), note, float(best[i] / bar), card))
    return token_strip(strip)


def attribution_with_scores(attribution: TokenAttribution) -> Html:
    """Return scores, strip and legend of one attribution."""
    note = '<p class="dl-note">'
    return Html(f"{note}{score_line(attribution)}</p>{attribution_strip(attribution)}{note}{LEGEND}</p>")


def score_line(attribution: TokenAttribution) -> Html:
    """Return a line with the prompt's scores and the scales of its strip."""
    places = decimals([attribution.value, *attribution.drop_to_worst], 3)
    value, costs = number(attribution.value, places), number(attribution.cross_entropy, 2)
    colour, bar = (number(scale, places) for scale in strip_scales(attribution))
    return Html(f"value {value}, cross-entropy {costs} nats/token; full colour {colour}, full bar {bar}")


def strip_scales(attribution: TokenAttribution) -> tuple[float, float]:
    """Return what full colour and a full bar stand for: the largest drop to a worst and to a best substitute.

    Bars have a scale of their own, because even the largest is often a small part of what colours show; but never one
    so fine that differences without meaning tower.
    """
    worst, best = (
        float(np.max(drops, where=~np.isnan(drops), initial=0.0))
        for drops in (attribution.drop_to_worst, attribution.drop_to_best)
    )
    colour = worst if worst > 0 else 1.0
    return colour, max(best, 0.1 * colour)


def _list(substitutes: Sequence[TokenSubstitute], places: int) -> str:
    return "".join(f"<q>{escape(s.token, token=True)}</q> {number(s.change, places, True)}" for s in substitutes)

"""Strips of attributions: a line of tokens, each with a card of its best and worst substitutes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dreamy_lens.figures.protocols import TokenAttribution, TokenSubstitute
from dreamy_lens.html.escaping import Html, escape
from dreamy_lens.html.numbers import decimals, number
from dreamy_lens.html.tokens import StripToken, token_strip

LEGEND = Html(
    '<span class="dl-ramp"></span> colour: value lost with the worst substitute '
    '<span class="dl-swatch"></span> bar: value lost with the best substitute '
    "(dotted: the substitute is better); point at a token, or tap it, for its substitutes"
)


def attribution_strip(attribution: TokenAttribution, count: int = 3) -> Html:
    """Return the strip of one attribution, with its own scales of colour and bars.

    Args:
        attribution: Attribution of one prompt.
        count: Number of best substitutes, and of worst substitutes, on each token's card.
    """
    worst, best = attribution.drop_to_worst, attribution.drop_to_best
    (colour, bar), places = strip_scales(attribution), decimals([attribution.value, *worst], 3)
    strip = []
    for i, token in enumerate(attribution.tokens):
        top, bottom = attribution.top(i, count), attribution.worst(i, count)
        substitutes = (
            f"best{_substitute_list(top, places)}<br>worst{_substitute_list(bottom, places)}"
            if top
            else "no substitute was tried here"
        )
        card = Html(f"{i + 1} of {len(attribution)}: {substitutes}")
        note = f"worst {number(-worst[i], places, True)}, best {number(-best[i], places, True)}"
        strip.append(StripToken(token, float(worst[i] / colour), note, float(best[i] / bar), card))
    return token_strip(strip)


def attribution_with_scores(attribution: TokenAttribution) -> Html:
    """Return the scores, the strip and the legend of one attribution."""
    note = '<p class="dl-note">'
    return Html(f"{note}{score_line(attribution)}</p>{attribution_strip(attribution)}{note}{LEGEND}</p>")


def score_line(attribution: TokenAttribution) -> Html:
    """Return a line with the prompt's scores and the scales of its strip."""
    places = decimals([attribution.value, *attribution.drop_to_worst], 3)
    value, costs = number(attribution.value, places), number(attribution.cross_entropy, 2)
    colour, bar = (number(scale, places) for scale in strip_scales(attribution))
    return Html(f"value {value}, cross-entropy {costs} nats/token; full colour {colour}, full bar {bar}")


def strip_scales(attribution: TokenAttribution) -> tuple[float, float]:
    """Return the drops that full colour and a full bar stand for.

    Full colour is the largest drop to a worst substitute. Bars have their own scale, the largest drop to a best
    substitute, because that drop is often much smaller. It is at least a tenth of the colour scale, so that negligible
    differences do not have tall bars.
    """
    worst, best = (
        float(np.max(drops, where=~np.isnan(drops), initial=0.0))
        for drops in (attribution.drop_to_worst, attribution.drop_to_best)
    )
    colour = worst if worst > 0 else 1.0
    return colour, max(best, 0.1 * colour)


def _substitute_list(substitutes: Sequence[TokenSubstitute], places: int) -> str:
    """Return substitutes with the changes of the value as HTML."""
    return "".join(f"<q>{escape(s.token, token=True)}</q> {number(s.change, places, True)}" for s in substitutes)

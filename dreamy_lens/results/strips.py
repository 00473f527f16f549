"""Attribution to look at: a strip of tokens, each with a card of its best and worst substitutes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dreamy_lens.html.page import Html, decimals, escape, number, token_strip

if TYPE_CHECKING:
    from dreamy_lens.results.attribution import Attribution, Substitute

LEGEND = Html(
    '<span class="dl-ramp"></span> colour: value lost with the worst substitute '
    '<span class="dl-swatch"></span> bar: even with the best '
    "(dotted: it is better); point or tap for substitutes"
)


def attribution_strip(attribution: Attribution, count: int = 3) -> Html:
    """The strip of one attribution, on its own scales, with the best and worst `count` substitutes of each token."""
    worst, best = attribution.drop_to_worst, attribution.drop_to_best
    (colour, bar), places = scales(attribution), decimals([attribution.value, *worst], 3)
    cards, titles = [], []
    for i in range(len(attribution)):
        top, bottom = attribution.top(i, count), attribution.worst(i, count)
        found = f"best{_list(top, places)}<br>worst{_list(bottom, places)}" if top else "no substitute was tried here"
        cards.append(Html(f"{i + 1} of {len(attribution)}: {found}"))
        titles.append(f"worst {number(-worst[i], places, True)}, best {number(-best[i], places, True)}")
    return token_strip(attribution.tokens, (worst / colour).tolist(), (best / bar).tolist(), cards, titles)


def attribution(found: Attribution) -> Html:
    """Scores, strip and legend of one attribution."""
    note = '<p class="dl-note">'
    return Html(f"{note}{scores(found)}</p>{attribution_strip(found)}{note}{LEGEND}</p>")


def scores(found: Attribution) -> Html:
    """A line with the prompt's scores and the scale of its strip."""
    places = decimals([found.value, *found.drop_to_worst], 3)
    value, costs = number(found.value, places), number(found.cross_entropy, 2)
    colour, bar = (number(scale, places) for scale in scales(found))
    return Html(f"value {value}, cross-entropy {costs} nats/token; full colour {colour}, full bar {bar}")


def scales(found: Attribution) -> tuple[float, float]:
    """What full colour and a full bar stand for: the largest drop to a worst and to a best substitute.

    Bars have a scale of their own, because even the largest is often a small part of what colours show; but never one
    so fine that differences without meaning tower.
    """
    worst, best = (
        float(np.max(drops, where=~np.isnan(drops), initial=0.0)) for drops in (found.drop_to_worst, found.drop_to_best)
    )
    colour = worst if worst > 0 else 1.0
    return colour, max(best, 0.1 * colour)


def _list(substitutes: Sequence[Substitute], places: int) -> str:
    return "".join(f"<q>{escape(s.token, token=True)}</q> {number(s.change, places, True)}" for s in substitutes)

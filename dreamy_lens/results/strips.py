"""Strips of attributions: a line of tokens, each with a card of its best and worst substitutes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dreamy_lens.figures.protocols import TokenAttribution, TokenSubstitute
from dreamy_lens.figures.token_strip import drop_scale
from dreamy_lens.html.escaping import Html, escape
from dreamy_lens.html.numbers import decimals, number
from dreamy_lens.html.tokens import StripToken, token_strip


class StripScale(NamedTuple):
    """Scale that all strips of a page share, in colour and bars alike.

    Attributes:
        full: Drop in value that full colour and a full bar stand for.
        places: Number of decimal places of values and drops.
        tried: Number of substitutes tried for each token.
    """

    full: float
    places: int
    tried: int

    @classmethod
    def of(cls, attributions: Iterable[TokenAttribution]) -> StripScale:
        """Return the scale of all strips of a page: full is the largest drop with a worst substitute."""
        shown = list(attributions)
        full = drop_scale(shown)
        tried = max((a.candidates.shape[1] for a in shown), default=0)
        return cls(full, decimals([full, *(a.value for a in shown)], 3), tried)

    @property
    def legend(self) -> Html:
        """Legend of all strips of a page."""
        return Html(
            f'<span class="dl-ramp"></span> Colour: drop in value with the worst of {self.tried} substitutes (max '
            f'{number(self.full, self.places)}) · <span class="dl-swatch"></span> Bar: drop with the best, on the same '
            "scale (dotted: the best is better than the token) · Point at a token, or tap it, to see its substitutes"
        )


def attribution_strip(attribution: TokenAttribution, scale: StripScale, count: int = 3) -> Html:
    """Return the strip of one attribution.

    Args:
        attribution: Attribution of one prompt.
        scale: Scale of all strips of the page.
        count: Number of best substitutes, and of worst substitutes, on each token's card.
    """
    worst, best, places = attribution.drop_to_worst, attribution.drop_to_best, scale.places
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
        seen = round(float(best[i]), places) != 0  # what is 0.00 as a number has no bar and no dotted line
        bar = float(best[i] / scale.full) if seen else 0.0
        strip.append(StripToken(token, float(worst[i] / scale.full), note, bar, card))
    return token_strip(strip)


def attribution_with_scores(attribution: TokenAttribution) -> Html:
    """Return the scores, the strip and the legend of one attribution."""
    note, scale = '<p class="dl-note">', StripScale.of([attribution])
    scores = score_line(attribution, scale)
    return Html(f"{note}{scores}</p>{attribution_strip(attribution, scale)}{note}{scale.legend}</p>")


def score_line(attribution: TokenAttribution, scale: StripScale) -> Html:
    """Return a line with the prompt's scores."""
    value, costs = number(attribution.value, scale.places), number(attribution.cross_entropy, 2)
    return Html(f"value {value}, cross-entropy {costs} nats per token")


def _substitute_list(substitutes: Sequence[TokenSubstitute], places: int) -> str:
    """Return substitutes with the changes of the value as HTML."""
    return "".join(f"<q>{escape(s.token, token=True)}</q> {number(s.change, places, True)}" for s in substitutes)

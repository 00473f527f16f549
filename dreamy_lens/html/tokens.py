"""Strips of coloured tokens: one renderer for attributions and values, with style sheets or without."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dreamy_lens.html.escaping import Html, escape, safe
from dreamy_lens.html.numbers import decimals, number, short_share


class StripToken(NamedTuple):
    """One token of a strip.

    Attributes:
        text: the token, decoded by itself.
        colour: from 0 (no colour) to 1 (full colour), or down to -1 (full of the other colour); NaN counts as 0.
        note: plain text that pointing at the token shows.
        bar: height of a bar above the token, from 0 to 1; below 0 its foot is dotted. None: no bar and no card.
        card: what pointing at a token with a bar opens, escaped unless it is :class:`Html`.
    """

    text: str
    colour: float = 0.0
    note: str = ""
    bar: float | None = None
    card: object = ""


def token_strip(tokens: Iterable[StripToken], inline: bool = False) -> Html:
    """Render tokens as a line that wraps.

    Args:
        tokens: the tokens from left to right. All of them have bars, or none has.
        inline: whether each token brings its own style, for readers that let no style sheet and no script through.
            Bars and cards are left out.
    """
    shown = list(tokens)
    if inline:
        line = "margin:2px 0 6px;line-height:1.8;font-family:monospace;white-space:pre-wrap"
        return Html(f'<div style="{line}">{"".join(map(_inline_token, shown))}</div>')
    if any(token.bar is not None for token in shown):
        return Html(f'<div class="dl-strip">{"".join(map(_bar_token, shown))}</div>')
    return Html("".join(map(_plain_token, shown)))


def _bar_token(token: StripToken) -> str:
    bar = 0.0 if token.bar is None else token.bar
    up = " dl-up" if bar < 0 else ""
    title = f' title="{escape(token.note)}"' if token.note else ""
    return (
        f'<span class="dl-k{up}" tabindex="0" style="--d:{short_share(token.colour)};--h:{short_share(bar)}">'
        f"<i{title}></i><b>{escape(token.text, token=True)}</b>"
        f'<span class="dl-t" hidden>{safe(token.card)}</span></span>'
    )


def _plain_token(token: StripToken) -> str:
    size = short_share(abs(token.colour))
    colour = "" if size == "0" else f' style="--d:{size}"'
    cool = " dl-n" if token.colour < 0 and colour else ""
    note = escape(token.note or "no value")
    return f'<span class="dl-v{cool}"{colour} data-v="{note}"><b>{escape(token.text, token=True)}</b></span>'


def _inline_token(token: StripToken) -> str:
    share = 0.0 if math.isnan(token.colour) else max(-1.0, min(1.0, token.colour))
    colour = f"rgba({'245,146,48' if share >= 0 else '90,160,225'},{abs(share):.2f})"
    note = f' title="{escape(token.note)}"' if token.note else ""
    style = f"border:1px solid #8a929c;border-radius:3px;padding:0 3px;background:{colour}"
    return f'<span style="{style}"{note}>{escape(token.text, token=True)}</span>'


@dataclass(frozen=True)
class ValueScale:
    """What colours stand for in every strip of values on a page.

    Attributes:
        full: the value of full colour and of a full bar; the value of the other colour is `-full`.
        places: decimal places with which values are written.
        signed: whether any value is clearly negative.
    """

    full: float
    places: int
    signed: bool

    @classmethod
    def of(cls, values: Iterable[float]) -> ValueScale:
        """Return the scale on which all of some values can be shown.

        >>> ValueScale.of([0.5, -0.1, 4.0])
        ValueScale(full=4.0, places=3, signed=False)
        """
        finite = np.array([v for v in values if math.isfinite(v)], dtype=np.float64)
        full = float(np.abs(finite).max()) if len(finite) else 0.0
        signed = bool(len(finite)) and float(finite.min()) < -0.05 * full
        return cls(full or 1.0, decimals([full], 4), signed)

    def number(self, value: float) -> str:
        """Format a value with the decimal places of the scale."""
        return number(value, self.places)

    def tokens(self, tokens: Sequence[str], values: Sequence[float] | np.ndarray | None) -> list[StripToken]:
        """Colour tokens by the value that the feature would have if the prompt ended at each.

        Args:
            tokens: length n, each decoded by itself.
            values: length n, NaN where there is no value; None if none is known.
        """
        known = [math.nan] * len(tokens) if values is None else [float(v) for v in values]
        return [
            StripToken(
                token,
                max(-1.0, min(1.0, value / self.full)) if math.isfinite(value) else 0.0,
                "" if math.isnan(value) else self.number(value),
            )
            for token, value in zip(tokens, known, strict=True)
        ]


def legend(scale: ValueScale) -> Html:
    """Say what the colours of values mean."""
    full = scale.number(scale.full)
    low = f'<span class="dl-ramp dl-cool"></span> −{full} … ' if scale.signed else ""
    ramp = f'{low}0 … <span class="dl-ramp"></span> {full}; the bar says the same'
    return Html(f'<span class="dl-legend">value if the prompt ended at the token: {ramp}</span>')


def numbers_switch(name: str) -> Html:
    """Return a box that, ticked, has every value of the page written under its token; it needs no script."""
    label = "write every value under its token"
    return Html(f'<label class="dl-switch"><input type="checkbox" class="dl-all" id="{name}"/> {label}</label>')

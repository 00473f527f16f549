"""Strips of coloured tokens for attributions and values, with style sheets or with inline styles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dreamy_lens.html.escaping import Html, escape, safe
from dreamy_lens.html.numbers import decimals, format_share, number


class StripToken(NamedTuple):
    """Token of a strip.

    Attributes:
        text: Token, decoded by itself.
        colour: Strength of the colour, from 0 (none) to 1 (full), or to -1 (full in the opposite colour). NaN means 0.
        note: Plain text that appears when the reader points at the token.
        bar: Height of the bar above the token, from 0 to 1. A negative height becomes a dotted base line. None means
            neither bar nor card.
        card: Card that appears when the reader points at a token with a bar; escaped unless it is :class:`Html`.
    """

    text: str
    colour: float = 0.0
    note: str = ""
    bar: float | None = None
    card: object = ""


def token_strip(tokens: Iterable[StripToken], inline: bool = False) -> Html:
    """Render tokens as a line that wraps.

    Args:
        tokens: Tokens from left to right. Either all of them have bars, or none has.
        inline: Whether to use inline styles only, for viewers that remove style sheets and scripts. Bars and cards are
            left out.
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
        f'<span class="dl-k{up}" tabindex="0" style="--d:{format_share(token.colour)};--h:{format_share(bar)}">'
        f"<i{title}></i><b>{escape(token.text, token=True)}</b>"
        f'<span class="dl-t" hidden>{safe(token.card)}</span></span>'
    )


def _plain_token(token: StripToken) -> str:
    size = format_share(abs(token.colour))
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
    """Scale from values to colours, shared by all strips of values on a page.

    Attributes:
        full: Value that full colour and a full bar stand for; the full opposite colour stands for `-full`.
        places: Number of decimal places of values.
        signed: Whether any value is clearly negative.
    """

    full: float
    places: int
    signed: bool

    @classmethod
    def of(cls, values: Iterable[float]) -> ValueScale:
        """Return the smallest scale that covers all values.

        >>> ValueScale.of([0.5, -0.1, 4.0])
        ValueScale(full=4.0, places=3, signed=False)
        """
        finite = np.array([v for v in values if math.isfinite(v)], dtype=np.float64)
        full = float(np.abs(finite).max()) if len(finite) else 0.0
        signed = bool(len(finite)) and float(finite.min()) < -0.05 * full
        return cls(full or 1.0, decimals([full], 4), signed)

    def number(self, value: float) -> str:
        """Format a value with the decimal places of this scale."""
        return number(value, self.places)

    def tokens(self, tokens: Sequence[str], values: Sequence[float] | np.ndarray | None) -> list[StripToken]:
        """Colour each token by the value that the feature has if the prompt ends at that token.

        Args:
            tokens: Tokens of the text, each decoded by itself, length n.
            values: Value at each token, length n, NaN where there is none; None if no value is known.
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
    """Return a legend that explains the colours of a scale."""
    full = scale.number(scale.full)
    low = f'<span class="dl-ramp dl-cool"></span> −{full} … ' if scale.signed else ""
    ramp = f'{low}0 … <span class="dl-ramp"></span> {full}'
    return Html(f'<span class="dl-legend">Colour and bar: value if the prompt ended at the token, {ramp}</span>')


def numbers_switch(name: str) -> Html:
    """Return a checkbox that writes every value on the page under its token, without a script."""
    label = "Write every value under its token"
    return Html(f'<label class="dl-switch"><input type="checkbox" class="dl-all" id="{name}"/> {label}</label>')

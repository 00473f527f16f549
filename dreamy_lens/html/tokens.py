"""Tokens coloured by the feature's value at each of them: what is shown side by side has one scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamy_lens.html.page import Html, decimals, escape, number


@dataclass(frozen=True)
class ValueScale:
    """What colours and bars stand for in every strip of a page.

    Attributes:
        full: the value of full colour and of a full bar; that of the other colour is `-full`.
        places: decimal places with which values are written.
        signed: whether any value is clearly negative.
    """

    full: float
    places: int
    signed: bool

    @classmethod
    def of(cls, values: Iterable[float]) -> ValueScale:
        """The scale on which all of some values can be shown.

        >>> ValueScale.of([0.5, -0.1, 4.0])
        ValueScale(full=4.0, places=3, signed=False)
        """
        found = np.array([v for v in values if math.isfinite(v)], dtype=np.float64)
        full = float(np.abs(found).max()) if len(found) else 0.0
        signed = bool(len(found)) and float(found.min()) < -0.05 * full
        return cls(full or 1.0, decimals([full], 4), signed)

    def number(self, value: float) -> str:
        """A value as it is written here."""
        return number(value, self.places)


def strip(tokens: Sequence[str], values: Sequence[float] | np.ndarray | None, scale: ValueScale) -> Html:
    """Tokens in a line that wraps, each with a bar and a colour for its value, which is said when it is pointed at.

    Args:
        tokens: length n, each decoded by itself.
        values: length n, the feature's value if the prompt ended at each; NaN where it has none; None if unknown.
        scale: of the page.
    """
    known: Sequence[Any] = [math.nan] * len(tokens) if values is None else [float(v) for v in values]
    return Html("".join(_token(t, v, scale) for t, v in zip(tokens, known, strict=True)))


def legend(scale: ValueScale) -> Html:
    """What colours and bars mean."""
    full = scale.number(scale.full)
    low = f'<span class="dl-ramp dl-cool"></span> −{full} … ' if scale.signed else ""
    ramp = f'{low}0 … <span class="dl-ramp"></span> {full}; the bar says the same'
    return Html(f'<span class="dl-legend">value if the prompt ended at the token: {ramp}</span>')


def numbers_switch(name: str) -> Html:
    """A box that, ticked, has every value of the page written under its token; it needs no script."""
    label = "write every value under its token"
    return Html(f'<label class="dl-switch"><input type="checkbox" class="dl-all" id="{name}"/> {label}</label>')


def _token(token: str, value: float, scale: ValueScale) -> str:
    shown = escape(token, token=True)
    if not math.isfinite(value):
        said = "no value" if math.isnan(value) else scale.number(value)
        return f'<span class="dl-v" data-v="{said}"><b>{shown}</b></span>'
    share = max(-1.0, min(1.0, value / scale.full))
    said, size = scale.number(value), f"{abs(share):.2f}".removesuffix("0").removesuffix(".0").replace("0.", ".")
    if size in (".0", "0", ""):
        return f'<span class="dl-v" data-v="{said}"><b>{shown}</b></span>'
    return f'<span class="dl-v{" dl-n" if share < 0 else ""}" style="--d:{size}" data-v="{said}"><b>{shown}</b></span>'


def inert_strip(tokens: Sequence[str], values: Sequence[float] | np.ndarray | None, scale: ValueScale) -> Html:
    """The same for readers that let neither scripts nor style sheets through: every style is the token's own."""
    known: Sequence[Any] = [math.nan] * len(tokens) if values is None else [float(v) for v in values]
    pieces = []
    for token, value in zip(tokens, known, strict=True):
        share = 0.0 if math.isnan(value) else max(-1.0, min(1.0, value / scale.full))
        colour = f"rgba({'245,146,48' if share >= 0 else '90,160,225'},{abs(share):.2f})"
        said = "" if math.isnan(value) else f' title="{scale.number(value)}"'
        style = f"border:1px solid #8a929c;border-radius:3px;padding:0 3px;background:{colour}"
        pieces.append(f'<span style="{style}"{said}>{escape(token, token=True)}</span>')
    line = "margin:2px 0 6px;line-height:1.8;font-family:monospace;white-space:pre-wrap"
    return Html(f'<div style="{line}">{"".join(pieces)}</div>')

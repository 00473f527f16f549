"""Cells of heat maps: a colour from orange through near white to blue, and the number if there is room."""

from __future__ import annotations

import numpy as np

from dreamy_lens.figures import style
from dreamy_lens.figures.svg_figure import CELL, TEXT, text_element
from dreamy_lens.figures.token_strip import SMALL
from dreamy_lens.html.escaping import escape
from dreamy_lens.html.numbers import number

ROW = 15.0
"""Height of a cell."""


def heat_cell(
    x: float, y: float, wide: float, title: str, value: float, limit: float, places: int, label: str = ""
) -> str:
    """Return one cell, with its number if there is room for it."""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{ROW:g}"'
    share = 0.0 if np.isnan(value) else value / limit
    shown = number(value, places, sign=True)
    text = f"{label} {shown}".strip()
    fits = len(text) * CELL * SMALL <= wide - 2 and abs(share) >= 0.005
    colour = "#ffffff" if abs(share) > 0.6 else TEXT
    words = text_element(x + wide / 2, y + ROW - 4.5, text, SMALL, anchor="middle", colour=colour) if fits else ""
    title_element = tooltip(f"{title}: {shown}")
    fill = shade(share)
    return f'<g>{title_element}<rect class="cell" {place} fill="{fill}" stroke="#fff" stroke-width=".6"/>{words}</g>'


def tooltip(text: str) -> str:
    """Return a tooltip as an SVG element."""
    return f"<title>{escape(text)}</title>"


def shade(share: float) -> str:
    """Return a colour from orange (-1) through near white (0) to blue (1)."""
    end = style.LIGHT[0] if share >= 0 else style.LIGHT[1]
    size = min(1.0, abs(share))
    far = tuple(int(end[i : i + 2], 16) for i in (1, 3, 5))
    red, green, blue = (round(a + (b - a) * size) for a, b in zip((244, 245, 247), far, strict=True))
    return f"#{red:02x}{green:02x}{blue:02x}"

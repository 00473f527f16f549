"""Heat map of an attribution with the names of the substitutes, for papers."""

from __future__ import annotations

from typing import Any

import numpy as np

from dreamy_lens.errors import SettingsError
from dreamy_lens.figures import style
from dreamy_lens.figures.svg_figure import CELL, LINE, QUIET, TEXT, SvgFigure, text_cells, text_element, token_name
from dreamy_lens.figures.token_strip import GAP, SMALL, TOKEN, WIDTH, as_attributions
from dreamy_lens.html.numbers import decimals, number

ROW = 13.5  # height of a cell
NAME = 14  # most letters of a name


def heat_map(prompt: Any, rows: int | None = None, width: float = WIDTH) -> SvgFigure:
    """Draw all substitutes of a prompt by name: a column for each token, the highest value on top.

    The colour of a cell is the value with that substitute, darker for higher values. The token of the prompt itself
    stands in its rank among its substitutes, with a thick edge.

    Args:
        prompt: Attribution, or prompt of a run, which is attributed with the run's model.
        rows: Number of best substitutes to show in each column; None shows all. The prompt's own token is always shown.
        width: Width in pixels, 96 to the inch. The columns of a long prompt wrap.

    Returns:
        Figure whose text is 7 and 8 points high if it is printed at its own size.

    >>> import dreamy_lens as dl
    >>> figure = dl.figures.heat_map(dl.attribution("L2.N812", "if given, applied only"), rows=5)
    >>> figure.svg.count('class="own"')  # the prompt's own token, once in each of five columns
    5
    """
    (_, attribution), *others = as_attributions(prompt)
    if others:
        raise SettingsError(f"A heat map shows one prompt, and there are {len(others) + 1}.")
    k, columns = attribution.candidates.shape[1], []
    for i, token in enumerate(attribution.tokens):
        cells = [(s.value, s.token, False) for s in attribution.top(i, k)]
        own = (float(attribution.value), token, True)
        rank = sum(value > attribution.value for value, _, _ in cells)
        cells = [*cells[:rank], own, *cells[rank:]]
        if rows is not None and rank > rows:
            cells = [*cells[:rows], own]
        columns.append(cells if rows is None else cells[: rows + 1])
    values = [value for cells in columns for value, _, _ in cells if np.isfinite(value)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    places = decimals([low, high], 3)
    parts, x, y, depth = [], GAP, 4.0 + TOKEN + 4, 0
    for i, cells in enumerate(columns):
        head = token_name(attribution.tokens[i], NAME)
        names = [token_name(token, NAME) for _, token, _ in cells]
        wide = max(24.0, CELL * max([text_cells(head) * TOKEN, *(text_cells(name) * SMALL for name in names)]) + 8)
        if x > GAP and x + wide > width - GAP:
            x, y, depth = GAP, y + depth * ROW + 14 + TOKEN, 0
        parts.append(text_element(x + wide / 2, y - 5, head, TOKEN, anchor="middle", bold=True))
        for row, ((value, _, own), name) in enumerate(zip(cells, names, strict=True)):
            parts.append(_cell(x, y + row * ROW, wide, name, (value - low) / ((high - low) or 1.0), own))
        x, depth = x + wide + 2, max(depth, len(cells))
    y += depth * ROW + 10
    return SvgFigure(
        "".join(parts) + _legend(low, high, places, y), width, y + 26, "Substitutes for each token by value"
    )


def _cell(x: float, y: float, wide: float, name: str, share: float, own: bool) -> str:
    """Return one cell; a thick edge marks the token of the prompt."""
    fill = _blue(share)
    inside = f'x="{x + 1:.1f}" y="{y + 1:.1f}" width="{wide - 2:.1f}" height="{ROW - 2:g}"'
    edge = f'<rect class="own" {inside} fill="none" stroke="#000" stroke-width="1.8"/>' if own else ""
    colour = "#ffffff" if share > 0.55 else TEXT
    place = f'x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{ROW}"'
    text = text_element(x + wide / 2, y + ROW - 3.8, name, SMALL, anchor="middle", colour=colour, bold=own)
    return f'<rect class="cell" {place} fill="{fill}" stroke="#fff" stroke-width=".6"/>{edge}{text}'


def _blue(share: float) -> str:
    """Return a colour from near white to the blue of figures: higher values are darker, in black and white too."""
    end = tuple(int(style.LIGHT[0][i : i + 2], 16) for i in (1, 3, 5))
    start = (243, 246, 250)
    share = 0.0 if np.isnan(share) else min(1.0, max(0.0, share))
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(start, end, strict=True))
    return f"#{red:02x}{green:02x}{blue:02x}"


def _legend(low: float, high: float, places: int, y: float) -> str:
    first, last = number(low, places), number(high, places)
    x = GAP + len(first) * CELL * SMALL + 6
    ramp = "".join(
        f'<rect x="{x + 6 * i:.1f}" y="{y:.1f}" width="6" height="9" fill="{_blue(i / 9)}"/>' for i in range(10)
    )
    edge = f'<rect x="{x:.1f}" y="{y:.1f}" width="60" height="9" fill="none" stroke="{LINE}" stroke-width=".6"/>'
    text = "Colour: value with the substitute · thick edge: token of the prompt"
    labels = [
        text_element(GAP, y + 8, first, SMALL, colour=QUIET),
        text_element(x + 66, y + 8, last, SMALL, colour=QUIET),
    ]
    return ramp + edge + "".join(labels) + text_element(GAP, y + 21, text, SMALL, mono=False, colour=QUIET)

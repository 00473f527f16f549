"""Heat maps of a model's components: what each contributes to a feature, by layer and by position."""

from __future__ import annotations

import numpy as np

from dreamy_lens.errors import SettingsError, quoted
from dreamy_lens.figures.heat_cells import ROW, heat_cell, shade
from dreamy_lens.figures.protocols import ComponentContributions
from dreamy_lens.figures.svg_figure import CELL, LINE, QUIET, SvgFigure, shortened, text_element, token_name
from dreamy_lens.figures.token_strip import GAP, SMALL, TOKEN, WIDTH
from dreamy_lens.html.numbers import decimals, number

LABEL = 62.0  # width of the names at the left
WIDEST = 46.0  # width of a cell
NAME = 10  # most letters of a token


def component_map(upstream: ComponentContributions, rows: int = 10, width: float = WIDTH) -> SvgFigure:
    """Draw what components contribute to a feature: blue raises it, orange lowers it.

    The upper map has a row for each layer, with its heads and its MLP. The lower map has the largest components by
    position: a head by the tokens that it attends to, an MLP by the tokens at which it writes.

    Args:
        upstream: Contributions, from :func:`dreamy_lens.upstream`.
        rows: Number of components in the lower map; 0 leaves it out.
        width: Width in pixels, 96 to the inch. The positions of a long prompt wrap.

    Returns:
        Figure whose text is 7 and 8 points high if it is printed at its own size.

    >>> import dreamy_lens as dl
    >>> figure = dl.figures.component_map(dl.upstream("L2.N812", "if given, applied only"), rows=3)
    >>> figure.svg.count("<title>L0.H")  # heads of the first layer
    7
    """
    if isinstance(rows, bool) or not isinstance(rows, (int, np.integer)) or rows < 0:
        raise SettingsError(f"rows is {quoted(rows)}; it is the number of components in the lower map, at least 0.")
    sums = np.asarray(upstream.contributions, dtype=np.float64)
    limit = float(np.abs(sums).max(initial=0.0)) or 1.0
    places = decimals([limit], 3)
    grid, y = _layers(upstream, sums, limit, places, width)
    parts = [grid]
    if rows and len(sums):
        lower, y = _positions(upstream, sums, int(rows), places, width, y + 14)
        parts.append(lower)
    parts.append(_legend(limit, places, y + 8))
    return SvgFigure("".join(parts), width, y + 34, "Contributions of components")


def _layers(
    upstream: ComponentContributions, sums: np.ndarray, limit: float, places: int, width: float
) -> tuple[str, float]:
    """Draw the map of layers and components, and return it with its lower end."""
    components = upstream.components
    before = [i for i, c in enumerate(components) if c.layer is None]
    layers = sorted({c.layer for c in components if c.layer is not None})
    heads = 1 + max((c.head for c in components if c.head is not None), default=0)
    room = width - 2 * GAP - LABEL
    wide = min(WIDEST, room / (heads + 1.4))
    mlp_x = GAP + LABEL + heads * wide + 0.4 * wide
    parts, y = [], 8.0
    if before:
        cell = max(wide, 2 * WIDEST)
        for k, i in enumerate(before):
            x = GAP + LABEL + k * (cell + 4)
            parts.append(heat_cell(x, y, cell, components[i].name, float(sums[i]), limit, places, components[i].kind))
        y += ROW + 6
    if layers:
        for h in range(heads):
            parts.append(
                text_element(GAP + LABEL + (h + 0.5) * wide, y + 9, f"H{h}", SMALL, anchor="middle", colour=QUIET)
            )
        parts.append(text_element(mlp_x + wide / 2, y + 9, "MLP", SMALL, anchor="middle", colour=QUIET))
        y += 13
    for layer in layers:
        parts.append(text_element(GAP, y + ROW - 4, f"L{layer}", TOKEN))
        for i, c in enumerate(components):
            if c.layer != layer:
                continue
            across = heads * wide if c.kind == "attention" else wide
            x = mlp_x if c.kind == "mlp" else GAP + LABEL + (c.head or 0) * wide
            parts.append(heat_cell(x, y, across, c.name, float(sums[i]), limit, places))
        y += ROW
    return "".join(parts), y


def _positions(
    upstream: ComponentContributions, sums: np.ndarray, rows: int, places: int, width: float, y: float
) -> tuple[str, float]:
    """Draw the map of the largest components and positions, and return it with its lower end."""
    values, tokens = np.asarray(upstream.by_position, dtype=np.float64), upstream.tokens
    order = np.argsort(-np.abs(sums), kind="stable")[:rows]
    limit = float(np.nanmax(np.abs(values[order]), initial=0.0)) or 1.0
    wide = max(24.0, min(CELL * SMALL * NAME + 6, (width - 2 * GAP - LABEL) / max(1, len(tokens))))
    at_once = max(1, int((width - 2 * GAP - LABEL) / wide + 1e-6))
    at_once = -(-len(tokens) // -(-len(tokens) // at_once))  # rows of about one length
    letters = max(1, int((wide - 4) / (CELL * SMALL)))
    parts = []
    for first in range(0, len(tokens), at_once):
        places_here = range(first, min(first + at_once, len(tokens)))
        for k, j in enumerate(places_here):
            name = token_name(tokens[j], letters)
            parts.append(text_element(GAP + LABEL + (k + 0.5) * wide, y + 9, name, SMALL, anchor="middle", bold=True))
        y += 13
        for i in order:
            name = upstream.components[i].name
            parts.append(text_element(GAP, y + ROW - 4, shortened(name, 9), TOKEN))
            for k, j in enumerate(places_here):
                x, title = GAP + LABEL + k * wide, f"{name} at {j}, {token_name(tokens[j], 40)}"
                parts.append(heat_cell(x, y, wide, title, float(values[i, j]), limit, places))
            y += ROW
        y += 8
    return "".join(parts), y


def _legend(limit: float, places: int, y: float) -> str:
    first, last = number(-limit, places), number(limit, places, sign=True)
    x = GAP + len(first) * CELL * SMALL + 6
    ramp = "".join(
        f'<rect x="{x + 6 * i:.1f}" y="{y:.1f}" width="6" height="9" fill="{shade((i - 5) / 5)}"/>' for i in range(11)
    )
    edge = f'<rect x="{x:.1f}" y="{y:.1f}" width="66" height="9" fill="none" stroke="{LINE}" stroke-width=".6"/>'
    labels = text_element(GAP, y + 8, first, SMALL, colour=QUIET) + text_element(
        x + 72, y + 8, last, SMALL, colour=QUIET
    )
    words = "Colour: contribution to the feature (the map by position has its own largest value)"
    return ramp + edge + labels + text_element(GAP, y + 21, words, SMALL, mono=False, colour=QUIET)

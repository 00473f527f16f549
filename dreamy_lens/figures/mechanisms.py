"""Figures of the ways in which a feature is driven: shares, ablations, texts, and the frontier of each way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dreamy_lens.figures import style
from dreamy_lens.figures.frontier import AXES, frontier_trace
from dreamy_lens.figures.heat_cells import ROW, heat_cell, tooltip
from dreamy_lens.figures.protocols import FeatureMechanisms
from dreamy_lens.figures.svg_figure import LINE, QUIET, SvgFigure, shortened, text_element
from dreamy_lens.figures.token_strip import GAP, SMALL, TOKEN, WIDTH

if TYPE_CHECKING:
    import plotly.graph_objects as go

LABEL = 30.0
"""Width of the names of cells."""
BAR = 200.0
"""Width of a bar that reaches the maximum."""


def mechanism_map(mechanisms: FeatureMechanisms, width: float = WIDTH) -> SvgFigure:
    """Draw the cells of a feature: the share of the maximum that each reaches, and what ablation does to it.

    The bars on top show what dreams (blue) and corpus windows (orange) reach. In the map below them, rows are the
    prompts of a cell and columns the unit that is taken out, that of each cell and random ones: blue is a drop. The
    last bars show how much the texts differ.

    Args:
        mechanisms: Mechanisms, from :func:`dreamy_lens.mechanisms`.
        width: Width in pixels, 96 to the inch.

    >>> import dreamy_lens as dl
    >>> prompts = ["if given, applied only", "the same as described only", "is optional and is applied only"]
    >>> figure = dl.figures.mechanism_map(dl.mechanisms(prompts, "L2.N812"))
    >>> figure.svg.count("<title>cell A, dreams: 100%")
    1
    """
    parts, y = [text_element(GAP, 14, "Share of the maximum", TOKEN, mono=False, bold=True)], 22.0
    for cell in mechanisms.cells:
        parts.append(text_element(GAP, y + ROW - 4, cell.name, TOKEN, bold=True))
        for number, (kind, share) in enumerate((("dreams", cell.share), ("corpus", cell.window_share))):
            if np.isfinite(share):
                parts.append(_bar(y + number * (ROW / 2), share, f"cell {cell.name}, {kind}: {share:.0%}", number))
        shares = [f"{share:.0%}" for share in (cell.share, cell.window_share) if np.isfinite(share)]
        parts.append(text_element(GAP + LABEL + BAR + 8, y + ROW - 4, " / ".join(shares), SMALL, colour=QUIET))
        y += ROW + 3
    parts.append(_rule(GAP + LABEL + mechanisms.asked * BAR, 20, y))
    y += 22
    if mechanisms.cells:
        block, y = _ablations(mechanisms, y, width)
        parts.append(block)
    block, y = _texts(mechanisms, y + 22)
    return SvgFigure("".join([*parts, block]), width, y + 6, "Mechanisms of a feature")


def mechanism_frontiers(mechanisms: FeatureMechanisms, dark: bool = False) -> go.Figure:
    """Draw the frontier of each cell: one line for each way to drive the feature.

    Args:
        mechanisms: Mechanisms, from :func:`dreamy_lens.mechanisms`.
        dark: Whether the figure is for a dark page.

    Returns:
        A new plotly figure.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for i, cell in enumerate(mechanisms.cells):
        if len(cell.frontier):
            figure.add_trace(frontier_trace(cell.frontier, f"cell {cell.name}", style.line_style(dark, i)))
    figure.update_layout(**style.layout(dark, hovermode="closest", **AXES))
    return figure


def _bar(y: float, share: float, title: str, colour: int) -> str:
    """Return a thin bar."""
    wide = BAR * min(1.05, max(0.0, share))
    place = f'x="{GAP + LABEL:.1f}" y="{y + 1:.1f}" width="{wide:.1f}" height="{ROW / 2 - 1.5:.1f}"'
    return f'<g>{tooltip(title)}<rect {place} fill="{style.LIGHT[colour]}"/></g>'


def _rule(x: float, top: float, bottom: float) -> str:
    """Return a dashed line from top to bottom."""
    ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"'
    return f'<line {ends} stroke="{LINE}" stroke-width="1" stroke-dasharray="3 2"/>'


def _ablations(mechanisms: FeatureMechanisms, y: float, width: float) -> tuple[str, float]:
    """Draw the map of drops, and return it with its lower end."""
    drops, controls = np.asarray(mechanisms.drops), np.asarray(mechanisms.control_drops)
    random = controls.mean(axis=1, keepdims=True) if controls.shape[1] else np.full((len(drops), 1), np.nan)
    table, names = np.concatenate([drops, random], axis=1), [*mechanisms.ablated, "random"]
    limit = float(np.nanmax(np.abs(table), initial=0.0)) or 1.0
    wide = min(62.0, (width - 2 * GAP - LABEL) / len(names))
    heading = "Drop of the value without the unit of each cell, in %"
    parts = [text_element(GAP, y, heading, TOKEN, mono=False, bold=True)]
    y += 8
    for k, name in enumerate(names):
        x = GAP + LABEL + (k + 0.5) * wide
        parts.append(text_element(x, y + 9, shortened(name, int(wide // 5)), SMALL, anchor="middle", colour=QUIET))
    y += 13
    for cell, row in zip(mechanisms.cells, table, strict=True):
        parts.append(text_element(GAP, y + ROW - 4, cell.name, TOKEN, bold=True))
        for k, drop in enumerate(row.tolist()):
            title = f"prompts of {cell.name} without {names[k]}"
            parts.append(heat_cell(GAP + LABEL + k * wide, y, wide, title, 100 * drop, 100 * limit, 0))
        y += ROW
    return "".join(parts), y


def _texts(mechanisms: FeatureMechanisms, y: float) -> tuple[str, float]:
    """Draw the diversity of the texts, and return it with its lower end."""
    heading = "Texts: self-BLEU (blue) and distance of embeddings (orange)"
    parts = [text_element(GAP, y, heading, TOKEN, mono=False, bold=True)]
    y += 8
    for text in mechanisms.texts:
        parts.append(text_element(GAP, y + ROW - 4, text.name, TOKEN, bold=True))
        numbers = (("self-BLEU", text.self_bleu), ("distance", text.distance))
        for number, (kind, value) in enumerate(numbers):
            if np.isfinite(value):
                parts.append(_bar(y + number * (ROW / 2), value, f"texts of {text.name}, {kind}: {value:.2f}", number))
        shown = " / ".join(f"{value:.2f}" for _, value in numbers if np.isfinite(value))
        parts.append(text_element(GAP + LABEL + BAR + 8, y + ROW - 4, shown, SMALL, colour=QUIET))
        y += ROW + 3
    return "".join(parts), y

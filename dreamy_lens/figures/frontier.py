"""Plotly figures of frontiers: one frontier, several of them, and several runs with their joint frontier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.figures import style
from dreamy_lens.figures.protocols import MergedRuns, PromptFrontier, PromptHistory

if TYPE_CHECKING:
    import plotly.graph_objects as go

CLOUD = 4000  # most points of a history; a figure with all of them has megabytes and looks no different
FEW = len(style.LIGHT) - 1  # lines that readers can tell apart beside the main one
AXES = {"xaxis_title": "cross-entropy (nats per token)", "yaxis_title": "value"}


def frontier_figure(
    frontier: PromptFrontier,
    others: Mapping[str, PromptFrontier] | Iterable[PromptFrontier | tuple[str, PromptFrontier]] = (),
    hull: PromptFrontier | None = None,
    dark: bool = False,
    history: PromptHistory | None = None,
) -> go.Figure:
    """Draw value against cross-entropy: fluent prompts are on the left, strong ones at the top.

    Each point shows the text of its prompt when you point at it.

    Args:
        frontier: Frontier to draw, as steps. Every prompt that was evaluated lies on the steps or below them.
        others: Frontiers to compare with, as a mapping from names, as pairs (name, frontier), or without names.
        hull: Corners of the frontier's convex hull, `frontier.hull()`, which a line joins as in the paper's figures.
        dark: Whether the figure is for a dark page.
        history: History of the run; its evaluated prompts become a cloud behind the frontier.

    Returns:
        A new plotly figure.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    if history is not None and len(history):
        figure.add_trace(_cloud(history, style.palette(dark)[1]))
    for i, (name, other) in enumerate(style.with_names(others, "other")):
        figure.add_trace(frontier_trace(other, name, _side_style(dark, i)))
    figure.add_trace(frontier_trace(frontier, "frontier", style.line_style(dark, 0)))
    if hull is not None:
        line = {"color": style.palette(dark)[1], "dash": "dash", "width": 1.5}
        x, y = hull.cross_entropies, hull.values
        figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, name="convex hull", hoverinfo="skip"))
    figure.update_layout(**style.layout(dark, hovermode="closest", **AXES))
    _zoom(figure, [frontier, *(other for _, other in style.with_names(others, "other"))], history)
    return figure


def runs_figure(merged: MergedRuns, dark: bool = False) -> go.Figure:
    """Draw the frontier of each run as a thin line, and the joint frontier of all runs (Figure 2a of the paper).

    Args:
        merged: Merged runs of one feature. Up to five runs have their own line styles; more share one style.
        dark: Whether the figure is for a dark page.

    Returns:
        A new plotly figure.
    """
    import plotly.graph_objects as go

    distinct, figure = len(merged.runs) <= FEW, go.Figure()
    for i, run in enumerate(merged.runs):
        seed = run.provenance.seed
        name = f"run {i}" if seed is None else f"seed {seed}"
        own = _side_style(dark, i) if distinct else style.LineStyle(style.palette(dark)[1])
        trace = frontier_trace(run.frontier, name, own, width=1.5)
        if not distinct:
            trace.update(opacity=0.55, legendgroup="runs", showlegend=i == 0, name=f"{len(merged.runs)} runs")
        figure.add_trace(trace)
    figure.add_trace(frontier_trace(merged.frontier, "all runs", style.line_style(dark, 0), width=3))
    figure.update_layout(**style.layout(dark, hovermode="closest", **AXES))
    return figure


def frontier_trace(frontier: PromptFrontier, name: str, look: style.LineStyle, width: float = 2) -> go.Scatter:
    """Return a frontier as a line of steps, with a point for each prompt that shows its text.

    Args:
        frontier: Frontier to draw.
        name: Name of the line in the legend.
        look: Colour, dash and symbol of the line.
        width: Width of the line.
    """
    import plotly.graph_objects as go

    return go.Scatter(
        x=frontier.cross_entropies,
        y=frontier.values,
        mode="lines+markers",
        line={"shape": "hv", "color": look.colour, "width": width, "dash": look.dash},
        marker={"size": 4 + 2 * width, "color": look.colour, "symbol": look.symbol},
        name=style.escape_label(name),
        text=[style.hover_text(prompt) for prompt in frontier],
        hovertemplate="%{text}<extra></extra>",
    )


def _side_style(dark: bool, i: int) -> style.LineStyle:
    """Return the style of line number i beside the main line; it never has the main line's colour."""
    return style.line_style(dark, 1 + i % FEW)


def _cloud(history: PromptHistory, colour: str) -> go.Scatter:
    """Return the evaluated prompts of a history as small points, evenly thinned out if there are many."""
    import plotly.graph_objects as go

    rows = np.linspace(0, len(history) - 1, min(len(history), CLOUD)).astype(int)
    marker: dict[str, Any] = {"size": 3, "color": colour, "opacity": 0.35}
    x, y = history.cross_entropy[rows], history.value[rows]
    name = "evaluated" if len(rows) == len(history) else f"{len(rows):,} of {len(history):,} evaluated"
    return go.Scatter(x=x, y=y, mode="markers", marker=marker, name=name, hoverinfo="skip")


def _zoom(figure: go.Figure, frontiers: list[PromptFrontier], history: PromptHistory | None) -> None:
    """Limit the axes of a figure with a history to the surroundings of the frontiers.

    Otherwise random prompts far from the frontiers would take most of the space.
    """
    full = [f for f in frontiers if len(f)]
    if history is None or not full:
        return
    x, y = np.concatenate([f.cross_entropies for f in full]), np.concatenate([f.values for f in full])
    for data, axis, less in ((x, "xaxis", 0.05), (y, "yaxis", 0.25)):
        room = float(np.ptp(data)) or 1.0
        low, high = float(data.min()) - less * room, float(data.max()) + 0.08 * room
        figure.update_layout({axis: {"range": [low, high]}})

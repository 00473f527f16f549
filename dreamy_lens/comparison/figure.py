"""Plotly figure of dreams and windows of a corpus, like Figure 3 of the paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.comparison.content import ComparisonContent
from dreamy_lens.comparison.svg import shown_range
from dreamy_lens.figures import style
from dreamy_lens.figures.frontier import AXES, frontier_trace
from dreamy_lens.scan.window import Window

if TYPE_CHECKING:
    import plotly.graph_objects as go


def comparison_figure(comparison: ComparisonContent, dark: bool = False, cloud: bool = True) -> go.Figure:
    """Draw value against cross-entropy: dreams, windows of the corpus, and the region without windows.

    Args:
        comparison: Comparison from `dreamy_lens.compare`.
        dark: Whether the figure is for a dark page.
        cloud: Whether to show the windows that were sampled at random.

    Returns:
        A new plotly figure.
    """
    import plotly.graph_objects as go

    (left, right), (bottom, top) = shown_range(comparison)
    figure, orange = go.Figure(), style.line_style(dark, 1).colour
    if comparison.top:
        _region(figure, comparison, orange, (left, right, bottom, top))
    if cloud and len(comparison.cloud):
        marker: dict[str, Any] = {"size": 4, "color": style.palette(dark)[1], "opacity": 0.3}
        x, y = comparison.cloud.T
        name = f"{len(x):,} windows at random"
        figure.add_trace(go.Scatter(x=x, y=y, mode="markers", marker=marker, name=name, hoverinfo="skip"))
    strong = {w.number for w in comparison.top}
    fluent = [w for w in comparison.fluent if w.number not in strong]
    if fluent:
        hollow = {"symbol": "square-open", "size": 9, "color": orange, "line": {"width": 2}}
        figure.add_trace(_windows(fluent, "strongest of each ¼ nat", hollow))
    if comparison.top:
        full = {"symbol": "square", "size": 9, "color": orange, "line": {"width": 1, "color": _background(dark)}}
        figure.add_trace(_windows(comparison.top, f"{len(comparison.top)} strongest windows", full))
    figure.add_trace(frontier_trace(comparison.frontier, "dreams", style.line_style(dark, 0)))
    figure.update_layout(**style.layout(dark, hovermode="closest", **AXES))
    figure.update_layout(xaxis={"range": [left, right]}, yaxis={"range": [bottom, top]})
    return figure


def _region(
    figure: go.Figure, comparison: ComparisonContent, colour: str, frame: tuple[float, float, float, float]
) -> None:
    """Add the region that no window reaches to a figure: hatched, with its edge and a label."""
    import plotly.graph_objects as go

    left, right, bottom, top = frame
    costs, highs = comparison.corpus_frontier.ceiling()
    x, y = [left], [top]
    for cost, high in zip(costs.tolist(), highs.tolist(), strict=True):
        at = left if cost == -math.inf else cost
        x += [at, at]
        y += [y[-1] if len(y) > 1 else top, max(bottom, high)]
    x += [right, right]
    y += [y[-1], top]
    pattern = {"shape": "/", "fgcolor": colour, "fgopacity": 0.35, "size": 9, "solidity": 0.12}
    area = {"fill": "toself", "fillcolor": "rgba(0,0,0,0)", "fillpattern": pattern, "line": {"width": 0}}
    region = f"Beyond the corpus ({comparison.scanned.extent})"
    figure.add_trace(go.Scatter(x=x, y=y, mode="lines", name=region, showlegend=False, hoverinfo="skip", **area))
    edge = {"color": colour, "dash": "dash", "width": 2}
    first = 2 * int(np.searchsorted(highs, bottom, "right"))  # first corner of the edge that lies within the figure
    edge_x, edge_y = x[1 + first : -1], y[1 + first : -1]
    figure.add_trace(go.Scatter(x=edge_x, y=edge_y, mode="lines", line=edge, showlegend=False, hoverinfo="skip"))
    place: dict[str, Any] = {"x": left, "y": top, "xanchor": "left", "yanchor": "top", "xshift": 10, "yshift": -8}
    figure.add_annotation(text=f"<b>{style.escape_label(region)}</b>", showarrow=False, font={"color": colour}, **place)


def _windows(windows: Sequence[Window], name: str, marker: dict[str, Any]) -> go.Scatter:
    """Return the windows whose cross-entropy is known as points."""
    import plotly.graph_objects as go

    scored = [w for w in windows if w.cross_entropy is not None]
    return go.Scatter(
        x=[w.cross_entropy for w in scored],
        y=[w.value for w in scored],
        mode="markers",
        marker=marker,
        name=name,
        text=[_hover_text(w) for w in scored],
        hovertemplate="%{text}<extra></extra>",
    )


def _hover_text(window: Window) -> str:
    """Return the text at a window's point: the window, its scores and its document."""
    scores = f"value {window.value:.4g}, cross-entropy {window.cross_entropy:.2f}"
    return "<br>".join([style.wrapped(window.text), scores, style.wrapped(window.document)])


def _background(dark: bool) -> str:
    """Return the background colour of figures."""
    return "#15181c" if dark else "#ffffff"

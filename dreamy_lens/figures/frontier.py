"""Frontiers as plotly figures: one, several, and several runs with what they reach together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.figures import style
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.results.history import History

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from dreamy_lens.results.merged import Merged

CLOUD = 4000  # points of a history shown at most; a figure of all of them is megabytes and shows the same
FEW = len(style.LIGHT) - 1  # lines that can be told apart beside the main one
AXES = {"xaxis_title": "cross-entropy (nats per token)", "yaxis_title": "value"}


def frontier_figure(
    frontier: Frontier,
    others: Mapping[str, Frontier] | Iterable[Frontier | tuple[str, Frontier]] = (),
    hull: bool = False,
    dark: bool = False,
    history: History | None = None,
) -> go.Figure:
    """Value against cross-entropy, each prompt a point that shows its text; fluent to the left, strong at the top.

    Args:
        frontier: drawn first, as steps: to the right of a prompt and below it nothing evaluated is better.
        others: frontiers to compare with, by name, as (name, frontier), or plain.
        hull: also join the corners of the frontier's convex hull, as the paper's figures do.
        dark: for a dark page.
        history: of the run; its evaluated prompts become a cloud behind the frontier.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    if history is not None and len(history):
        figure.add_trace(_cloud(history, style.palette(dark)[1]))
    for i, (name, other) in enumerate(style.named(others, "other")):
        figure.add_trace(steps(other, name, _another(dark, i)))
    figure.add_trace(steps(frontier, "frontier", style.looks(dark, 0)))
    if hull:
        corners = frontier.hull()
        line = {"color": style.palette(dark)[1], "dash": "dash", "width": 1.5}
        x, y = corners.cross_entropies, corners.values
        figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, name="convex hull", hoverinfo="skip"))
    figure.update_layout(**style.layout(dark, hovermode="closest", **AXES))
    _frame(figure, [frontier, *(other for _, other in style.named(others, "other"))], history)
    return figure


def runs_figure(merged: Merged, dark: bool = False) -> go.Figure:
    """The frontier of each run, thin, and the joint frontier of all of them (Figure 2a of the paper).

    Args:
        merged: what `dreamy_lens.merge` returns. Up to five runs are told apart; more are all drawn alike.
        dark: for a dark page.
    """
    import plotly.graph_objects as go

    few, figure = len(merged.runs) <= FEW, go.Figure()
    for i, run in enumerate(merged.runs):
        seed = run.provenance.seed
        name = f"run {i}" if seed is None else f"seed {seed}"
        trace = steps(run.frontier, name, _another(dark, i) if few else style.Look(style.palette(dark)[1]), width=1.5)
        if not few:
            trace.update(opacity=0.55, legendgroup="runs", showlegend=i == 0, name=f"{len(merged.runs)} runs")
        figure.add_trace(trace)
    figure.add_trace(steps(merged.frontier, "all runs", style.looks(dark, 0), width=3))
    figure.update_layout(**style.layout(dark, hovermode="closest", **AXES))
    return figure


def steps(frontier: Frontier, name: str, look: style.Look, width: float = 2) -> go.Scatter:
    """A frontier as a line of steps with a point for each prompt, which shows its text."""
    import plotly.graph_objects as go

    return go.Scatter(
        x=frontier.cross_entropies,
        y=frontier.values,
        mode="lines+markers",
        line={"shape": "hv", "color": look.colour, "width": width, "dash": look.dash},
        marker={"size": 4 + 2 * width, "color": look.colour, "symbol": look.symbol},
        name=style.escape(name),
        text=[style.hover(prompt) for prompt in frontier],
        hovertemplate="%{text}<extra></extra>",
    )


def _another(dark: bool, i: int) -> style.Look:
    """The look of what stands beside the main one, whose colour it never has."""
    return style.looks(dark, 1 + i % FEW)


def _cloud(history: History, colour: str) -> go.Scatter:
    import plotly.graph_objects as go

    rows = np.linspace(0, len(history) - 1, min(len(history), CLOUD)).astype(int)
    marker: dict[str, Any] = {"size": 3, "color": colour, "opacity": 0.35}
    x, y = history.cross_entropy[rows], history.value[rows]
    name = "evaluated" if len(rows) == len(history) else f"{len(rows):,} of {len(history):,} evaluated"
    return go.Scatter(x=x, y=y, mode="markers", marker=marker, name=name, hoverinfo="skip")


def _frame(figure: go.Figure, frontiers: list[Frontier], history: History | None) -> None:
    """With a cloud, show what surrounds the frontiers: random prompts far from them would take most of the axes."""
    full = [f for f in frontiers if len(f)]
    if history is None or not full:
        return
    x, y = np.concatenate([f.cross_entropies for f in full]), np.concatenate([f.values for f in full])
    for data, axis, less in ((x, "xaxis", 0.05), (y, "yaxis", 0.25)):
        room = float(np.ptp(data)) or 1.0
        low, high = float(data.min()) - less * room, float(data.max()) + 0.08 * room
        figure.update_layout({axis: {"range": [low, high]}})

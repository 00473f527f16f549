"""Frontiers as plotly figures: one, several, and several runs with what they reach together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.figures import style
from dreamy_lens.figures.protocols import MergedRuns, PromptFrontier, PromptHistory

if TYPE_CHECKING:
    import plotly.graph_objects as go

CLOUD = 4000  # points of a history shown at most; a figure of all of them is megabytes and shows the same
FEW = len(style.LIGHT) - 1  # lines that can be told apart beside the main one
AXES = {"xaxis_title": "cross-entropy (nats per token)", "yaxis_title": "value"}


def frontier_figure(
    frontier: PromptFrontier,
    others: Mapping[str, PromptFrontier] | Iterable[PromptFrontier | tuple[str, PromptFrontier]] = (),
    hull: PromptFrontier | None = None,
    dark: bool = False,
    history: PromptHistory | None = None,
) -> go.Figure:
    """Draw value against cross-entropy, each prompt a point that shows its text; fluent is left, strong is up.

    Args:
        frontier: the frontier, drawn as steps: to the right of a prompt and below it nothing evaluated is better.
        others: frontiers to compare with, by name, as (name, frontier), or plain.
        hull: corners of the frontier's convex hull, to be joined as in the paper's figures: `frontier.hull()`.
        dark: whether the figure is for a dark page.
        history: history of the run, whose evaluated prompts become a cloud behind the frontier.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    if history is not None and len(history):
        figure.add_trace(_cloud(history, style.palette(dark)[1]))
    for i, (name, other) in enumerate(style.named(others, "other")):
        figure.add_trace(steps(other, name, _another(dark, i)))
    figure.add_trace(steps(frontier, "frontier", style.looks(dark, 0)))
    if hull is not None:
        line = {"color": style.palette(dark)[1], "dash": "dash", "width": 1.5}
        x, y = hull.cross_entropies, hull.values
        figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, name="convex hull", hoverinfo="skip"))
    figure.update_layout(**style.layout(dark, hovermode="closest", **AXES))
    _frame(figure, [frontier, *(other for _, other in style.named(others, "other"))], history)
    return figure


def runs_figure(merged: MergedRuns, dark: bool = False) -> go.Figure:
    """Draw the frontier of each run, thin, and the joint frontier of all of them (Figure 2a of the paper).

    Args:
        merged: merged runs of one feature. Up to five runs are told apart; more are all drawn alike.
        dark: whether the figure is for a dark page.
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


def steps(frontier: PromptFrontier, name: str, look: style.Look, width: float = 2) -> go.Scatter:
    """Return a frontier as a line of steps with a point for each prompt, which shows its text."""
    import plotly.graph_objects as go

    return go.Scatter(
        x=frontier.cross_entropies,
        y=frontier.values,
        mode="lines+markers",
        line={"shape": "hv", "color": look.colour, "width": width, "dash": look.dash},
        marker={"size": 4 + 2 * width, "color": look.colour, "symbol": look.symbol},
        name=style.label(name),
        text=[style.hover(prompt) for prompt in frontier],
        hovertemplate="%{text}<extra></extra>",
    )


def _another(dark: bool, i: int) -> style.Look:
    """Return the look of a line beside the main one, whose colour it never has."""
    return style.looks(dark, 1 + i % FEW)


def _cloud(history: PromptHistory, colour: str) -> go.Scatter:
    import plotly.graph_objects as go

    rows = np.linspace(0, len(history) - 1, min(len(history), CLOUD)).astype(int)
    marker: dict[str, Any] = {"size": 3, "color": colour, "opacity": 0.35}
    x, y = history.cross_entropy[rows], history.value[rows]
    name = "evaluated" if len(rows) == len(history) else f"{len(rows):,} of {len(history):,} evaluated"
    return go.Scatter(x=x, y=y, mode="markers", marker=marker, name=name, hoverinfo="skip")


def _frame(figure: go.Figure, frontiers: list[PromptFrontier], history: PromptHistory | None) -> None:
    """With a cloud, show what surrounds the frontiers: random prompts far from them would take most of the axes."""
    full = [f for f in frontiers if len(f)]
    if history is None or not full:
        return
    x, y = np.concatenate([f.cross_entropies for f in full]), np.concatenate([f.values for f in full])
    for data, axis, less in ((x, "xaxis", 0.05), (y, "yaxis", 0.25)):
        room = float(np.ptp(data)) or 1.0
        low, high = float(data.min()) - less * room, float(data.max()) + 0.08 * room
        figure.update_layout({axis: {"range": [low, high]}})

"""How runs came to their frontiers, as plotly figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from dreamy_lens.figures import style
from dreamy_lens.results.history import History

if TYPE_CHECKING:
    import plotly.graph_objects as go

ROWS = {"best_value": "best value", "hypervolume": "hypervolume"}


def evolution_figure(
    history: History | Mapping[str, History] | Iterable[History | tuple[str, History]],
    reference: tuple[float, float] | None = None,
    dark: bool = False,
) -> go.Figure:
    """Best value so far and hypervolume of the frontier after each iteration; restarts are dotted lines.

    Args:
        history: of one run; or of several, by name, as (name, history), or plain.
        reference: (value, cross-entropy) that hypervolumes are measured from; by default the lowest value and the
            highest cross-entropy among all histories, so that theirs compare.
        dark: for a dark page.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    single = isinstance(history, History)
    runs = [("run", history)] if isinstance(history, History) else list(style.named(history, "run"))
    if reference is None:
        corners = [run.reference() for _, run in runs if len(run)] or [(0.0, 0.0)]
        reference = min(value for value, _ in corners), max(cost for _, cost in corners)
    figure = make_subplots(rows=len(ROWS), cols=1, shared_xaxes=True, vertical_spacing=0.07)
    for i, (name, run) in enumerate(runs):
        frame = run.evolution(reference)
        said = np.column_stack([frame["seconds"], frame["evaluated"], frame["frontier_size"]])
        template = "iteration %{x}: %{y:.4g}<br>%{customdata[1]:,} evaluated in %{customdata[0]:.1f} s"
        for row, column in enumerate(ROWS, start=1):
            line = {"shape": "hv", "color": style.COLOURS[i % len(style.COLOURS)], "width": 2}
            trace = go.Scatter(
                x=frame["iteration"],
                y=frame[column],
                customdata=said,
                mode="lines",
                line=line,
                name=style.escape(name),
                legendgroup=name,
                showlegend=row == 1 and not single,
                hovertemplate=template + ", %{customdata[2]} on the frontier<extra></extra>",
            )
            figure.add_trace(trace, row=row, col=1)
    quiet = style.palette(dark)[1]
    for iteration in sorted({iteration for _, run in runs for iteration, _ in run.restarts}):
        figure.add_vline(x=iteration, line={"color": quiet, "dash": "dot", "width": 1}, layer="below")
    settings = style.layout(dark)
    axis = settings.pop("xaxis")
    settings.pop("yaxis")
    figure.update_layout(**settings, hovermode="x unified" if single else "closest")
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    figure.update_xaxes(title_text="iteration", row=len(ROWS), col=1)
    for row, title in enumerate(ROWS.values(), start=1):
        figure.update_yaxes(title_text=title, row=row, col=1)
    return figure

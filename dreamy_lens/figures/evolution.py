"""Plotly figures of how runs reached their frontiers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from dreamy_lens.errors import SettingsError
from dreamy_lens.figures import style
from dreamy_lens.figures.frontier import AXES
from dreamy_lens.figures.protocols import PromptHistory, TextDecoder

if TYPE_CHECKING:
    import plotly.graph_objects as go

ROWS = {"best_value": "best value", "hypervolume": "hypervolume"}


def evolution_figure(
    history: PromptHistory | Mapping[str, PromptHistory] | Iterable[PromptHistory | tuple[str, PromptHistory]],
    reference: tuple[float, float] | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw the best value so far and the hypervolume of the frontier after each iteration. Restarts are dotted lines.

    Args:
        history: History of one run; or histories of several runs as a mapping from names, as pairs (name, history), or
            without names.
        reference: (value, cross-entropy) from which hypervolumes are measured. The default is the lowest value and the
            highest cross-entropy among all histories, so that their hypervolumes are comparable.
        dark: Whether the figure is for a dark page.

    Returns:
        A new plotly figure.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    single = isinstance(history, PromptHistory)
    runs = [("run", history)] if isinstance(history, PromptHistory) else list(style.with_names(history, "run"))
    if reference is None:
        corners = [run.reference() for _, run in runs if len(run)] or [(0.0, 0.0)]
        reference = min(value for value, _ in corners), max(cost for _, cost in corners)
    figure = make_subplots(rows=len(ROWS), cols=1, shared_xaxes=True, vertical_spacing=0.07)
    for i, (name, run) in enumerate(runs):
        frame = run.evolution(reference)
        details = np.column_stack([frame["seconds"], frame["evaluated"], frame["frontier_size"]])
        template = "iteration %{x}: %{y:.4g}<br>%{customdata[1]:,} evaluated in %{customdata[0]:.1f} s"
        for row, column in enumerate(ROWS, start=1):
            own = style.line_style(dark, i)
            line = {"shape": "hv", "color": own.colour, "dash": own.dash, "width": 2}
            trace = go.Scatter(
                x=frame["iteration"],
                y=frame[column],
                customdata=details,
                mode="lines",
                line=line,
                name=style.escape_label(name),
                legendgroup=name,
                showlegend=row == 1 and not single,
                hovertemplate=template + ", %{customdata[2]} on the frontier<extra></extra>",
            )
            figure.add_trace(trace, row=row, col=1)
    quiet = style.palette(dark)[1]
    restarts = sorted({iteration for _, run in runs for iteration, _ in run.restarts})
    for iteration in restarts:
        figure.add_vline(x=iteration, line={"color": quiet, "dash": "dot", "width": 1}, layer="below")
    if restarts:  # one label is enough, because all these lines look the same
        note = {"text": "restart", "font": {"size": 11, "color": quiet}, "showarrow": False}
        figure.add_annotation(x=restarts[0], y=0, xref="x", yref="y domain", xanchor="left", yanchor="bottom", **note)
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


def frontiers_figure(
    history: PromptHistory,
    iterations: Iterable[int] | None = None,
    dark: bool = False,
    decoder: TextDecoder | None = None,
) -> go.Figure:
    """Draw the frontier after several iterations, the last one with the strongest line (Figure 2b of the paper).

    Each line has its own dash and symbol. The number of its iteration stands at its end and in the legend.

    Args:
        history: History of one run.
        iterations: Numbers of the iterations. None selects the start, an eighth, a quarter and a half of the run, and
            its end. More than six lines are hard to tell apart.
        dark: Whether the figure is for a dark page.
        decoder: Decoder of the prompts, so that points show their texts; None shows only scores.

    Returns:
        A new plotly figure.

    Raises:
        SettingsError: The run has no such iteration.
    """
    import plotly.graph_objects as go

    last = history.iterations
    wanted = [0, last // 8, last // 4, last // 2, last] if iterations is None else list(iterations)
    wanted = sorted({int(i) for i in wanted}) if last >= 0 else []
    if wanted and not 0 <= wanted[0] <= wanted[-1] <= last:
        wrong = next(i for i in wanted if not 0 <= i <= last)
        raise SettingsError(f"There is no iteration {wrong}: the run has 0 to {last}. Choose iterations in this range.")
    figure, ends = go.Figure(), {}
    for i, (iteration, colour) in enumerate(zip(wanted, style.colour_ramp(dark, len(wanted)), strict=True)):
        rows, newest = history.frontier_rows(iteration), iteration == wanted[-1]
        own = style.line_style(dark, 0 if newest else 1 + i % (len(style.LIGHT) - 1))
        x, y = history.cross_entropy[rows], history.value[rows]
        labels = [f"value {v:.4g}, cross-entropy {c:.2f}" for v, c in zip(y, x, strict=True)]
        if decoder is not None:
            texts = (style.wrapped(decoder.text(history.ids_of(row))) for row in rows)
            labels = [f"{text}<br>{scores}" for text, scores in zip(texts, labels, strict=True)]
        trace = go.Scatter(
            x=x,
            y=y,
            mode="lines+markers",
            line={"shape": "hv", "color": colour, "width": 3 if newest else 2, "dash": own.dash},
            marker={"size": 8 if newest else 6, "color": colour, "symbol": own.symbol},
            name=str(iteration),
            text=labels,
            hovertemplate=f"%{{text}}, after iteration {iteration}<extra></extra>",
        )
        figure.add_trace(trace)
        if len(rows):
            ends[float(x[-1]), float(y[-1])] = iteration, colour
    for (x, y), (iteration, colour) in ends.items():  # if two lines end at the same point, the later iteration is named
        figure.add_annotation(
            x=x, y=y, text=str(iteration), font={"color": colour}, showarrow=False, xanchor="left", xshift=7
        )
    figure.update_layout(**style.layout(dark, hovermode="closest", **AXES))
    figure.update_layout(legend={"title": {"text": "frontier after iteration "}})
    return figure

"""How runs came to their frontiers, as plotly figures."""

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
    """Draw best value so far and hypervolume of the frontier after each iteration; restarts are dotted lines.

    Args:
        history: history of one run; or histories of several, by name, as (name, history), or plain.
        reference: (value, cross-entropy) that hypervolumes are measured from; by default the lowest value and the
            highest cross-entropy among all histories, so that theirs compare.
        dark: whether the figure is for a dark page.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    single = isinstance(history, PromptHistory)
    runs = [("run", history)] if isinstance(history, PromptHistory) else list(style.named(history, "run"))
    if reference is None:
        corners = [run.reference() for _, run in runs if len(run)] or [(0.0, 0.0)]
        reference = min(value for value, _ in corners), max(cost for _, cost in corners)
    figure = make_subplots(rows=len(ROWS), cols=1, shared_xaxes=True, vertical_spacing=0.07)
    for i, (name, run) in enumerate(runs):
        frame = run.evolution(reference)
        said = np.column_stack([frame["seconds"], frame["evaluated"], frame["frontier_size"]])
        template = "iteration %{x}: %{y:.4g}<br>%{customdata[1]:,} evaluated in %{customdata[0]:.1f} s"
        for row, column in enumerate(ROWS, start=1):
            look = style.looks(dark, i)
            line = {"shape": "hv", "color": look.colour, "dash": look.dash, "width": 2}
            trace = go.Scatter(
                x=frame["iteration"],
                y=frame[column],
                customdata=said,
                mode="lines",
                line=line,
                name=style.label(name),
                legendgroup=name,
                showlegend=row == 1 and not single,
                hovertemplate=template + ", %{customdata[2]} on the frontier<extra></extra>",
            )
            figure.add_trace(trace, row=row, col=1)
    quiet = style.palette(dark)[1]
    restarts = sorted({iteration for _, run in runs for iteration, _ in run.restarts})
    for iteration in restarts:
        figure.add_vline(x=iteration, line={"color": quiet, "dash": "dot", "width": 1}, layer="below")
    if restarts:  # said once; the lines look alike
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
    """Draw the frontier as it stood after some iterations, the last one strongest (Figure 2b of the paper).

    Each line is named where it ends and in the legend, and has a dash and a symbol of its own.

    Args:
        history: history of one run.
        iterations: numbers of the iterations; None is the start, an eighth, a quarter and half of the run, and its
            end. More than six begin to look alike.
        dark: whether the figure is for a dark page.
        decoder: decoder of the prompts, whose texts points then show; None shows only scores.

    Raises:
        SettingsError: the run has no such iteration.
    """
    import plotly.graph_objects as go

    last = history.iterations
    wanted = [0, last // 8, last // 4, last // 2, last] if iterations is None else list(iterations)
    wanted = sorted({int(i) for i in wanted}) if last >= 0 else []
    if wanted and not 0 <= wanted[0] <= wanted[-1] <= last:
        wrong = next(i for i in wanted if not 0 <= i <= last)
        raise SettingsError(f"There is no iteration {wrong}: the run has 0 to {last}.")
    figure, ends = go.Figure(), {}
    for i, (iteration, colour) in enumerate(zip(wanted, style.ramp(dark, len(wanted)), strict=True)):
        rows, newest = history.frontier_rows(iteration), iteration == wanted[-1]
        look = style.looks(dark, 0 if newest else 1 + i % (len(style.LIGHT) - 1))
        x, y = history.cross_entropy[rows], history.value[rows]
        said = [f"value {v:.4g}, cross-entropy {c:.2f}" for v, c in zip(y, x, strict=True)]
        if decoder is not None:
            texts = (style.lines(decoder.text(history.ids[row].tolist())) for row in rows)
            said = [f"{text}<br>{scores}" for text, scores in zip(texts, said, strict=True)]
        trace = go.Scatter(
            x=x,
            y=y,
            mode="lines+markers",
            line={"shape": "hv", "color": colour, "width": 3 if newest else 2, "dash": look.dash},
            marker={"size": 8 if newest else 6, "color": colour, "symbol": look.symbol},
            name=str(iteration),
            text=said,
            hovertemplate=f"%{{text}}, after iteration {iteration}<extra></extra>",
        )
        figure.add_trace(trace)
        if len(rows):
            ends[float(x[-1]), float(y[-1])] = iteration, colour
    for (x, y), (iteration, colour) in ends.items():  # where two end in one place, the later one
        figure.add_annotation(
            x=x, y=y, text=str(iteration), font={"color": colour}, showarrow=False, xanchor="left", xshift=7
        )
    figure.update_layout(**style.layout(dark, hovermode="closest", **AXES))
    figure.update_layout(legend={"title": {"text": "frontier after iteration "}})
    return figure

"""Plotly figure of an attribution: all substitutions in one prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dreamy_lens.figures import style
from dreamy_lens.figures.protocols import TokenAttribution
from dreamy_lens.html.escaping import visible

if TYPE_CHECKING:
    import plotly.graph_objects as go

# From the orange of panels (the value falls) through the background to their blue (the value rises). Readers with any
# colour vision can tell the two apart.
LIGHT = [[0.0, style.HEAT[0]], [0.5, "#f4f5f7"], [1.0, style.LIGHT[0]]]
DARK = [[0.0, style.HEAT[1]], [0.5, "#20242a"], [1.0, style.DARK[0]]]

MAX_LEVEL_LETTERS = 66
"""Most letters that horizontal labels above the heat map may have, so that they fit into a column of text."""


def attribution_figure(attribution: TokenAttribution, dark: bool = False) -> go.Figure:
    """Draw a heat map with one column per token of the prompt, and in it the substitutes from best (top) to worst.

    Args:
        attribution: Attribution of a prompt with at least one token.
        dark: Whether the figure is for a dark page.

    Returns:
        A new plotly figure.
    """
    import plotly.graph_objects as go

    n, k = len(attribution), attribution.candidates.shape[1]
    change, text = np.full((k, n), np.nan), np.full((k, n), "", dtype=object)
    for i in range(n):
        for rank, substitute in enumerate(attribution.top(i, k)):
            change[rank, i] = substitute.change
            own, other = (style.escape_label(t, token=True) for t in (attribution.tokens[i], substitute.token))
            scores = f"value {substitute.value:.4g} ({substitute.change:+.4g})"
            costs = f"cross-entropy {substitute.cross_entropy:.2f}"
            text[rank, i] = f"{i + 1}: <b>{own}</b> becomes <b>{other}</b><br>{scores}, {costs}"
    limit = float(np.nanmax(np.abs(change))) if np.isfinite(change).any() else 1.0
    figure = go.Figure(
        go.Heatmap(
            z=change,
            x=np.arange(n),
            y=np.arange(1, k + 1),
            text=text,
            hovertemplate="%{text}<extra></extra>",
            colorscale=DARK if dark else LIGHT,
            zmin=-limit or -1.0,
            zmax=limit or 1.0,
            xgap=2,
            colorbar={"title": {"text": "change of value"}},
        )
    )
    labels = [style.escape_label(token, token=True) for token in attribution.tokens]
    figure.update_layout(**style.layout(dark, xaxis_title="token of the prompt", yaxis_title="substitute, best first"))
    # Labels are horizontal if all of them fit, and slanted otherwise. Plotly would decide by the width of the page.
    level = n * max(4, *(len(visible(token, True)) for token in attribution.tokens)) <= MAX_LEVEL_LETTERS
    font = {"family": "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace", "size": 12}
    figure.update_xaxes(tickvals=list(range(n)), ticktext=labels, tickangle=0 if level else -45, tickfont=font)
    figure.update_xaxes(showgrid=False, side="top", title_standoff=4)
    figure.update_yaxes(tickvals=[1, *range(5, k + 1, 5)], autorange="reversed", showgrid=False)
    figure.update_layout(margin={"t": 20, "b": 20})
    return figure

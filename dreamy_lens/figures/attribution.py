"""Attribution as a plotly figure: every substitution of a prompt at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dreamy_lens.figures import style

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from dreamy_lens.results.attribution import Attribution

# From orange (the feature weakens) through the page's ground to blue: told apart with every kind of colour vision.
LIGHT = [[0.0, "#b35806"], [0.25, "#f1a340"], [0.5, "#f7f7f7"], [0.75, "#6baed6"], [1.0, "#08519c"]]
DARK = [[0.0, "#fdae61"], [0.25, "#a65a12"], [0.5, "#23272d"], [0.75, "#2b6ca3"], [1.0, "#8cc8ff"]]


def attribution_figure(attribution: Attribution, dark: bool = False) -> go.Figure:
    """A heat map: one column per token of the prompt, its substitutes from the best at the top to the worst.

    Args:
        attribution: at least one token.
        dark: for a dark page.
    """
    import plotly.graph_objects as go

    n, k = len(attribution), attribution.candidates.shape[1]
    change, text = np.full((k, n), np.nan), np.full((k, n), "", dtype=object)
    for i in range(n):
        for rank, substitute in enumerate(attribution.top(i, k)):
            change[rank, i] = substitute.change
            own, other = (style.escape(t, token=True) for t in (attribution.tokens[i], substitute.token))
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
    labels = [style.escape(token, token=True) for token in attribution.tokens]
    figure.update_layout(**style.layout(dark, yaxis_title="substitute, best first"))
    figure.update_xaxes(tickvals=list(range(n)), ticktext=labels, showgrid=False, side="top")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure

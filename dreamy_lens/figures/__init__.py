"""Plotly figures of results, to be restyled and printed: pure functions, each of which returns a new figure.

Plotly is imported when a figure is made, not before.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "frontier_figure": "dreamy_lens.figures.frontier",
    "runs_figure": "dreamy_lens.figures.frontier",
    "evolution_figure": "dreamy_lens.figures.evolution",
    "frontiers_figure": "dreamy_lens.figures.evolution",
    "attribution_figure": "dreamy_lens.figures.attribution",
    "save": "dreamy_lens.figures.export",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has: {', '.join(_HOMES)}")
    found = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found
    return found

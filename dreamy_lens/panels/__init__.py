"""Live views of runs and attributions for notebooks, and the same views frozen: anywidget, no kernel extension.

Panels sit on top of everything else: they show results and ask runs. Nothing imports them before something is shown.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "show": "dreamy_lens.panels.cells",
    "DreamPanel": "dreamy_lens.panels.dream",
    "AttributionPanel": "dreamy_lens.panels.attribution",
    "RunsPanel": "dreamy_lens.panels.runs",
    "FeatureBrowser": "dreamy_lens.panels.browser",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has: {', '.join(_HOMES)}")
    found = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found
    return found

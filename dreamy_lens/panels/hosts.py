"""What programs need beside a panel: Colab, to draw it; a terminal or an old marimo, a sentence on what it cannot show.

Colab draws widgets of packages only on request, and anywidget makes this request with the first widget. Two things
remain. Colab marks an output as one for such widgets only if the thread that made the request calls `display`. And it
draws each cell in a frame of its own, which knows the widgets that are drawn there and no others.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import anywidget

from dreamy_lens._host import in_kernel, is_notebook, say

NO_WIDGETS = (
    "Panels are widgets, and nothing here can show them. Use a notebook: Jupyter, VS Code, Colab or marimo. Here, "
    "print(...) shows what a panel is of, and run.to_html('page.html') writes the view of a run as a page."
)

LIVE_MARIMO = (0, 23, 14)
"""The first version of marimo that sends the page what a thread other than the cell's writes to a widget."""


def announce_panel() -> None:
    """Say that panels cannot be shown, where the process is no notebook."""
    if not is_notebook():
        say(NO_WIDGETS)


def limits_of_host() -> str:
    """Return a sentence on what the notebook does not show of a live panel; empty where it shows everything."""
    marimo = sys.modules.get("marimo")
    if in_kernel() or marimo is None or not marimo.running_in_notebook():
        return ""
    used = str(marimo.__version__)
    if tuple(int(number) for number in re.findall(r"\d+", used)[:3]) >= LIVE_MARIMO:
        return ""
    needed = ".".join(map(str, LIVE_MARIMO))
    return (
        f"This panel stays as it is: marimo {used} does not show what changes after a cell has ended. Update marimo to "
        f"{needed} or newer (pip install -U marimo) and restart it. The run itself goes on: print(run) shows its "
        "frontier so far."
    )


def display_metadata(panel: anywidget.AnyWidget) -> dict[str, Any]:
    """Return the metadata with which any thread can display a panel, or widgets around it; empty outside of Colab.

    Args:
        panel: Panel that is displayed.
    """
    bundle: Any = anywidget.AnyWidget._repr_mimebundle_(panel)  # without the frozen view of a panel that has one
    return bundle[1] if isinstance(bundle, tuple) else {}


def connect_frozen(panel: anywidget.AnyWidget) -> None:
    """Make the frozen view in the current cell of Colab a live one, by an invisible widget; do nothing elsewhere.

    Args:
        panel: Panel that the frozen view was made from.
    """
    from IPython.display import display
    from ipywidgets import Layout, VBox

    if metadata := display_metadata(panel):
        display(VBox([panel], layout=Layout(display="none")), metadata=metadata)

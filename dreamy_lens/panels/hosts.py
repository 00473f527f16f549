"""What programs need beside a panel: Colab, to draw it; a terminal, a sentence that says that it draws none.

Colab draws widgets of packages only on request, and anywidget makes this request with the first widget. Two things
remain. Colab marks an output as one for such widgets only if the thread that made the request calls `display`. And it
draws each cell in a frame of its own, which knows the widgets that are drawn there and no others.
"""

from __future__ import annotations

from typing import Any

import anywidget

from dreamy_lens._host import is_notebook, say

NO_WIDGETS = (
    "Panels are widgets, and nothing here can show them. Use a notebook: Jupyter, VS Code, Colab or marimo. Here, "
    "print(...) shows what a panel is of, and run.to_html('page.html') writes the view of a run as a page."
)


def announce_panel() -> None:
    """Say that panels cannot be shown, where the process is no notebook."""
    if not is_notebook():
        say(NO_WIDGETS)


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

"""What is said where panels cannot be shown.

In Colab, which shows widgets of packages only on request, anywidget makes this request with the first widget.
"""

from __future__ import annotations

from dreamy_lens._host import is_notebook, say

NO_WIDGETS = (
    "Panels are widgets, and nothing here can show them. Use a notebook: Jupyter, VS Code, Colab or marimo. Here, "
    "print(...) shows what a panel is of, and run.to_html('page.html') writes the view of a run as a page."
)


def announce_panel() -> None:
    """Say that panels cannot be shown, where the process is no notebook."""
    if not is_notebook():
        say(NO_WIDGETS)

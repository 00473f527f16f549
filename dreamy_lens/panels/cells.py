"""Show panels in notebook cells, and leave views there that work without a kernel."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any

from dreamy_lens._host import in_kernel
from dreamy_lens.panels.attribution import frozen_attribution
from dreamy_lens.panels.dream import DreamPanel
from dreamy_lens.panels.hosts import connect_frozen, display_metadata
from dreamy_lens.panels.runs import RunsPanel
from dreamy_lens.runs.worker import ENDED

if TYPE_CHECKING:
    from dreamy_lens.results.attribution import Attribution
    from dreamy_lens.runs.dream import Dream
    from dreamy_lens.runs.dreams import Dreams

PATIENCE = 1.0
"""Most seconds to wait for missing attributions when a finished run is displayed; later ones are added then."""


class CellContent:
    """Content of a cell: HTML, and a text for viewers without HTML.

    Args:
        html: HTML of the cell.
        text: Text that stands for the HTML.
    """

    def __init__(self, html: str, text: str) -> None:
        self._html, self._text = html, text

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return self._text


class Cell:
    """Notebook cell with a panel, and below it the panels of the runs that are started from it.

    Args:
        panel: Panel to show.
        html: HTML to show at first; None shows the live panel.
    """

    def __init__(self, panel: DreamPanel | RunsPanel, html: str | None = None) -> None:
        from IPython.display import display
        from ipywidgets import VBox

        self._lock = threading.Lock()
        self.panels, self.box = [panel], VBox([panel])
        self._metadata = display_metadata(panel)
        if html is None:
            self.handle = display(self.box, display_id=True, metadata=self._metadata)
        else:
            self.handle = display(CellContent(html, repr(panel)), display_id=True)
            connect_frozen(panel)
        self._follow(panel)

    def add(self, run: Dream) -> None:
        """Add the panel of another run below.

        Args:
            run: Run to show.
        """
        panel = DreamPanel(run)
        with self._lock:
            self.panels.append(panel)
            self.box.children = (*self.box.children, panel)
            if self.handle is not None:
                self.handle.update(self.box, metadata=self._metadata)
        self._follow(panel)

    def _follow(self, panel: DreamPanel | RunsPanel) -> None:
        """Add runs that are started from a panel, and freeze the cell when its runs have ended."""

        def freeze(run: Any) -> None:
            if run.status in ENDED:
                panel.prepare()
                run.defer(self.freeze)

        def freeze_again() -> None:
            run = panel.run[0] if isinstance(panel, RunsPanel) else panel.run
            if run.status in ENDED:
                run.defer(self.freeze)

        panel.on_started(self.add)
        panel.on_edited(freeze_again)
        panel.run.listen(freeze)

    def freeze(self) -> None:
        """Replace the panels by frozen views if all runs have ended; with a kernel, these views are still live."""
        with self._lock:
            if self.handle is None or any(panel.status not in ENDED for panel in self.panels):
                return
            html, text = ("".join(make(panel) for panel in self.panels) for make in (lambda p: p.to_html(), repr))
            self.handle.update(CellContent(html, text))


def panel_of(run: Dream | Dreams) -> DreamPanel | RunsPanel:
    """Return a live panel of a run, or of several.

    Args:
        run: Run, or several runs.
    """
    return RunsPanel(run) if isinstance(run, Sequence) else DreamPanel(run)


def show(run: Dream | Dreams) -> None:
    """Show a run in the current notebook cell: a live panel while it goes on, a frozen view when it has ended.

    Args:
        run: Run, or several runs.
    """
    if not in_kernel():  # marimo displays the last expression of a cell by itself
        return
    panel = panel_of(run)
    if run.status not in ENDED:
        Cell(panel)
        return
    futures = panel.prepare()
    missing = wait(futures, timeout=PATIENCE).not_done
    cell = Cell(panel, panel.to_html())

    def complete(_: Any) -> None:
        if all(future.done() for future in futures):
            cell.freeze()

    for future in missing:
        future.add_done_callback(complete)


def show_attribution(attribution: Attribution) -> None:
    """Show an attribution in the current notebook cell, as a view that needs no kernel.

    Args:
        attribution: Attribution to show.
    """
    from IPython.display import display

    display(CellContent(frozen_attribution(attribution), repr(attribution)))

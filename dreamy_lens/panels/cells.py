"""Put panels into a notebook's cells, and leave there what a reader without a kernel can still use."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any

from dreamy_lens._host import in_kernel
from dreamy_lens.panels.attribution import frozen_attribution
from dreamy_lens.panels.dream import DreamPanel
from dreamy_lens.panels.runs import RunsPanel
from dreamy_lens.runs.worker import ENDED

if TYPE_CHECKING:
    from dreamy_lens.results.attribution import Attribution
    from dreamy_lens.runs.dream import Dream
    from dreamy_lens.runs.dreams import Dreams

PATIENCE = 20.0
"""Seconds that showing a run that has ended waits for attributions that are not known yet."""


class CellContent:
    """What a cell shows: HTML, and a text where no HTML is shown.

    Args:
        html: of the cell.
        text: in its place.
    """

    def __init__(self, html: str, text: str) -> None:
        self._html, self._text = html, text

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return self._text


class Cell:
    """The place of a panel in a notebook, and below it those of the runs that are started from it.

    Args:
        panel: panel to be shown.
        html: what to show at first; None is the live panel.
    """

    def __init__(self, panel: DreamPanel | RunsPanel, html: str | None = None) -> None:
        from IPython.display import display
        from ipywidgets import VBox

        self._lock = threading.Lock()
        self.panels, self.box = [panel], VBox([panel])
        self.handle = display(self.box if html is None else CellContent(html, repr(panel)), display_id=True)
        self._follow(panel)

    def add(self, run: Dream) -> None:
        """Put the panel of another run below."""
        panel = DreamPanel(run)
        with self._lock:
            self.panels.append(panel)
            self.box.children = (*self.box.children, panel)
            if self.handle is not None:
                self.handle.update(self.box)
        self._follow(panel)

    def _follow(self, panel: DreamPanel | RunsPanel) -> None:
        """Show what is started from a panel, and see to it that the cell holds no widget when its runs have ended."""

        def freeze(run: Any) -> None:
            if run.status in ENDED:
                panel.prepare()
                run.defer(self.freeze)

        panel.on_started(self.add)
        panel.run.listen(freeze)

    def freeze(self) -> None:
        """When nothing here goes on any more, leave what needs no kernel; where there is one, it stays alive."""
        with self._lock:
            if self.handle is None or any(panel.status not in ENDED for panel in self.panels):
                return
            html, text = ("".join(make(panel) for panel in self.panels) for make in (lambda p: p.to_html(), repr))
            self.handle.update(CellContent(html, text))


def panel_of(run: Dream | Dreams) -> DreamPanel | RunsPanel:
    """A live panel of a run, or of several."""
    return RunsPanel(run) if isinstance(run, Sequence) else DreamPanel(run)


def show(run: Dream | Dreams) -> None:
    """Show a run in the present cell: its panel while it goes on, and what needs no kernel when it has ended."""
    if not in_kernel():  # marimo shows what a cell ends with
        return
    panel, html = panel_of(run), None
    if run.status in ENDED:
        wait(panel.prepare(), timeout=PATIENCE)
        html = panel.to_html()
    Cell(panel, html)


def show_attribution(attribution: Attribution) -> None:
    """Show an attribution in the present cell, as a view that needs no kernel."""
    from IPython.display import display

    display(CellContent(frozen_attribution(attribution), repr(attribution)))

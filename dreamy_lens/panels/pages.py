"""A dream as one page with its view, which needs no kernel and no network: what `run.to_html()` writes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from dreamy_lens.errors import DreamyLensError
from dreamy_lens.html.escaping import escape
from dreamy_lens.html.page import document
from dreamy_lens.panels.run_view import frozen_run, inspector_of
from dreamy_lens.runs.report import introduction, settings_list, run_settings

if TYPE_CHECKING:
    from dreamy_lens.runs.dream import Dream


def page_of_run(run: Dream, k: int = 32, strips: int = 20) -> str:
    """Return the page of a run, with its view.

    Args:
        run: the dream; the page waits for its end.
        k: substitutes tried at each position.
        strips: prompts of the frontier that are attributed at most, spread from fluent to strong.
    """
    inspector, frontier = inspector_of(run), run.frontier

    def inspect() -> None:
        for prompt in frontier.spread(strips):
            inspector.with_series(np.asarray(prompt.ids, dtype=np.int64), k)

    with contextlib.suppress(DreamyLensError):  # a feature without a gradient has a frontier all the same
        run.ask(inspect).result()
    title = f"A dream of {run.feature_label}"
    view = frozen_run(run, strips=strips)
    body = (
        f"<h1>{escape(title)}</h1><p>{escape(introduction(run))}</p>{view}"
        f"<h2>Settings</h2>{settings_list(run_settings(run))}"
    )
    return document(title, body, scripts=True)

"""Page of a dream with its view, which needs no kernel and no network. `run.to_html()` writes it."""

from __future__ import annotations

import contextlib
from concurrent.futures import wait
from typing import TYPE_CHECKING

import numpy as np

from dreamy_lens.errors import DreamyLensError
from dreamy_lens.html.escaping import escape, with_tooltip
from dreamy_lens.html.page import document
from dreamy_lens.panels.run_view import frozen_run, inspector_of
from dreamy_lens.panels.runs import RunsPanel
from dreamy_lens.runs.report import introduction, run_settings, settings_list

if TYPE_CHECKING:
    from dreamy_lens.runs.dream import Dream
    from dreamy_lens.runs.dreams import Dreams


def page_of_runs(runs: Dreams) -> str:
    """Return the page of several runs, with their view.

    Args:
        runs: Runs to show.
    """
    panel = RunsPanel(runs)
    try:
        wait(panel.prepare())
        view = panel.to_html()
    finally:
        panel.close()
    names = dict.fromkeys(run.feature_names for run in runs)
    title = f"Dreams of {', '.join(short for short, _ in names)}"
    heading = ", ".join(with_tooltip(short, long) for short, long in names)
    evaluated = sum(len(run.history) for run in runs)
    intro = (
        f"{len(runs)} runs evaluated {evaluated:,} prompts. The view shows the frontier of each run and of all runs of "
        "a feature together: prompts that no other prompt beats in both value and cross-entropy."
    )
    body = f"<h1>Dreams of {heading}</h1><p>{escape(intro)}</p>{view}{_settings_of_runs(runs)}"
    return document(title, body, scripts=True)


def _settings_of_runs(runs: Dreams) -> str:
    """Return the settings that all runs share, and those in which they differ as a table with a row for each run."""
    each = [run_settings(run) for run in runs]
    names = dict.fromkeys(name for settings in each for name in settings)
    differ = [name for name in names if len({repr(settings.get(name)) for settings in each}) > 1]
    differ.sort(key=lambda name: name == "feature")  # the longest text stands last
    html = f"<h2>Settings</h2>{settings_list({n: v for n, v in each[0].items() if n not in differ})}"
    if not differ:
        return html
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ["run", *differ])
    rows = ""
    for number, settings in enumerate(each):
        cells = "".join(f"<td>{escape(str(settings.get(name, '')))}</td>" for name in differ)
        rows += f'<tr><th scope="row">{number}</th>{cells}</tr>'
    table = f'<table class="dl-table"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'{html}<h2>Differences</h2><div style="overflow-x:auto">{table}</div>'


def page_of_run(run: Dream, k: int = 32, strips: int = 20) -> str:
    """Return the page of a run, with its view.

    Args:
        run: Run to show; the function waits for its end.
        k: Number of substitutes to try at each position.
        strips: Most prompts of the frontier to attribute, spread from fluent to strong.
    """
    inspector, frontier = inspector_of(run), run.frontier

    def inspect() -> None:
        default = frontier.representative()
        for prompt in [*([default] if default else []), *frontier.spread(strips)]:
            inspector.with_series(np.asarray(prompt.ids, dtype=np.int64), k)

    with contextlib.suppress(DreamyLensError):  # a feature without a gradient has no attributions
        run.ask(inspect).result()
    short, long = run.feature_names
    view = frozen_run(run, strips=strips)
    body = (
        f"<h1>A dream of {with_tooltip(short, long)}</h1><p>{escape(introduction(run))}</p>{view}"
        f"<h2>Settings</h2>{settings_list(run_settings(run))}"
    )
    return document(f"A dream of {short}", body, scripts=True)

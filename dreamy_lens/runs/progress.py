"""Advance a run: in the background of a notebook with a panel, or in the calling thread with a progress bar."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, Protocol

from dreamy_lens import _upcalls
from dreamy_lens._host import is_notebook, is_watched, progress_bar
from dreamy_lens.runs.worker import RunWorker, Steppable
from dreamy_lens.search.config import UNLIMITED, iterations_text

LOG = logging.getLogger("dreamy_lens")


class Displayable(Steppable, Protocol):
    """Object that can be advanced with a bar or a panel: one run, or several side by side."""

    @property
    def summary(self) -> str:
        """One line on the progress of the search."""
        ...

    def work_with(self, worker: RunWorker, /) -> None:
        """Use a worker for the next steps, and for the functions that other threads pass to the run."""
        ...


def advance(
    run: Displayable,
    until: int,
    progress: bool | None = None,
    save_to: str | os.PathLike[str] | None = None,
    wait: bool | None = None,
) -> None:
    """Take the steps of a run, or of several side by side, up to an iteration.

    Ctrl-C ends the run early, without an exception.

    Args:
        run: Run, or runs, to advance.
        until: Last iteration.
        progress: Whether to show a panel or a bar; None shows a panel in notebooks, a bar in terminals.
        save_to: Folder to save the run in, every half minute and at the end.
        wait: Whether to return only at the end; None waits except in notebooks.

    Raises:
        Exception: With `wait`, the error that ended the run, after the results have been saved. Its `run` attribute is
            the run, or the runs.
    """
    worker = RunWorker(run, until, save_to)
    if wait is None:
        wait = not is_notebook()
    if not wait:
        run.work_with(worker)
        try:
            if progress is not False:
                _show(run)
        except BaseException:
            worker.stop()
            raise
        finally:  # a worker that never starts would keep other threads waiting for ever
            worker.start()
        return
    with _bar(run, until, is_watched() if progress is None else progress) as bar:
        run.work_with(worker)
        leave = worker.listen(lambda run: _update(bar, run), every=0.0)
        worker.work()
        leave()
        if worker.interrupted:
            done = f"Interrupted after {iterations_text(run.iteration, until)}"
            bar.write(f"{done}. Everything found so far is kept; .resume() continues.", file=sys.stderr)
    if worker.error is not None:
        worker.error_seen = True
        raise worker.error


def _show(run: Displayable) -> None:
    try:
        _upcalls.show(run)
    except Exception:  # a panel that fails must not end the search
        LOG.exception("The panel of a run cannot be shown; the run continues without it.")


def _bar(run: Displayable, until: int, shown: bool) -> Any:
    total = None if until == UNLIMITED else until
    return progress_bar(shown, total=total, initial=run.iteration, desc="dreaming")


def _update(bar: Any, run: Displayable) -> None:
    if not bar.disable:
        bar.set_postfix_str(run.summary, refresh=False)
        bar.update(run.iteration - bar.n)

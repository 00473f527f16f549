"""Let a run go on: in the background of a notebook, with its panel, or here and now, with a bar."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, Protocol

from dreamy_lens import _upcalls
from dreamy_lens._host import is_notebook, is_watched
from dreamy_lens.runs.worker import RunWorker, Steppable

LOG = logging.getLogger("dreamy_lens")


class Displayable(Steppable, Protocol):
    """What can go on with a bar or a panel: one run, or several side by side."""

    @property
    def summary(self) -> str:
        """Where the search stands, in a line."""
        ...

    def work_with(self, worker: RunWorker, /) -> None:
        """Have a worker take the steps and answer from now on."""
        ...


def advance(
    run: Displayable,
    until: int,
    progress: bool | None = None,
    save_to: str | os.PathLike[str] | None = None,
    wait: bool | None = None,
) -> None:
    """Take the steps of a run, or of several side by side, up to an iteration.

    An interrupt ends it early, without an exception. With `wait`, an error is raised, with the run or the runs as its
    `run` attribute, after what was found has been saved. See :func:`dreamy_lens.dream` for the other arguments.
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
        finally:  # a worker that never starts would never end
            worker.start()
        return
    with _bar(run, until, is_watched() if progress is None else progress) as bar:
        run.work_with(worker)
        leave = worker.listen(lambda run: _update(bar, run), every=0.0)
        worker.work()
        leave()
        if worker.interrupted:
            done = f"Interrupted after {run.iteration} of {until} iterations"
            bar.write(f"{done}; everything found is kept, and .resume() goes on.", file=sys.stderr)
    if worker.error is not None:
        worker.told = True
        raise worker.error


def _show(run: Displayable) -> None:
    try:
        _upcalls.show(run)
    except Exception:  # the search is worth more than the sight of it
        LOG.exception("The panel of a run cannot be shown; the run goes on without it.")


def _bar(run: Displayable, until: int, shown: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=until, initial=run.iteration, desc="dreaming", disable=not shown, dynamic_ncols=True)


def _update(bar: Any, run: Displayable) -> None:
    if not bar.disable:
        bar.set_postfix_str(run.summary, refresh=False)
        bar.update(run.iteration - bar.n)

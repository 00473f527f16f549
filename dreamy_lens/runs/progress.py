"""Let a run go on: in the background of a notebook, with its panel, or here and now, with a bar."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dreamy_lens.runs.worker import RunWorker

if TYPE_CHECKING:
    from dreamy_lens.runs.dream import Dream
    from dreamy_lens.runs.dreams import Dreams

LOG = logging.getLogger("dreamy_lens")


def advance(
    run: Dream | Dreams,
    until: int,
    progress: bool | None = None,
    save_to: str | os.PathLike[str] | None = None,
    wait: bool | None = None,
) -> None:
    """Take the steps of a run, or of several side by side, up to an iteration.

    An interrupt ends it early, without an exception. An error is raised, if somebody waits, with the run or the runs as
    its `run` attribute, after what was found has been saved. See :func:`dreamy_lens.dream` for the other arguments.
    """
    worker = RunWorker(run, until, save_to)
    if wait is None:
        wait = not is_notebook()
    if not wait:
        run._work_with(worker)
        try:
            if progress is not False:
                _show(run)
        except BaseException:
            worker.stop()
            raise
        finally:  # a worker that never starts would never end
            worker.start()
        return
    with _bar(run, until, _is_watched() if progress is None else progress) as bar:
        run._work_with(worker)
        leave = worker.listen(lambda run: _update(bar, run), every=0.0)
        worker.work()
        leave()
        if worker.interrupted:
            done = f"Interrupted after {_iteration(run)} of {until} iterations"
            bar.write(f"{done}; everything found is kept, and .resume() goes on.", file=sys.stderr)
    if worker.error is not None:
        worker.told = True
        raise worker.error


def is_notebook() -> bool:
    """Whether this is a notebook's kernel, where a cell should return at once."""
    if in_kernel():
        return True
    marimo = sys.modules.get("marimo")
    return marimo is not None and bool(marimo.running_in_notebook())


def in_kernel() -> bool:
    """Whether this is a Jupyter kernel, where something shown goes into the present cell."""
    shell = sys.modules.get("IPython")
    instance = shell.get_ipython() if shell is not None else None
    return instance is not None and hasattr(instance, "kernel")


def _show(run: Dream | Dreams) -> None:
    try:
        from dreamy_lens.panels import show

        show(run)
    except Exception:  # the search is worth more than the sight of it
        LOG.exception("The panel of a run cannot be shown; the run goes on without it.")


def _is_watched() -> bool:
    """Whether somebody would see a progress bar: a notebook, or a terminal."""
    return in_kernel() or sys.stderr.isatty()


def _bar(run: Dream | Dreams, until: int, shown: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=until, initial=_iteration(run), desc="dreaming", disable=not shown, dynamic_ncols=True)


def _update(bar: Any, run: Dream | Dreams) -> None:
    if not bar.disable:
        bar.set_postfix_str(_summary(run), refresh=False)
        bar.update(_iteration(run) - bar.n)


def _iteration(run: Dream | Dreams) -> int:
    """Completed; of several runs, by all of them."""
    return min(one.iteration for one in run) if isinstance(run, Sequence) else run.iteration


def _summary(run: Dream | Dreams) -> str:
    """Where the search stands, for the bar."""
    if isinstance(run, Sequence):
        found = [one for one in run if len(one.frontier_rows)]
        if not found:
            return f"{len(run)} runs"
        best = [one.history.value[one.frontier_rows[-1]] for one in found]
        area = [one.hypervolume for one in found]
        return (
            f"{len(run)} runs, best values {min(best):.3g} to {max(best):.3g}, "
            f"hypervolumes {min(area):.4g} to {max(area):.4g}"
        )
    history, rows = run.history, run.frontier_rows
    if not len(rows):
        return ""
    best = rows[-1]
    return (
        f"best value {history.value[best]:.3g} at cross-entropy {history.cross_entropy[best]:.2f}, "
        f"frontier {len(rows)}, hypervolume {run.hypervolume:.4g}"
    )

"""Drive a run's search: note every step, show a bar, save now and then, and lose nothing on any way out."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dreamy_lens.results.dream import Dream
    from dreamy_lens.results.dreams import Dreams
    from dreamy_lens.search.epo import Step

SAVE_SECONDS = 30.0
"""How often a run with a folder is saved while it goes on."""


def advance(
    run: Dream | Dreams, until: int, progress: bool | None = None, save_to: str | os.PathLike[str] | None = None
) -> None:
    """Take the steps of a run, or of several side by side, up to an iteration.

    An interrupt ends it early, without an exception. An error is raised with the run, or the runs, as its `run`
    attribute, after what was found has been saved. See :func:`dreamy_lens.dream` for the other arguments.
    """
    from tqdm.auto import tqdm

    shown = _is_watched() if progress is None else progress
    saved = None
    with tqdm(total=until, initial=_iteration(run), desc="dreaming", disable=not shown, dynamic_ncols=True) as bar:
        try:
            for one, step in _steps(run, until):
                with _uninterrupted():
                    one.take(step)
                bar.update(_iteration(run) - bar.n)
                bar.set_postfix_str(_summary(run), refresh=False)
                # The first step is saved at once: a folder that cannot be written is better known before the search.
                if save_to is not None and (saved is None or time.monotonic() - saved > SAVE_SECONDS):
                    with _uninterrupted():
                        run.save(save_to)
                    saved = time.monotonic()
        except KeyboardInterrupt:
            with _uninterrupted(forget=True):
                done = f"Interrupted after {_iteration(run)} of {until} iterations"
                bar.write(f"{done}; everything found is kept, and .resume() goes on.", file=sys.stderr)
        except Exception as error:
            error.run = run  # type: ignore[attr-defined]
            if save_to is not None and saved is not None:
                _save_anyway(run, save_to)
            raise
    if save_to is not None:
        try:
            _save_whole(run, save_to)
        except Exception as error:
            error.run = run  # type: ignore[attr-defined]
            raise


def _steps(run: Dream | Dreams, until: int) -> Iterator[tuple[Dream, Step]]:
    if isinstance(run, Sequence):
        yield from run.steps(until)
    else:
        for step in run.steps(until):
            yield run, step


def _iteration(run: Dream | Dreams) -> int:
    """Completed; of several runs, by all of them."""
    return min(one.iteration for one in run) if isinstance(run, Sequence) else run.iteration


def _save_whole(run: Dream | Dreams, save_to: str | os.PathLike[str]) -> None:
    """The last save. The search is over, so a Ctrl-C now has nothing left to end: it must not cost the run."""
    for again in (True, True, False):
        try:
            with _uninterrupted(forget=True):
                run.save(save_to)
            return
        except KeyboardInterrupt:  # pressed just before the block, or while no signal can be held back
            if not again:
                warnings.warn(
                    f"The run was interrupted while it was saved; run.save({str(save_to)!r}) saves it.",
                    RuntimeWarning,
                    stacklevel=4,
                )


def _save_anyway(run: Dream | Dreams, save_to: str | os.PathLike[str]) -> None:
    """Save on the way out of an error, which must not be hidden by another one."""
    try:
        with _uninterrupted(forget=True):
            run.save(save_to)
    except Exception as error:
        warnings.warn(f"The run could not be saved: {error}", RuntimeWarning, stacklevel=4)


def _summary(run: Dream | Dreams) -> str:
    """Where the search stands, for the bar."""
    if isinstance(run, Sequence):
        best = [one.history.value[one.frontier_rows[-1]] for one in run if len(one.frontier_rows)]
        return f"{len(run)} runs, best values {min(best):.3g} to {max(best):.3g}" if best else f"{len(run)} runs"
    history, rows = run.history, run.frontier_rows
    if not len(rows):
        return ""
    best = rows[-1]
    return (
        f"best value {history.value[best]:.3g} at cross-entropy {history.cross_entropy[best]:.2f}, frontier {len(rows)}"
    )


def _is_watched() -> bool:
    """Whether somebody would see a progress bar: a notebook, or a terminal."""
    shell = sys.modules.get("IPython")
    instance = shell.get_ipython() if shell is not None else None
    return (instance is not None and hasattr(instance, "kernel")) or sys.stderr.isatty()


@contextlib.contextmanager
def _uninterrupted(forget: bool = False) -> Iterator[None]:
    """Hold Ctrl-C back until the block is done, so that a step is noted whole or not at all.

    Args:
        forget: drop it then, where there is nothing more to interrupt.
    """
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield
        return
    held: list[tuple] = []
    signal.signal(signal.SIGINT, lambda *what: held.append(what))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if held and not forget:
        usual(*held[0])

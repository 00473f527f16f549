"""Several runs that advance side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from dreamy_lens import _upcalls
from dreamy_lens._files import check_page, expanded, write_text
from dreamy_lens._host import working
from dreamy_lens.errors import RunFolderError, SettingsError
from dreamy_lens.features.parser import parse
from dreamy_lens.results.merged import Merged, merge
from dreamy_lens.runs.controls import RunControls
from dreamy_lens.runs.dream import Dream
from dreamy_lens.runs.progress import advance
from dreamy_lens.runs.python_code import runs_code
from dreamy_lens.runs.saving import check_free, check_name
from dreamy_lens.runs.worker import FAILED, PAUSED, RUNNING, STOPPED, RunWorker
from dreamy_lens.search.steps import Step

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dreamy_lens.results.frontier import Frontier


def folders_of(path: str | os.PathLike[str], count: int) -> list[Path]:
    """Return the folders of several runs inside one folder.

    Args:
        path: Folder that holds the runs' folders.
        count: Number of runs.

    Raises:
        RunFolderError: The path is a file, or its name ends like that of a file.
    """
    folder = expanded(path)
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{os.fspath(path)!r} is a file; name a folder for the {count} runs.")
    check_name(path)
    return [folder / f"run-{number:03d}" for number in range(count)]


class Dreams(RunControls, Sequence["Dream"]):
    """Runs over one model, feature by feature in the order given, and seed by seed within each feature.

    Each run is an ordinary :class:`~dreamy_lens.runs.dream.Dream`; you can save, resume and plot it by itself.

    Args:
        runs: Runs to hold, in order.
    """

    def __init__(self, runs: Sequence[Dream]) -> None:
        self.runs = tuple(runs)
        # A slice of runs that share a worker controls all of that worker's runs.
        workers = {id(run.worker): run.worker for run in self.runs}
        self._worker = next(iter(workers.values())) if len(workers) == 1 else None

    @property
    def iteration(self) -> int:
        """Number of iterations that every run has completed so far."""
        return min((run.iteration for run in self.runs), default=0)

    def resume(
        self,
        iterations: int | None = None,
        *,
        progress: bool | None = None,
        save_to: str | os.PathLike[str] | None = None,
        wait: bool | None = None,
    ) -> Dreams:
        """Continue the runs side by side from where they paused or stopped.

        Args:
            iterations: Number of iterations to add to each run; None completes those of the settings.
            progress: Whether to show a panel or a bar; None shows a panel in notebooks, a bar in terminals.
            save_to: Folder to save the runs in, every half minute and at the end.
            wait: Whether to return only at the end; None waits except in notebooks and after a pause.

        Returns:
            This object.

        Raises:
            SettingsError: The runs are at different iterations and a number was given, or they are still going.
            RunFolderError: `save_to` holds other runs, or cannot be created.
        """
        if self._went_on(iterations, save_to, wait):
            return self
        until = {run.until(iterations) for run in self.runs}
        if len(until) > 1:
            iterations_of_runs = sorted({run.iteration for run in self.runs})
            raise SettingsError(
                f"resume(n) needs runs that are at the same iteration, and these are at {iterations_of_runs}; resume() "
                "without a number completes all of them."
            )
        for run, folder in [] if save_to is None else zip(self.runs, self.run_folders(save_to), strict=True):
            if not run.is_own_folder(folder):
                check_free(folder)
        for run in self.runs:
            run.go_until(max(until))
        advance(self, max(until), progress, save_to, wait)
        return self

    @property
    def status(self) -> str:
        """Status of the runs together: ready, running, paused, stopped, done or failed.

        Runs that differ are running if one is running, else paused, else failed, else stopped.
        """
        own = self._worker
        return own.status if own is not None and own.active else self._idle_status()

    def _idle_status(self) -> str:
        statuses = {run.status for run in self.runs}
        if len(statuses) == 1:
            return statuses.pop()
        return next((status for status in (RUNNING, PAUSED, FAILED) if status in statuses), STOPPED)

    def _parts(self) -> list[RunControls]:
        return [self, *self.runs]

    def _workers(self) -> list[RunWorker]:
        return list(dict.fromkeys(run.worker for run in self.runs if run.worker is not None))

    @overload
    def __getitem__(self, index: int) -> Dream: ...
    @overload
    def __getitem__(self, index: slice) -> Dreams: ...
    def __getitem__(self, index: int | slice) -> Dream | Dreams:
        return Dreams(self.runs[index]) if isinstance(index, slice) else self.runs[index]

    def __len__(self) -> int:
        return len(self.runs)

    def of(self, feature: Any) -> Merged:
        """Merge all seeds of one feature, with their joint frontier; see :func:`dreamy_lens.results.merge`.

        Args:
            feature: Expression, or its text.

        Raises:
            SettingsError: No run here drives this feature.
        """
        expression = parse(feature)
        seeds = [run for run in self.runs if run.feature == expression]
        if not seeds:
            labels = ", ".join(dict.fromkeys(run.feature_label for run in self.runs))
            raise SettingsError(f"No run here drives {expression.label}. The runs drive: {labels}.")
        return merge(seeds)

    def merged(self) -> list[Merged]:
        """Return the merged seeds of each feature, in order; see :meth:`of`."""
        return [self.of(feature) for feature in dict.fromkeys(run.feature for run in self.runs)]

    @property
    def frontier(self) -> Frontier:
        """Joint frontier of all runs, if they drive one feature.

        Raises:
            SettingsError: The runs drive several features; :meth:`of` selects one.
        """
        return self._joined("frontier").frontier

    def plot(self, **settings: Any) -> go.Figure:
        """Draw the frontier of each run and the joint frontier, if the runs drive one feature.

        Args:
            **settings: Settings of `figures.runs_figure`, such as `dark`.

        Raises:
            SettingsError: The runs drive several features; :meth:`of` selects one.
        """
        return self._joined("plot()").plot(**settings)

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return one self-contained page with the panel of the runs, which needs no kernel and no network.

        Args:
            path: File to write the page to; None only returns it.

        Raises:
            FileWriteError: The page cannot be written to `path`. Nothing has been computed.
        """
        if path is not None:
            check_page(path, "runs.of(feature).save(path) writes pictures and tables.")
        with working("Computing the attributions of the page"):
            page = _upcalls.page_of_runs(self.wait())
        if path is not None:
            write_text(path, page)
        return page

    def _joined(self, what: str) -> Merged:
        """Return all runs as merged runs of one feature."""
        merged = self.merged()
        if len(merged) != 1:
            names = ", ".join(each.feature_names[0] for each in merged) or "no feature"
            raise SettingsError(
                f"These runs drive {len(merged)} features ({names}), and {what} is of one; runs.of(feature).{what} has "
                "that of one feature."
            )
        return merged[0]

    def to_pandas(self) -> pd.DataFrame:
        """Return the frontiers of all runs, one row per prompt, with the number of its run in the first column."""
        import pandas as pd

        frames = []
        for number, run in enumerate(self.runs):
            frame = run.to_pandas()
            frame.insert(0, "run", number)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write each run as its own folder inside one folder: `run-000`, `run-001`, ...

        :func:`dreamy_lens.load` opens the folder again, and :func:`dreamy_lens.load_run` each of them.

        Args:
            path: Folder that holds the runs' folders.
            overwrite: Whether to replace runs that are already there.

        Returns:
            The folder that holds the runs' folders.

        Raises:
            RunFolderError: The path is taken by something other than these runs.
        """
        folder = expanded(path)
        for run, run_folder in zip(self.runs, self.run_folders(folder), strict=True):
            run.save(run_folder, overwrite=overwrite)
        return folder

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Any = None, *, fluency_model: Any = None) -> Dreams:
        """Open the runs that :meth:`save` wrote into a folder.

        Args:
            path: Folder that holds the runs' folders.
            model: Model to continue the runs with; None loads the saved one when it is needed.
            fluency_model: Fluency model of the runs; None loads the saved one when it is needed.

        Raises:
            RunFolderError: The folder has no runs, or one of them is damaged.
        """
        folders = sorted(expanded(path).glob("run-[0-9][0-9][0-9]*"), key=lambda folder: int(folder.name[4:]))
        if not folders:
            raise RunFolderError(f"{os.fspath(path)!r} has no runs in it: there is no folder run-000.")
        return cls([Dream.load(folder, model, fluency_model) for folder in folders])

    def run_folders(self, path: str | os.PathLike[str]) -> list[Path]:
        """Return the folder in which :meth:`save` writes each run.

        Args:
            path: Folder that holds the runs' folders.

        Raises:
            RunFolderError: The path is a file.
        """
        return folders_of(path, len(self))

    @property
    def models(self) -> set[Any]:
        """All models that the runs use; loaded now if they are not in memory."""
        return {model for run in self.runs for model in run.models}

    def steps(self, until: int, between: Callable[[], object] | None = None) -> Iterator[tuple[Dream, Step]]:
        """Yield the next steps of all runs, side by side; a step counts once it is passed to :meth:`take`.

        Args:
            until: Last iteration.
            between: Function to call before every pass through the model.

        Raises:
            SettingsError: The prompts of the runs have different lengths, so they do not fit into the same passes.
        """
        from dreamy_lens.models.hooked_model import keep_hooks
        from dreamy_lens.scoring.contexts import ContextScorer, JointContextScorer
        from dreamy_lens.scoring.joint import JointScorer
        from dreamy_lens.scoring.sharing import SharingScorer
        from dreamy_lens.search.joint import drive_together

        lengths = sorted({run.config.length for run in self.runs})
        if len(lengths) > 1:
            raise SettingsError(
                f"Runs side by side need prompts of one length, and these have {', '.join(map(str, lengths))} tokens; "
                "start the runs of each length by themselves."
            )
        for run in {run.feature: run for run in self.runs if run.is_new}.values():
            run.session.check_gradient()
        scorers = [run.session.scorer for run in self.runs]
        shares = all(getattr(run.config, "share_prompts", False) for run in self.runs)
        if any(isinstance(s, ContextScorer) for s in scorers):
            if shares:
                raise SettingsError(
                    "share_prompts offers prompts to other features in one template, and not in several contexts. "
                    "Leave out share_prompts, or contexts()."
                )
            scorer = JointContextScorer(scorers)  # pyright: ignore[reportArgumentType]  # all runs have one template
        else:
            scorer = SharingScorer(scorers) if shares else JointScorer(scorers)
        with keep_hooks(self.models):
            try:
                for number, step in drive_together([run.search(until) for run in self.runs], scorer, between):
                    yield self.runs[number], step
            finally:
                scorer.release_graphs()

    def take(self, step: tuple[Dream, Step]) -> None:
        """Add a step to the run that made it."""
        run, own_step = step
        run.take(own_step)

    def end_here(self) -> None:
        """Make the present iteration of every run the last one of its settings; see :meth:`Dream.end_here`."""
        for run in self.runs:
            run.end_here()

    def unlock(self) -> None:
        """Replace the lock of every run by a new one."""
        for run in self.runs:
            run.unlock()

    @property
    def summary(self) -> str:
        """One line on the progress of the runs: best values and hypervolumes."""
        scored = [run for run in self.runs if len(run.frontier_rows)]
        budget = self.runs[0].budget_text
        used = f" (each {budget})" if budget else ""
        if not scored:
            return f"{len(self)} runs{used}"
        best = [run.history.value[run.frontier_rows[-1]] for run in scored]
        area = [run.hypervolume for run in scored]
        return (
            f"{len(self)} runs{used}, best values {min(best) + 0.0:.3g} to {max(best) + 0.0:.3g}, "
            f"hypervolumes {min(area):.4g} to {max(area):.4g}"
        )

    def __repr__(self) -> str:
        inside = "".join(f"\n  {line}" for line in self._lines())
        several = len({run.provenance.feature for run in self.runs}) > 1
        return f"Dreams({len(self)} runs{'; runs.of(feature) joins the seeds of one' * several}){inside}"

    def _lines(self) -> list[str]:
        """Return a line for each run, with the seed, which may be all that tells two runs apart."""
        return [f"seed {run.config.seed}: {run!r}" for run in self.runs]

    def _repr_html_(self) -> str:
        from dreamy_lens.html.escaping import escape
        from dreamy_lens.html.page import fragment, python_details

        rows = "".join(f"<li>{escape(line)}</li>" for line in self._lines())
        code = python_details(runs_code(self.runs))
        return fragment(f"<p>{len(self)} runs</p><ol start='0'>{rows}</ol>{code}")

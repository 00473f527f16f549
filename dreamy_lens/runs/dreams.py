"""Several runs that were made side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from dreamy_lens.errors import RunFolderError, SettingsError
from dreamy_lens.features.parser import parse
from dreamy_lens.models.hooked_model import keep_hooks
from dreamy_lens.results.merged import Merged, merge
from dreamy_lens.runs.controls import RunControls
from dreamy_lens.runs.dream import Dream
from dreamy_lens.runs.progress import advance
from dreamy_lens.runs.worker import FAILED, PAUSED, RUNNING, STOPPED, RunWorker
from dreamy_lens.scoring.joint import JointScorer
from dreamy_lens.search.joint import drive_together
from dreamy_lens.search.steps import Step

if TYPE_CHECKING:
    import pandas as pd


class Dreams(RunControls, Sequence["Dream"]):
    """Runs over one model, in the order in which they were asked for: feature by feature, and seed by seed within each.

    Each is a :class:`~dreamy_lens.runs.dream.Dream` like any other, and can be saved, resumed and plotted by itself.

    Args:
        runs: the runs.
    """

    def __init__(self, runs: Sequence[Dream]) -> None:
        self.runs = tuple(runs)
        # Part of those that go on together goes on with them.
        workers = {id(run.worker): run.worker for run in self.runs}
        self._worker = next(iter(workers.values())) if len(workers) == 1 else None

    @property
    def iteration(self) -> int:
        """Iterations completed by all of them until now."""
        return min((run.iteration for run in self.runs), default=0)

    def resume(
        self,
        iterations: int | None = None,
        *,
        progress: bool | None = None,
        save_to: str | os.PathLike[str] | None = None,
        wait: bool | None = None,
    ) -> Dreams:
        """Go on, side by side, where the runs paused or stopped; see :meth:`Dream.resume`.

        Raises:
            SettingsError: they are at different iterations and a number was given, or they go on still.
        """
        if self._went_on(iterations, save_to, wait):
            return self
        until = {run.until(iterations) for run in self.runs}
        if len(until) > 1:
            there = sorted({run.iteration for run in self.runs})
            raise SettingsError(f"The runs are at iterations {there}; resume() with no number completes all of them.")
        for run in self.runs:
            run.go_until(max(until))
        advance(self, max(until), progress, save_to, wait)
        return self

    @property
    def status(self) -> str:
        """What they are doing: ready, running, paused, stopped, done or failed; the first of those that go on."""
        own = self._worker
        return own.status if own is not None and own.active else self._idle_status()

    def _idle_status(self) -> str:
        each = {run.status for run in self.runs}
        return each.pop() if len(each) == 1 else next((s for s in (RUNNING, PAUSED, FAILED) if s in each), STOPPED)

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
        """All seeds of one feature as one, with their joint frontier; see :func:`dreamy_lens.merge`.

        Args:
            feature: an expression or its text.

        Raises:
            SettingsError: no run here is of this feature.
        """
        expression = parse(feature)
        seeds = [run for run in self.runs if run.feature == expression]
        if not seeds:
            there = ", ".join(dict.fromkeys(run.feature_label for run in self.runs))
            raise SettingsError(f"No run here is of {expression.label}; there are: {there}.")
        return merge(seeds)

    def merged(self) -> list[Merged]:
        """One for each feature, in order; see :meth:`of`."""
        return [self.of(feature) for feature in dict.fromkeys(run.feature for run in self.runs)]

    def to_pandas(self) -> pd.DataFrame:
        """Every run's frontier, one row per prompt, with the number of its run in the first column."""
        import pandas as pd

        frames = []
        for number, run in enumerate(self.runs):
            frame = run.to_pandas()
            frame.insert(0, "run", number)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write each run as a folder of its own inside a folder: `run-000`, `run-001`, ...

        Args:
            path: of the folder around them.
            overwrite: replace runs that are there.

        Raises:
            RunFolderError: something else is there. :func:`dreamy_lens.load_run` opens each.
        """
        folder = Path(path)
        for run, place in zip(self.runs, self.places(folder), strict=True):
            run.save(place, overwrite=overwrite)
        return folder

    def places(self, path: str | os.PathLike[str]) -> list[Path]:
        """Where :meth:`save` puts each run; RunFolderError if there is a file where the folder around them is to be."""
        if Path(path).exists() and not Path(path).is_dir():
            raise RunFolderError(f"{os.fspath(path)!r} is a file; name a folder for the {len(self)} runs.")
        return [Path(path) / f"run-{number:03d}" for number in range(len(self))]

    @property
    def models(self) -> set[Any]:
        """All models that the runs use, loaded if need be."""
        return {model for run in self.runs for model in run.models}

    def steps(self, until: int, between: Callable[[], object] | None = None) -> Iterator[tuple[Dream, Step]]:
        """Give the runs' next steps, up to an iteration, side by side; each counts once it is given to :meth:`take`.

        Args:
            until: the last iteration.
            between: called before every pass through the model.
        """
        scorer = JointScorer([run.session.scorer for run in self.runs])
        with keep_hooks(self.models):
            for number, step in drive_together([run.search(until) for run in self.runs], scorer, between):
                yield self.runs[number], step

    def take(self, step: tuple[Dream, Step]) -> None:
        """Note a step of one of the runs."""
        run, own_step = step
        run.take(own_step)

    def unlock(self) -> None:
        """Forget which threads may be reading the runs."""
        for run in self.runs:
            run.unlock()

    @property
    def summary(self) -> str:
        """Where the searches stand, in a line: best values and hypervolumes."""
        scored = [run for run in self.runs if len(run.frontier_rows)]
        if not scored:
            return f"{len(self)} runs"
        best = [run.history.value[run.frontier_rows[-1]] for run in scored]
        area = [run.hypervolume for run in scored]
        return (
            f"{len(self)} runs, best values {min(best):.3g} to {max(best):.3g}, "
            f"hypervolumes {min(area):.4g} to {max(area):.4g}"
        )

    def __repr__(self) -> str:
        inside = "".join(f"\n  {run!r}" for run in self.runs)
        return f"Dreams({len(self)} runs){inside}"

    def _repr_html_(self) -> str:
        from dreamy_lens.html.escaping import escape
        from dreamy_lens.html.page import fragment

        rows = "".join(f"<li>{escape(repr(run))}</li>" for run in self.runs)
        return fragment(f"<p>{len(self)} runs</p><ol start='0'>{rows}</ol>")

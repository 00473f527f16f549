"""A run of the search, with everything that it found."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from dreamy_lens import _upcalls
from dreamy_lens._files import check_page, expanded, write_text
from dreamy_lens._host import working
from dreamy_lens.errors import SettingsError, quoted, warn
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.results.history import History
from dreamy_lens.results.prompt import Prompt
from dreamy_lens.runs import report, saving
from dreamy_lens.runs.call_code import method_code
from dreamy_lens.runs.frames import check_replay, frames_of
from dreamy_lens.runs.progress import advance
from dreamy_lens.runs.python_code import run_code
from dreamy_lens.runs.recorded_run import RecordedRun
from dreamy_lens.runs.spec import RunRecord
from dreamy_lens.search.config import budget_text, iterations_text
from dreamy_lens.search.steps import Step

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dreamy_lens.figures import SvgFigure
    from dreamy_lens.runs.session import Session
    from dreamy_lens.search.protocol import Search

R = TypeVar("R")


class Dream(RecordedRun):
    """A run of a search, with everything that it found.

    A run may go on in the background, as it does in notebooks. Then everything that reads or changes its results waits
    for the end, except :attr:`so_far`.

    Args:
        record: Record of the run so far.
        session: Model, scorer and constraints of the run, if they are loaded; None loads them when they are needed.

    Attributes:
        provenance: Feature, model, seed, BOS and template of the run's prompts.
        folder: Folder in which the run was last saved, or from which it was loaded; None if there is none.
        started: Runs that were started from a prompt in this run's panels.
    """

    def __init__(self, record: RunRecord, session: Session | None = None) -> None:
        super().__init__(record, session)
        self.started: list[Dream] = []

    def noted(self, result: R, method: str, arguments: Sequence[Any], settings: Mapping[str, Any]) -> R:
        """Return a result with the program that makes it again, see :func:`dreamy_lens.runs.call_code.method_code`.

        Args:
            result: Result of a method.
            method: Name of the method.
            arguments: Positional arguments of the call.
            settings: Keywords of the call.
        """
        return dataclasses.replace(result, code=method_code(self, method, arguments, settings))  # type: ignore[type-var]

    # What the run has found.

    @property
    def history(self) -> History:
        """Every evaluated prompt, as arrays."""
        self._settle()
        return self.so_far.history

    @property
    def frontier(self) -> Frontier:
        """Prompts that no evaluated prompt beats in both value and cross-entropy, from fluent to strong."""
        self._settle()
        return self.so_far.frontier.calibrated(self.baselines) if self.baselines else self.so_far.frontier

    @property
    def population(self) -> list[Prompt]:
        """Prompts of the present population, in ascending order of their slots' λ; none for a search without slots."""
        self._settle()
        return self.so_far.population

    @property
    def hypervolume(self) -> float:
        """Area under the frontier, measured from the lowest value and the highest cross-entropy that were evaluated.

        To compare runs, use one reference for all of them: `run.frontier.hypervolume((value, cross_entropy))`.
        """
        self._settle()
        return self.so_far.hypervolume

    def evolution(self, reference: tuple[float, float] | None = None) -> pd.DataFrame:
        """Return best value, hypervolume and size of the frontier after each iteration; see :meth:`History.evolution`.

        Args:
            reference: Value and cross-entropy from which the hypervolume is measured; None is the lowest value and the
                highest cross-entropy evaluated.
        """
        return self.history.evolution(reference)

    def to_pandas(self) -> pd.DataFrame:
        """Return the frontier as a table; `run.history.to_pandas()` returns every evaluated prompt."""
        return self.frontier.to_pandas()

    def explore(self, prompt: Any) -> Any:
        """Return a panel that explores any prompt under this run's feature; see :func:`dreamy_lens.explore`.

        A dream that you start in the panel has this run's settings, constraints and template.

        Args:
            prompt: One text, ids `[n]`, or a Prompt.
        """
        return _upcalls.explore_run(self, prompt)

    def plot(self, **settings: Any) -> go.Figure:
        """Return a plotly figure of the frontier over all evaluated prompts.

        Args:
            **settings: Keywords of :meth:`Frontier.plot`.
        """
        drawn: dict[str, Any] = {"history": self.history, **settings}
        return self.frontier.plot(**drawn)

    def replay(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        seconds: float = 12.0,
        max_cross_entropy: float | None = None,
    ) -> SvgFigure:
        """Return the search as an animation for talks: the frontier grows, and the best prompt changes below it.

        The animation is an SVG without scripts, which loops in browsers and in slides made of HTML. Other programs, and
        readers who ask for less motion, see the end of the search.

        Args:
            path: File to write, `.svg` or a page `.html`; None writes no file.
            seconds: Duration of one loop, of which the last frame takes a quarter.
            max_cross_entropy: Limit under which the best prompt is taken, in nats per token; None takes the strongest.

        Returns:
            Figure that a notebook displays.

        Raises:
            FileWriteError: The file cannot be written, or its ending stands for another format. Nothing was drawn.
            SettingsError: `seconds` is not a positive number, or the run has no prompt with finite scores.
        """
        from dreamy_lens.figures import replay

        if path is not None:
            check_replay(path)
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < 3600:
            raise SettingsError(f"seconds is {quoted(seconds)}; it is the duration of a loop, above 0 and below 3600.")
        drawn = frames_of(self.history, lambda ids: self.so_far.text(ids), max_cross_entropy)
        if not drawn:
            raise SettingsError("The run has no prompt with finite scores, so there is nothing to replay.")
        seed = "" if self.provenance.seed is None else f", seed {self.provenance.seed}"
        figure = replay(drawn, self.feature_label, f"{self.provenance.model}{seed}", seconds)
        if path is not None:
            figure.save(path)
        return figure

    def to_html(
        self, path: str | os.PathLike[str] | None = None, *, k: int = 32, strips: int = 20, static: bool = False
    ) -> str:
        """Return one self-contained page with the run's panel, which answers clicks with no kernel and no network.

        Args:
            path: File to write the page to; None only returns it.
            k: Number of substitutes to try at each position.
            strips: Number of the frontier's prompts that get an attribution, spread from fluent to strong.
            static: Whether to leave out the script, for mail and print; every strip is then written out.

        Returns:
            Page as HTML.

        Raises:
            FileWriteError: The page cannot be written to `path`. Nothing has been computed.
        """
        if path is not None:
            check_page(path, "run.frontier.save(path) writes pictures and tables.")
        with working("Computing the attributions of the page"):
            if static:
                page = report.static_page_of_run(self, k=k, strips=strips, code=run_code(self))
            else:
                page = _upcalls.page_of_run(self, k=k, strips=strips)
        if path is not None:
            write_text(path, page)
        return page

    # Resuming and saving.

    def resume(
        self,
        iterations: int | None = None,
        *,
        progress: bool | None = None,
        save_to: str | os.PathLike[str] | None = None,
        wait: bool | None = None,
    ) -> Dream:
        """Continue from where the run paused or stopped. The results are the same as if it had never stopped.

        That holds for one precision and one type of device. If the model now has another precision or device, a
        RuntimeWarning says so, and the run continues with numbers that differ in their last digits.

        Args:
            iterations: Number of iterations to add; None completes those of the settings.
            progress: Whether to show a panel or a bar; None shows a panel in notebooks, a bar in terminals.
            save_to: Folder to save the run in, every half minute and at the end.
            wait: Whether to return only at the end; None waits except in notebooks and after a pause, because a run
                that was paused in the background continues there.

        Returns:
            This run.

        Raises:
            SettingsError: `iterations` is not a whole number of at least 1, or the run is still going.
            RunFolderError: The model gives other numbers than the run was made with, or `save_to` holds another run.
        """
        if self._went_on(iterations, save_to, wait):
            return self
        until = self.until(iterations)
        if save_to is not None and not self.is_own_folder(save_to):
            saving.check_free(save_to)
        self.go_until(until)
        advance(self, until, progress, save_to, wait)
        return self

    def until(self, iterations: int | None) -> int:
        """Return the last iteration after adding a number of iterations.

        Args:
            iterations: Number of iterations to add; None is the end that the settings give.

        Raises:
            SettingsError: `iterations` is not a whole number of at least 1.
        """
        is_integer = isinstance(iterations, (int, np.integer)) and not isinstance(iterations, bool)
        if iterations is not None and (not is_integer or iterations < 1):
            raise SettingsError(
                f"resume() takes the number of iterations to add, at least 1; got {quoted(iterations)}."
            )
        return self.config.iterations if iterations is None else self.iteration + int(iterations)

    def go_until(self, until: int) -> None:
        """Prepare the run to continue: load the model, warn if its last digits will differ, and set the new end.

        Args:
            until: Last iteration.
        """
        session = self.session
        if session.change is not None:
            warn(session.change, RuntimeWarning)
            session.go_on_changed()
            self._identity = session.identity
        config = dataclasses.replace(self.config, iterations=max(until, self.iteration))
        self._spec = dataclasses.replace(self._spec, config=config)

    def save(self, path: str | os.PathLike[str] | None = None, *, overwrite: bool = False) -> Path:
        """Write the run as a folder of JSON and safetensors, in one step: the folder can be loaded at every moment.

        The folder in which the run was last saved is replaced, unless another process has continued the run further
        there.

        Args:
            path: Folder to write; None is the folder in which the run was last saved, or from which it was loaded.
            overwrite: Whether to replace another run in the folder.

        Returns:
            The folder.

        Raises:
            RunFolderError: The folder holds something else or a longer continuation of this run, or cannot be written.
        """
        if path is None and self.folder is None:
            raise SettingsError("This run has not been saved yet; give a folder: run.save('my_run').")
        saving.check_name(str(self.folder) if path is None else path)
        target = expanded(path if path is not None else str(self.folder))
        # While the run goes on, its thread saves between two steps, so that everything in the folder fits together.
        self.use_model(lambda: saving.save_record(self.record(), target, overwrite, self.is_own_folder(target)))
        self.read_companions()
        self.folder = target.absolute()
        self.save_companions()
        return target

    def is_own_folder(self, path: str | os.PathLike[str]) -> bool:
        """Return whether a folder is the one in which the run was last saved, or from which it was loaded.

        Args:
            path: Folder.
        """
        return self.folder is not None and expanded(path).absolute() == self.folder

    # Steps of the search.

    def steps(self, until: int, between: Callable[[], object] | None = None) -> Iterator[Step]:
        """Return the next steps of the search; a step counts once it is passed to :meth:`take`.

        Args:
            until: Last iteration.
            between: Function to call before every pass through the model.
        """
        return self.session.steps(until, self._state, self.history, between)

    def search(self, until: int) -> Search:
        """Return the next steps of the search as a coroutine, for runs that advance side by side.

        Args:
            until: Last iteration.
        """
        return self.session.search(until, self._state, self.history)

    def end_here(self) -> None:
        """Make the present iteration the last one of the settings, after a budget has ended the run."""
        if self.iteration < self.config.iterations:
            config = dataclasses.replace(self.config, iterations=self.iteration)
            self._spec = dataclasses.replace(self._spec, config=config)

    @property
    def is_new(self) -> bool:
        """True before the first step of the search."""
        return self._state is None

    @property
    def frontier_rows(self) -> np.ndarray:
        """Rows of the history on the frontier, from fluent to strong; unlike `frontier`, this decodes no prompts."""
        self._settle()
        return self.so_far.frontier_rows

    @property
    def summary(self) -> str:
        """One line on the progress of the search: used budget, best value, size of the frontier, hypervolume."""
        history, rows = self.history, self.frontier_rows
        if not len(rows):
            return self.budget_text
        best = rows[-1]
        used = f"{self.budget_text}, " if self.budget_text else ""
        return (
            f"{used}best value {history.value[best] + 0.0:.3g} at cross-entropy {history.cross_entropy[best]:.2f}, "
            f"frontier {len(rows)}, hypervolume {self.hypervolume:.4g}"
        )

    @property
    def budget_text(self) -> str:
        """How much of the budgets in seconds and prompts is used up, in words; "" if there are none."""
        history = self.so_far.history
        seconds = float(history.seconds[-1]) if len(history.seconds) else 0.0
        return budget_text(self.config, seconds, len(history))

    def __repr__(self) -> str:
        feature, so_far = self.feature_label, self.so_far
        done = iterations_text(so_far.iteration, self.config.iterations)
        state = f"{self.status}, " if self.active else ""
        silent = ", never above 0" if self.note else ""
        return f"Dream({feature} on {self.provenance.model}, {state}{done}, {so_far.frontier!r}{silent})"

    def __str__(self) -> str:
        state = f" ({self.status}, {self.done_text})" if self.active else ""
        frontier = self.so_far.frontier.calibrated(self.baselines)
        return f"{self.feature_label} on {self.provenance.model}{state}\n{frontier}"

    def _repr_html_(self) -> str:
        from dreamy_lens.html.escaping import escape, with_tooltip
        from dreamy_lens.html.page import fragment, python_details, warning

        title = f"{with_tooltip(*self.feature_names)} on {escape(self.provenance.model)}, {escape(self.done_text)}"
        table = self.so_far.frontier.calibrated(self.baselines).html_table()
        return fragment(f"<p>{title}</p>{warning(self.note)}{table}{python_details(run_code(self))}")

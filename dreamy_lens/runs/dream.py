"""A run, and all it found."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens import _upcalls
from dreamy_lens._files import write_text
from dreamy_lens.errors import SettingsError
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.results.history import History
from dreamy_lens.results.prompt import Prompt
from dreamy_lens.runs import report, saving
from dreamy_lens.runs.progress import advance
from dreamy_lens.runs.recorded_run import RecordedRun
from dreamy_lens.runs.session import Session
from dreamy_lens.runs.spec import RunRecord
from dreamy_lens.search.protocol import Search
from dreamy_lens.search.steps import Step

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


class Dream(RecordedRun):
    """A run of EPO and all it found.

    It may go on in the background, as it does in notebooks. Whatever tells what it found waits for the end then, except
    :attr:`so_far`; so does everything that changes it.

    Args:
        record: what is kept of the run until now.
        session: the run's model, scorer and rules, if they are at hand; None loads them when they are needed.

    Attributes:
        provenance: feature, model, seed, BOS and template.
        folder: where the run was last saved or loaded, or None.
        started: runs that were started from a prompt in this one's panels.
    """

    def __init__(self, record: RunRecord, session: Session | None = None) -> None:
        super().__init__(record, session)
        self.started: list[Dream] = []

    # What was found.

    @property
    def history(self) -> History:
        """Every evaluated prompt, as arrays."""
        self._settle()
        return self.so_far.history

    @property
    def frontier(self) -> Frontier:
        """The prompts that no evaluated prompt beats in both value and cross-entropy, fluent to strong."""
        self._settle()
        return self.so_far.frontier

    @property
    def population(self) -> list[Prompt]:
        """The present members, in the order of their slots' λ, ascending."""
        self._settle()
        return self.so_far.population

    @property
    def hypervolume(self) -> float:
        """Area under the frontier, from the lowest value and the highest cross-entropy evaluated.

        To compare runs, give all of them one reference: `run.frontier.hypervolume((value, cross_entropy))`.
        """
        self._settle()
        return self.so_far.hypervolume

    def evolution(self, reference: tuple[float, float] | None = None) -> pd.DataFrame:
        """Best value, hypervolume and size of the frontier after each iteration; see :meth:`History.evolution`."""
        return self.history.evolution(reference)

    def to_pandas(self) -> pd.DataFrame:
        """The frontier as a table; `run.history.to_pandas()` has every prompt."""
        return self.frontier.to_pandas()

    def explore(self, prompt: Any) -> Any:
        """A panel to play with any prompt under this run's feature; see :func:`dreamy_lens.explore`.

        A dream that is started in the panel has this run's settings, constraints and template.
        """
        return _upcalls.explore_run(self, prompt)

    def plot(self, **settings: Any) -> go.Figure:
        """The frontier over all evaluated prompts, as a plotly figure."""
        drawn: dict[str, Any] = {"history": self.history, **settings}
        return self.frontier.plot(**drawn)

    def to_html(
        self, path: str | os.PathLike[str] | None = None, *, k: int = 32, strips: int = 20, static: bool = False
    ) -> str:
        """One self-contained page: the run's panel, which answers clicks with no kernel and no network.

        Args:
            path: a file to write it to as well.
            k: substitutes tried at each position.
            strips: how many of the frontier's prompts get an attribution, spread from fluent to strong.
            static: without a script, for mail and for print: every strip is written out.

        Returns:
            The page.
        """
        page = (report.static_page_of_run if static else _upcalls.page_of_run)(self, k=k, strips=strips)
        if path is not None:
            write_text(path, page)
        return page

    # Going on, and keeping.

    def resume(
        self,
        iterations: int | None = None,
        *,
        progress: bool | None = None,
        save_to: str | os.PathLike[str] | None = None,
        wait: bool | None = None,
    ) -> Dream:
        """Go on where the run paused or stopped. With one seed it is the same as if it had never stopped.

        That holds in one precision and on one kind of device; where the model comes in another, a RuntimeWarning says
        so, and the run goes on with numbers that differ in their last digits.

        Args:
            iterations: how many more; None completes those of the settings.
            progress: whether to show a panel or a bar; None shows a panel in notebooks, a bar in terminals.
            save_to: a folder to save the run in, every half minute and at the end.
            wait: whether to return at the end only; None waits except in notebooks, and except after a pause: what went
                on in the background goes on there.

        Returns:
            This run.

        Raises:
            SettingsError: `iterations` is not a whole number, at least 1; or the run goes on still.
            RunFolderError: the model gives other numbers than the run was made with, or `save_to` is another run.
        """
        if self._went_on(iterations, save_to, wait):
            return self
        until = self.until(iterations)
        if save_to is not None and not self._is_own(save_to):
            saving.check_free(save_to)
        self.go_until(until)
        advance(self, until, progress, save_to, wait)
        return self

    def until(self, iterations: int | None) -> int:
        """The iteration to which so many more lead; None is where the settings end."""
        whole = isinstance(iterations, (int, np.integer)) and not isinstance(iterations, bool)
        if iterations is not None and (not whole or iterations < 1):
            raise SettingsError(f"resume() takes how many more iterations to run, at least 1; got {iterations!r}.")
        return self.config.iterations if iterations is None else self.iteration + int(iterations)

    def go_until(self, until: int) -> None:
        """Make ready to go on: load the model, warn if it gives other last digits than it did, note the new end."""
        session = self.session
        if session.change is not None:
            warnings.warn(session.change, RuntimeWarning, stacklevel=3)
            session.go_on_changed()
            self._identity = session.identity
        config = dataclasses.replace(self.config, iterations=max(until, self.iteration))
        self._spec = dataclasses.replace(self._spec, config=config)

    def save(self, path: str | os.PathLike[str] | None = None, *, overwrite: bool = False) -> Path:
        """Write the run as a folder of JSON and safetensors, in one step: it is whole at every moment.

        Args:
            path: of the folder; None is where it was saved or loaded last.
            overwrite: replace another run that is there.

        Raises:
            RunFolderError: something else is there.
        """
        if path is None and self.folder is None:
            raise SettingsError("This run has not been saved yet; name a folder: run.save('my_run').")
        target = Path(path) if path is not None else Path(str(self.folder))
        # Between two steps, if it goes on: then all that is saved is of one step.
        self.use_model(lambda: saving.save(self.record(), target, overwrite or self._is_own(target)))
        self.folder = target.absolute()
        return target

    def _is_own(self, path: str | os.PathLike[str]) -> bool:
        return self.folder is not None and Path(path).absolute() == self.folder

    # How it runs.

    def steps(self, until: int, between: Callable[[], object] | None = None) -> Iterator[Step]:
        """The search's next steps, up to an iteration; each counts once it is given to :meth:`take`.

        Args:
            until: the last iteration.
            between: called before every pass through the model.
        """
        return self.session.steps(until, self._state, self.history, between)

    def search(self, until: int) -> Search:
        """The same as a coroutine, for runs that go side by side; see :meth:`Dreams.steps`."""
        return self.session.search(until, self._state, self.history)

    @property
    def frontier_rows(self) -> np.ndarray:
        """Rows of the history that make the frontier, from fluent to strong, without making its prompts."""
        self._settle()
        return self.so_far.frontier_rows

    @property
    def summary(self) -> str:
        """Where the search stands, in a line: best value, size of the frontier, hypervolume."""
        history, rows = self.history, self.frontier_rows
        if not len(rows):
            return ""
        best = rows[-1]
        return (
            f"best value {history.value[best]:.3g} at cross-entropy {history.cross_entropy[best]:.2f}, "
            f"frontier {len(rows)}, hypervolume {self.hypervolume:.4g}"
        )

    def __repr__(self) -> str:
        feature, so_far = self.feature_label, self.so_far
        done = f"{so_far.iteration} of {self.config.iterations} iterations"
        state = f"{self.status}, " if self.active else ""
        return f"Dream({feature} on {self.provenance.model}, {state}{done}, {so_far.frontier!r})"

    def __str__(self) -> str:
        state = f" ({self.status}, {self.iteration} of {self.config.iterations} iterations)" if self.active else ""
        return f"{self.feature_label} on {self.provenance.model}{state}\n{self.so_far.frontier}"

    def _repr_html_(self) -> str:
        from dreamy_lens.html.escaping import escape
        from dreamy_lens.html.page import fragment
        from dreamy_lens.results.prompt_table import prompt_table

        title = (
            f"{self.feature_label} on {self.provenance.model}, {self.iteration} of {self.config.iterations} iterations"
        )
        return fragment(f"<p>{escape(title)}</p>" + prompt_table(self.so_far.frontier.prompts))

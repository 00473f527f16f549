"""A run, and all it found."""

from __future__ import annotations

import dataclasses
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.errors import SettingsError
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.results.history import History, HistoryBuilder
from dreamy_lens.results.prompt import Decoder, Prompt, Provenance
from dreamy_lens.results.snapshot import Snapshot
from dreamy_lens.runs.controls import DONE, READY, STOPPED, RunControls
from dreamy_lens.search.config import EPOConfig

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dreamy_lens.features.expressions import Feature
    from dreamy_lens.panels.attribution import AttributionPanel
    from dreamy_lens.results.attribution import Attribution
    from dreamy_lens.runs.session import Session
    from dreamy_lens.search.constraints import Constraint
    from dreamy_lens.search.epo import Search, State, Step


class Dream(RunControls):
    """A run of EPO and all it found.

    It may go on in the background, as it does in notebooks. Whatever tells what it found waits for the end then, except
    :attr:`so_far`; so does everything that changes it.

    Attributes:
        config: the settings.
        provenance: feature, model, seed, BOS and template.
        constraints: on the prompts.
        folder: where the run was last saved or loaded, or None.
        started: runs that were started from a prompt in this one's panels.
    """

    def __init__(
        self,
        config: EPOConfig,
        provenance: Provenance,
        builder: HistoryBuilder,
        *,
        session: Session | None = None,
        state: State | None = None,
        constraints: Sequence[Constraint] = (),
        fluency_name: str | None = None,
        decoder: Decoder | None = None,
        model: Any = None,
        fluency_model: Any = None,
        identity: dict[str, Any] | None = None,
        start: np.ndarray | None = None,
        feature: Feature | None = None,
    ) -> None:
        self.config = config
        self.provenance = provenance
        self.constraints: tuple[Constraint, ...] = session.rules.constraints if session else tuple(constraints)
        self.folder: Path | None = None
        self.started: list[Dream] = []
        self._builder = builder
        self._session = session
        self._state = state
        self._fluency_name = session.fluency_name if session else fluency_name
        self._decoder: Decoder = session.scorer.vocabulary if session else decoder  # type: ignore[assignment]
        self._model, self._fluency_model, self._feature = model, fluency_model, feature
        self._identity = session.identity if session else identity
        self._start = session.start if session else start
        self._found: Snapshot | None = None
        self._lock = threading.RLock()

    # What was found.

    @property
    def feature(self) -> Feature:
        """What was driven, as an expression."""
        from dreamy_lens.features.parser import parse

        if self._session is not None:
            return self._session.scorer.bound.feature
        return parse(self.provenance.feature) if self._feature is None else self._feature

    @property
    def so_far(self) -> Snapshot:
        """What was found until now, for a run that goes on: it has `frontier`, `history` and `population` too."""
        with self._lock:
            if self._found is None:
                history, rows = self._builder.build(), self._builder.frontier_rows
                self._found = Snapshot(history, rows, self._decoder, self.provenance, self._attribute)
            return self._found

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

    @property
    def iteration(self) -> int:
        """Iterations completed until now."""
        return 0 if self._state is None else self._state.iteration

    @property
    def finished(self) -> bool:
        """Whether all iterations of the settings are completed."""
        return self._state is not None and self.iteration >= self.config.iterations

    @property
    def model(self) -> Any:
        """The model with its hook points; loaded now if the run was opened from a folder."""
        return self._opened().scorer.model.source

    def evolution(self, reference: tuple[float, float] | None = None) -> pd.DataFrame:
        """Best value, hypervolume and size of the frontier after each iteration; see :meth:`History.evolution`."""
        return self.history.evolution(reference)

    def to_pandas(self) -> pd.DataFrame:
        """The frontier as a table; `run.history.to_pandas()` has every prompt."""
        return self.frontier.to_pandas()

    def attribution(self, prompt: Any, k: int = 32, **settings: Any) -> Attribution:
        """What other tokens would do at each position of any prompt, with this run's feature, model and constraints."""
        return self._attribute(prompt, k=k, **settings)

    def explore(self, prompt: Any) -> AttributionPanel:
        """A panel to play with any prompt under this run's feature; see :func:`dreamy_lens.explore`."""
        from dreamy_lens.panels import AttributionPanel

        of = self.session.scorer
        around = {"prefix": of.prefix, "suffix": of.suffix, "prepend_bos": of.prepend_bos}
        fluency = None if of.fluency is of.model else of.fluency
        return AttributionPanel(of.bound, prompt, of.model, fluency_model=fluency, **around).wait()

    def plot(self, **settings: Any) -> go.Figure:
        """The frontier over all evaluated prompts, as a plotly figure."""
        return self.frontier.plot(**{"history": self.history} | settings)

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
        if static:
            from dreamy_lens.runs.report import page_of_run
        else:
            from dreamy_lens.panels.pages import page_of_run

        page = page_of_run(self, k=k, strips=strips)
        if path is not None:
            Path(path).write_text(page, encoding="utf-8", errors="replace")
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
        from dreamy_lens.runs import saving

        if self._went_on(iterations, save_to, wait):
            return self
        until = self.until(iterations)
        if save_to is not None and not self._is_own(save_to):
            saving.check_free(save_to)
        self.go_until(until)
        self._advance(until, progress, save_to, wait)
        return self

    def until(self, iterations: int | None) -> int:
        """The iteration to which so many more lead; None is where the settings end."""
        whole = isinstance(iterations, (int, np.integer)) and not isinstance(iterations, bool)
        if iterations is not None and (not whole or iterations < 1):
            raise SettingsError(f"resume() takes how many more iterations to run, at least 1; got {iterations!r}.")
        return self.config.iterations if iterations is None else self.iteration + int(iterations)

    def go_until(self, until: int) -> None:
        """Make ready to go on: load the model, warn if it gives other last digits than it did, note the new end."""
        session = self._opened()
        if session.change is not None:
            warnings.warn(session.change, RuntimeWarning, stacklevel=3)
            session.go_on_changed()
            self._identity = session.identity
        self.config = dataclasses.replace(self.config, iterations=max(until, self.iteration))

    def save(self, path: str | os.PathLike[str] | None = None, *, overwrite: bool = False) -> Path:
        """Write the run as a folder of JSON and safetensors, in one step: it is whole at every moment.

        Args:
            path: of the folder; None is where it was saved or loaded last.
            overwrite: replace another run that is there.

        Raises:
            RunFolderError: something else is there.
        """
        from dreamy_lens.runs import saving

        if path is None and self.folder is None:
            raise SettingsError("This run has not been saved yet; name a folder: run.save('my_run').")
        target = Path(path) if path is not None else Path(str(self.folder))
        # Between two steps, if it goes on: then all that is saved is of one step.
        self._where_used(lambda: saving.save(self, target, overwrite or self._is_own(target)))
        self.folder = target.absolute()
        return target

    # How it runs.

    def _opened(self) -> Session:
        if self._session is not None:
            return self._session
        with self._lock:  # two threads that want it at the same time would load two models
            if self._session is None:
                from dreamy_lens.runs.session import Session

                # Assigned last: while it opens, texts come from the folder still.
                session = Session.reopen(self)
                self._decoder, self._session = session.scorer.vocabulary, session
                self._found = None
            return self._session

    def _attribute(self, prompt: Any, k: int = 32, **settings: Any) -> Attribution:
        return next(self._attributions(prompt, [k], **settings))

    def _attributions(self, prompt: Any, ks: Sequence[int], **settings: Any) -> Iterator[Attribution]:
        """Attributions with more and more substitutes, each worked out when it is asked for."""
        from dreamy_lens.analysis.attribution import attributions

        def found() -> Iterator[Attribution]:
            session = self._opened()
            usual = {"allowed": session.rules.allowed, "renew": not self.active}
            yield from attributions(session.scorer, prompt, ks, **usual, **settings)

        growing = found()
        for _ in ks:
            yield self._where_used(lambda: next(growing))

    @property
    def made_in(self) -> tuple[str | None, str | None]:
        """Kind of device, if there is one here, and dtype of the model the run was made with; None where not known."""
        from dreamy_lens.runs.session import available

        saved = self._identity or {}
        return available(saved.get("device")), saved.get("dtype")

    # Copies. One on disk or in another process is what a folder would keep: it leaves the model behind, and loads it
    # by its name when it needs it. One in memory shares the model, which no run changes.

    def __reduce__(self) -> tuple[Any, ...]:
        from dreamy_lens.runs import saving

        return saving.unpack, (*saving.pack(self), self.folder)

    def __copy__(self) -> Dream:
        from dreamy_lens.runs import saving

        other = object.__new__(type(self))
        with self._lock:  # a run that goes on is copied as it is now
            other.__dict__.update(self.__dict__)
            history = self.so_far.history
        other._builder = HistoryBuilder.from_history(history)
        other._worker = None
        other.unlock()
        other._found = None  # its prompts ask the run they belong to
        if isinstance(self._decoder, saving.SavedTexts):
            other._decoder = self._decoder.of(other)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Dream:
        return self.__copy__()

    def _is_own(self, path: str | os.PathLike[str]) -> bool:
        return self.folder is not None and Path(path).absolute() == self.folder

    def steps(self, until: int, between: Callable[[], object] | None = None) -> Iterator[Step]:
        """The search's next steps, up to an iteration; each counts once it is given to :meth:`take`.

        Args:
            until: the last iteration.
            between: called before every pass through the model.
        """
        return self._opened().steps(until, self._state, self.history, between)

    def search(self, until: int) -> Search:
        """The same as a coroutine, for runs that go side by side; see :meth:`Dreams.steps`."""
        return self.session.search(until, self._state, self.history)

    @property
    def session(self) -> Session:
        """What the run needs to go on; its model is loaded now if the run was opened from a folder."""
        return self._opened()

    def take(self, step: Step) -> None:
        """Note a step."""
        with self._lock:
            self._builder.add(step)
            self._state = step.state
            self._found = None

    @property
    def frontier_rows(self) -> np.ndarray:
        """Rows of the history that make the frontier, from fluent to strong, without making its prompts."""
        self._settle()
        return self.so_far.frontier_rows

    def moment(self) -> tuple[Snapshot, State | None]:
        """What was found until now, and from where the search goes on."""
        with self._lock:
            return self.so_far, self._state

    def unlock(self) -> None:
        """Forget who may be reading: a copy has readers of its own, and so has another process."""
        self._lock = threading.RLock()

    def _idle_status(self) -> str:
        return READY if self._state is None else DONE if self.finished else STOPPED

    def _panel(self) -> Any:
        from dreamy_lens.panels import DreamPanel

        return DreamPanel(self)

    def __repr__(self) -> str:
        feature, so_far = self.feature_label, self.so_far
        done = f"{so_far.iteration} of {self.config.iterations} iterations"
        state = f"{self.status}, " if self.active else ""
        return f"Dream({feature} on {self.provenance.model}, {state}{done}, {so_far.frontier!r})"

    @property
    def feature_label(self) -> str:
        """The feature in short, for titles."""
        from dreamy_lens.errors import FeatureError

        try:
            return self.feature.label
        except FeatureError:  # a custom function of another session has a name, and nothing to parse it to
            return self.provenance.feature

    def __str__(self) -> str:
        state = f" ({self.status}, {self.iteration} of {self.config.iterations} iterations)" if self.active else ""
        return f"{self.feature_label} on {self.provenance.model}{state}\n{self.so_far.frontier}"

    def _repr_html_(self) -> str:
        from dreamy_lens.html import page as markup

        title = (
            f"{self.feature_label} on {self.provenance.model}, {self.iteration} of {self.config.iterations} iterations"
        )
        return markup.fragment(f"<p>{markup.escape(title)}</p>" + markup.prompt_table(self.so_far.frontier.prompts))

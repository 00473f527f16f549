"""Base of all live views: common traits, the runs that a view follows, and the runs that start from its prompts."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from dreamy_lens.errors import DreamyLensError
from dreamy_lens.panels.hosts import limits_of_host
from dreamy_lens.runs.start import from_prompt

if TYPE_CHECKING:
    from dreamy_lens.runs.dream import Dream
    from dreamy_lens.runs.spec import RunSpec


class LivePanel(anywidget.AnyWidget):
    """Live view of runs or prompts, in any notebook that displays widgets.

    Python sends state to the view in traits; while a run goes on, only its model thread writes them. The view sends
    clicks to Python as messages. A panel does not know where it is displayed: it calls the functions given to
    :meth:`on_started` with each run that is started from it.

    The view writes what the user has set and edited there to `view_state`. So the view is as the user left it when the
    notebook draws it again, and when it is frozen.

    Args:
        **traits: Values of the traits.
    """

    live = traitlets.Bool(True).tag(sync=True)
    live_id = traitlets.Unicode("").tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    full_title = traitlets.Unicode("").tag(sync=True)  # ipywidgets has a trait `tooltip` of its own
    error = traitlets.Unicode("").tag(sync=True)
    note = traitlets.Unicode("").tag(sync=True)
    attributions = traitlets.Dict().tag(sync=True)
    view_state = traitlets.Dict().tag(sync=True)
    sections = traitlets.List().tag(sync=True)
    section_style = traitlets.Unicode("").tag(sync=True)
    fragments = traitlets.Dict().tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        self._started: list[Dream] = []
        self._endings: list[Callable[[], None]] = []
        self._listeners: list[Callable[[Dream], object]] = []
        self._keepers: list[Callable[[], object]] = []
        self._limits = limits_of_host()
        super().__init__(live_id=uuid.uuid4().hex, **self._noted(traits))

    @property
    def started(self) -> list[Dream]:
        """Runs that were started from a prompt in this panel."""
        return self._started

    def state(self) -> Mapping[str, Any]:
        """Return the traits that change while runs go on, by their names."""
        raise NotImplementedError

    def follow(self, runs: Iterable[Dream]) -> None:
        """Show the results of runs while they go on, until the panel is closed.

        Args:
            runs: Runs to follow.
        """
        self._endings += [run.listen(lambda run: self.update()) for run in runs]

    def update(self) -> None:
        """Show the results so far."""
        state = self._noted(self.state())
        with self.hold_sync():  # one message for all changes
            for name, value in state.items():
                if getattr(self, name) != value:
                    setattr(self, name, value)

    def _noted(self, traits: Mapping[str, Any]) -> dict[str, Any]:
        """Return traits with a note on what the notebook does not show, if there is such a thing."""
        return {**traits, "note": self._limits} if self._limits else dict(traits)

    def on_started(self, function: Callable[[Dream], object]) -> None:
        """Call a function with each run that is started from a prompt in this panel, just before its first step.

        Args:
            function: Function of one argument, the run.
        """
        self._listeners.append(function)

    def on_edited(self, function: Callable[[], object]) -> None:
        """Call a function when the user has edited a prompt and left the view, on any thread.

        Args:
            function: Function without arguments, which must not take long.
        """
        self._keepers.append(function)

    def keep(self) -> None:
        """Call the functions given to :meth:`on_edited`."""
        for function in self._keepers:
            function()

    def start_from(self, ids: Sequence[int], spec: Callable[[], RunSpec]) -> None:
        """Start a run from a prompt; if it cannot start, the view shows why.

        Args:
            ids: Token ids of the prompt.
            spec: Function that returns the spec of the run.
        """
        try:
            run = from_prompt(spec(), ids)
        except DreamyLensError as error:
            self.notify(error)
            return
        self.started.append(run)
        for function in self._listeners:
            function(run)
        run.resume(wait=False, progress=False)

    def notify(self, error: DreamyLensError) -> None:
        """Show an error in the view.

        Args:
            error: Error to show.
        """
        self.send({"type": "notice", "text": str(error)})

    def close(self) -> None:
        """Close the view; the runs go on."""
        for end in getattr(self, "_endings", ()):  # a constructor that failed early has none
            end()
        super().close()

"""The panel of a run: watch the frontier grow, click a prompt, pull a token."""

from __future__ import annotations

import weakref
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import traitlets

from dreamy_lens.errors import DreamyLensError
from dreamy_lens.panels import bundle
from dreamy_lens.panels.live import LivePanel
from dreamy_lens.panels.messages import MessageHandler
from dreamy_lens.panels.run_view import WEIGHT, alive, attribute_frontier, describe, frozen_run, inspector_of, kept
from dreamy_lens.panels.state import RunFollower
from dreamy_lens.runs.worker import ENDED

if TYPE_CHECKING:
    from dreamy_lens.runs.dream import Dream


class DreamPanel(LivePanel):
    """A live view of one run.

    Args:
        run: run that goes on, has ended, or was loaded.
    """

    _esm = bundle.view_module("dream")
    _css = bundle.view_stylesheet()
    subtitle = traitlets.Unicode("").tag(sync=True)
    python = traitlets.Unicode("").tag(sync=True)
    status = traitlets.Unicode("ready").tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)
    steps = traitlets.Int(0).tag(sync=True)
    seconds = traitlets.Float(0.0).tag(sync=True)
    left = traitlets.Float(-1.0).tag(sync=True)
    evaluated = traitlets.Int(0).tag(sync=True)
    hypervolume = traitlets.Float(0.0, allow_none=True).tag(sync=True)
    population = traitlets.List().tag(sync=True)
    frontier = traitlets.List().tag(sync=True)
    previous = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
    restarts = traitlets.List().tag(sync=True)
    growth = traitlets.Dict().tag(sync=True)
    past = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
    picked = traitlets.Unicode("").tag(sync=True)

    def __init__(self, run: Dream) -> None:
        # Weakly, because ipywidgets keeps every widget: a run, and the model it uses, go when their user lets them go.
        self._run = weakref.ref(run)
        self.inspector = inspector_of(run)
        self._follower = RunFollower(run)
        super().__init__(**describe(run), attributions=dict(self.inspector.known), **self.state())
        commands = {
            "pause": lambda message: self.run.pause(),
            "resume": lambda message: self.run.resume() if self.run.active else None,
            "stop": lambda message: self.run.stop(),
            "more": self._more,
            "past": lambda message: self.run.ask(self._fill_past),
            "start": lambda message: self.run.ask(lambda: self.start_from(message["ids"], lambda: self.run.spec)),
        }
        self._handler = MessageHandler(
            self.inspector, lambda function: self.run.ask(function, soon=True), self.send, commands
        )
        self.on_msg(self._handler.hear)
        self.follow([run])

    @property
    def started(self) -> list[Dream]:
        """Runs that were started from a prompt here, or in another panel of the run."""
        return self.run.started

    @property
    def run(self) -> Dream:
        """The run that is shown."""
        return alive(self._run)

    def state(self) -> dict[str, Any]:
        """The traits that change as the run goes on."""
        return self._follower.state()

    def update(self) -> None:
        """Show what was found until now."""
        super().update()
        if self.status in ENDED:
            self.past = None  # what was asked for before the end is not all of it

    def to_html(self, weight: int = WEIGHT) -> str:
        """The same view with no kernel, for a cell or a page; what is too much for it is left out."""
        page = frozen_run(self.run, weight, follower=self._follower, picked=self.picked, live_id=self.live_id)
        # Where the page finds this panel alive, it starts with what the page has.
        self.attributions = kept(self.run, self.picked)
        return page

    def prepare(self) -> list[Future]:
        """Ask for what a frozen view keeps, to be worked out when nothing else is asked of the model."""
        return attribute_frontier(self.run)

    def __repr__(self) -> str:
        return f"DreamPanel({self.title}, {self.status})"

    def _more(self, message: dict[str, Any]) -> None:
        run, more = self.run, int(message.get("iterations", 100))

        def go_on() -> None:
            try:
                run.resume(more, wait=False, progress=False)
            except DreamyLensError as error:
                self.notify(error)

        if not run.active:
            run.ask(go_on)

    def _fill_past(self) -> None:
        self.past = self._follower.past()

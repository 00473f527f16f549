"""Panel of a run: watch the frontier grow, click a prompt, try other tokens."""

from __future__ import annotations

import weakref
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import traitlets

from dreamy_lens import _upcalls
from dreamy_lens.errors import DreamyLensError
from dreamy_lens.panels import bundle
from dreamy_lens.panels.follower import RunFollower
from dreamy_lens.panels.live import LivePanel
from dreamy_lens.panels.messages import MessageHandler
from dreamy_lens.panels.run_view import (
    WEIGHT,
    dereference,
    edited_keys,
    frozen_run,
    inspector_of,
    known_attributions,
    queue_attributions,
    sections_of,
    starred_prompts,
    view_code,
    view_labels,
    view_of_stars,
)
from dreamy_lens.panels.sections import SectionHandler
from dreamy_lens.panels.state import key
from dreamy_lens.runs.worker import ENDED

if TYPE_CHECKING:
    from dreamy_lens.runs.dream import Dream


class DreamPanel(LivePanel):
    """Live view of one run.

    Args:
        run: Run to show; it may be going on, have ended, or come from a folder.
    """

    _esm = bundle.view_module("dream")
    _css = bundle.view_stylesheet()
    subtitle = traitlets.Unicode("").tag(sync=True)
    python = traitlets.Dict().tag(sync=True)
    status = traitlets.Unicode("ready").tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)
    steps = traitlets.Int(0).tag(sync=True)
    seconds = traitlets.Float(0.0).tag(sync=True)
    left = traitlets.Float(-1.0).tag(sync=True)
    used = traitlets.Float(-1.0).tag(sync=True)
    budget = traitlets.Dict().tag(sync=True)
    evaluated = traitlets.Int(0).tag(sync=True)
    hypervolume = traitlets.Float(0.0, allow_none=True).tag(sync=True)
    population = traitlets.List().tag(sync=True)
    frontier = traitlets.List().tag(sync=True)
    previous = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
    restarts = traitlets.List().tag(sync=True)
    growth = traitlets.Dict().tag(sync=True)
    calibration = traitlets.Dict().tag(sync=True)
    past = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
    cloud = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
    picked = traitlets.Unicode("").tag(sync=True)

    def __init__(self, run: Dream) -> None:
        # A weak reference, because ipywidgets keeps every widget, and the run and its model must not stay with it.
        self._run = weakref.ref(run)
        self.inspector = inspector_of(run)
        self._follower = RunFollower(run)
        self._sections = sections_of(run)
        super().__init__(
            **view_labels(run),
            **self._sections.traits,
            python=view_code(run),
            attributions=dict(self.inspector.known),
            **self.state(),
        )
        sections = SectionHandler(
            self._sections, lambda function: self.run.ask(function), lambda message: self.send(message)
        )
        commands = {
            "pause": lambda message: self.run.pause(),
            "resume": lambda message: self.run.resume() if self.run.active else None,
            "stop": lambda message: self.run.stop(),
            "more": self._more,
            "keep": lambda message: self.keep(),
            "section": sections.hear,
            "calibrate": lambda message: self.run.ask(self._calibrate),
            "past": lambda message: self.run.ask(self._fill_past),
            "cloud": lambda message: self.run.ask(self._fill_cloud),
            "start": lambda message: self.run.ask(lambda: self.start_from(message["ids"], lambda: self.run.spec)),
        }
        self._handler = MessageHandler(
            self.inspector, lambda function: self.run.ask(function, soon=True), self.send, commands
        )
        self.on_msg(self._handler.hear)
        self._pick_default()
        if run.starred:
            self.view_state = {"stars": view_of_stars(run.starred)}
        self.observe(lambda change: self._keep_stars(change["old"], change["new"]), "view_state")
        self.follow([run])

    @property
    def started(self) -> list[Dream]:
        """Runs that were started from a prompt in this panel, or in another panel of the run."""
        return self.run.started

    @property
    def run(self) -> Dream:
        """Run that the panel shows."""
        return dereference(self._run)

    def state(self) -> dict[str, Any]:
        """Return the traits that change while the run goes on, by their names."""
        return self._follower.state()

    def update(self) -> None:
        """Show the results so far."""
        before = self.status
        super().update()
        if self.status != before:
            self.python = view_code(self.run)  # the run may have more iterations now, or have ended early
        if self.status in ENDED:
            self.past = self.cloud = None  # what was sent before the end is incomplete
        self._pick_default()

    def to_html(self, weight: int = WEIGHT) -> str:
        """Return the view as HTML that needs no kernel, for a cell or a page.

        Args:
            weight: Most characters; details are left out to stay below it, as far as possible.
        """
        page = frozen_run(
            self.run,
            weight,
            follower=self._follower,
            picked=self.picked,
            view_state=self.view_state,
            live_id=self.live_id,
        )
        # Where the page connects to this live panel, the panel must show at once what the page has.
        shown = [self.picked, *edited_keys(self.view_state)]
        self.attributions = known_attributions(self.run, shown)
        self.fragments = self._sections.fragments(shown)
        return page

    def prepare(self) -> list[Future]:
        """Queue the attributions that a frozen view shows, to be computed when the model thread is idle.

        Returns:
            Futures of the attributions.
        """
        default = self.run.so_far.frontier.representative()
        return queue_attributions(self.run, first=[default] if default else [])

    def __repr__(self) -> str:
        return f"DreamPanel({self.title}, {self.status})"

    def _pick_default(self) -> None:
        """Pick a prompt when the run has ended and the user has picked none, so that its strip is there."""
        if self.status in ENDED and not self.picked and (prompt := self.run.so_far.frontier.representative()):
            self.picked = key(prompt.ids)

    def _keep_stars(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        if (old.get("stars") or {}) != (new.get("stars") or {}):
            self.run.starred = starred_prompts(self.run, new)

    def _more(self, message: dict[str, Any]) -> None:
        run, iterations = self.run, int(message.get("iterations", 100))

        def resume() -> None:
            try:
                run.resume(iterations, wait=False, progress=False)
            except DreamyLensError as error:
                self.notify(error)

        if not run.active:
            run.ask(resume)

    def _calibrate(self) -> None:
        self.send({"type": "notice", "text": "Scoring 1,024 random prompts, to give the values a scale."})
        try:
            _upcalls.baselines(self.run)
        except DreamyLensError as error:
            self.notify(error)
        else:
            self.update()

    def _fill_past(self) -> None:
        self.past = self._follower.past()

    def _fill_cloud(self) -> None:
        self.cloud = self._follower.cloud()

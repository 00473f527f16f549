"""The panel of several runs side by side: each frontier, and what they reach together."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from dreamy_lens.panels import bundle, state
from dreamy_lens.panels.dream import WEIGHT, attribute_frontier, describe, kept, looks_of
from dreamy_lens.panels.frozen import frozen
from dreamy_lens.panels.messages import MessageHandler, PromptInspector
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.runs.controls import PAUSED, RUNNING
from dreamy_lens.runs.dreams import Dreams

if TYPE_CHECKING:
    from dreamy_lens.runs.dream import Dream


class RunsPanel(anywidget.AnyWidget):
    """A live view of several runs: all frontiers in one plot, merged where they are of one feature.

    Args:
        runs: `Dreams`, or any runs; they may go on by themselves.
    """

    _esm = bundle.module("runs")
    _css = bundle.stylesheet()
    live = traitlets.Bool(True).tag(sync=True)
    live_id = traitlets.Unicode("").tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    status = traitlets.Unicode("ready").tag(sync=True)
    error = traitlets.Unicode("").tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)
    steps = traitlets.Int(0).tag(sync=True)
    runs = traitlets.List().tag(sync=True)
    groups = traitlets.List().tag(sync=True)
    attributions = traitlets.Dict().tag(sync=True)
    picked = traitlets.Unicode("").tag(sync=True)

    def __init__(self, runs: Sequence[Dream]) -> None:
        self.run: Any = runs if isinstance(runs, Dreams) else Dreams(list(runs))
        self._followers = [state.RunFollower(run) for run in self.run]
        super().__init__(live_id=uuid.uuid4().hex, **self._state())
        commands = {
            "pause": lambda message: self._each("pause"),
            "resume": lambda message: [run.resume() for run in self.run if run.active],
            "stop": lambda message: self._each("stop"),
        }
        self._talks: dict[int, MessageHandler] = {}
        self._commands = commands
        self.on_msg(self._hear)
        self._leave = [run.listen(lambda run: self.update()) for run in self.run]

    def update(self) -> None:
        """Show what was found until now."""
        with self.hold_sync():
            for name, value in self._state().items():
                if getattr(self, name) != value:
                    setattr(self, name, value)

    def prepare(self) -> list[Future]:
        """Have what a frozen view keeps worked out when nothing else is asked of the models."""
        return [future for run in self.run for future in attribute_frontier(run, max(2, 20 // len(self.run)))]

    def to_html(self, weight: int = WEIGHT) -> str:
        """The same view with no kernel."""
        whole, page = self._state(), ""
        for best, worst, most in ((6, 2, 20), (4, 1, 20), (3, 1, 6), (3, 1, 0)):
            few = {key: state.trimmed(one, best, worst) for key, one in self._known(most).items()}
            given = {**whole, "attributions": few, "picked": self.picked or self._middle(few), "live": False}
            page = frozen("runs", given, live_id=self.live_id)
            if len(page) <= weight:
                break
        # Where the page finds this panel alive, it starts with what the page has.
        self.attributions = self._known(20)
        self.picked = self.picked or self._middle(self.attributions)
        return page

    def close(self) -> None:
        """Take the view away; the runs go on."""
        for leave in self._leave:
            leave()
        super().close()

    def _known(self, most: int) -> dict[str, Any]:
        """What is known of some prompts of each run."""
        return {key: one for run in self.run for key, one in kept(run, most=most).items()}

    def _middle(self, known: dict[str, Any]) -> str:
        """A prompt to begin with: one from the middle of the first feature's joint frontier, if it is known."""
        first = [run for run in self.run if run.feature_label == self.run[0].feature_label]
        joint = Frontier(prompt for run in first for prompt in run.so_far.frontier)
        keys = [key for p in joint if (key := state.key(p.ids)) in known]
        return keys[len(keys) // 2] if keys else ""

    def _state(self) -> dict[str, Any]:
        runs, groups = [], list(dict.fromkeys(run.feature_label for run in self.run))
        for number, (run, follower) in enumerate(zip(self.run, self._followers, strict=True)):
            now = follower.brief()
            seed = run.provenance.seed
            name = f"run {number}" if seed is None else f"seed {seed}"
            runs.append({"name": name, "group": groups.index(run.feature_label), **describe(run), **now})
        found = {run["status"] for run in runs}
        ends = [s for s in ("failed", "stopped", "done") if s in found]
        status = RUNNING if RUNNING in found else PAUSED if PAUSED in found else ends[0] if ends else "ready"
        errors = dict.fromkeys(run["error"] for run in runs if run["error"])
        return {
            "title": groups[0] if len(groups) == 1 else f"{len(groups)} features",
            "status": status,
            "error": "; ".join(errors),
            "step": min((run["step"] for run in runs), default=0),
            "steps": max((run["steps"] for run in runs), default=0),
            "runs": runs,
            "groups": groups,
        }

    def _each(self, what: str) -> None:
        for run in self.run:
            getattr(run, what)()

    def _hear(self, widget: Any, message: Any, buffers: Any = None) -> None:
        number = message.get("run", 0) if isinstance(message, dict) else 0
        if number not in self._talks and isinstance(number, int) and 0 <= number < len(self.run):
            run = self.run[number]
            looks: PromptInspector = looks_of(run)
            self._talks[number] = MessageHandler(looks, run.ask, self.send, self._commands)
        if number in self._talks:
            self._talks[number].hear(widget, message, buffers)

"""The panel of several runs side by side: each frontier, and what they reach together."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import traitlets

from dreamy_lens.panels import bundle, state
from dreamy_lens.panels.frozen import frozen
from dreamy_lens.panels.live import LivePanel
from dreamy_lens.panels.messages import MessageHandler
from dreamy_lens.panels.run_view import WEIGHT, attribute_frontier, describe, first_light, inspector_of, kept
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.runs.dreams import Dreams
from dreamy_lens.runs.worker import PAUSED, RUNNING

if TYPE_CHECKING:
    from dreamy_lens.runs.dream import Dream


class RunsPanel(LivePanel):
    """A live view of several runs: all frontiers in one plot, merged where they are of one feature.

    Args:
        runs: `Dreams`, or any runs; they may go on by themselves.
    """

    _esm = bundle.view_module("runs")
    _css = bundle.view_stylesheet()
    status = traitlets.Unicode("ready").tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)
    steps = traitlets.Int(0).tag(sync=True)
    runs = traitlets.List().tag(sync=True)
    groups = traitlets.List().tag(sync=True)
    picked = traitlets.Unicode("").tag(sync=True)

    def __init__(self, runs: Sequence[Dream]) -> None:
        self.run: Any = runs if isinstance(runs, Dreams) else Dreams(list(runs))
        self._followers = [state.RunFollower(run) for run in self.run]
        super().__init__(**self.state())
        self._commands = {
            "pause": lambda message: [run.pause() for run in self.run],
            "resume": lambda message: [run.resume() for run in self.run if run.active],
            "stop": lambda message: [run.stop() for run in self.run],
        }
        self._handlers: dict[int, MessageHandler] = {}
        self.on_msg(self._hear)
        self.follow(self.run)

    def prepare(self) -> list[Future]:
        """Ask for what a frozen view keeps, to be worked out when nothing else is asked of the models."""
        return [future for run in self.run for future in attribute_frontier(run, max(2, 20 // len(self.run)))]

    def to_html(self, weight: int = WEIGHT) -> str:
        """The same view with no kernel."""
        whole = self.state()

        def page(best: int, worst: int, most: int) -> str:
            few = {key: state.trimmed(one, best, worst) for key, one in self._known(most).items()}
            given = {**whole, "attributions": few, "picked": self.picked or self._middle(few), "live": False}
            return frozen("runs", given, live_id=self.live_id)

        html = first_light(weight, (page(*sizes) for sizes in ((6, 2, 20), (4, 1, 20), (3, 1, 6), (3, 1, 0))))
        # Where the page finds this panel alive, it starts with what the page has.
        self.attributions = self._known(20)
        self.picked = self.picked or self._middle(self.attributions)
        return html

    def _known(self, most: int) -> dict[str, Any]:
        """What is known of some prompts of each run."""
        return {key: one for run in self.run for key, one in kept(run, most=most).items()}

    def _middle(self, known: dict[str, Any]) -> str:
        """A prompt to begin with: one from the middle of the first feature's joint frontier, if it is known."""
        first = [run for run in self.run if run.feature_label == self.run[0].feature_label]
        joint = Frontier(prompt for run in first for prompt in run.so_far.frontier)
        keys = [key for p in joint if (key := state.key(p.ids)) in known]
        return keys[len(keys) // 2] if keys else ""

    def state(self) -> dict[str, Any]:
        """The traits that change as the runs go on."""
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

    def _hear(self, widget: Any, message: Any, buffers: Any = None) -> None:
        number = message.get("run", 0) if isinstance(message, dict) else 0
        if number not in self._handlers and isinstance(number, int) and 0 <= number < len(self.run):
            run = self.run[number]
            self._handlers[number] = MessageHandler(inspector_of(run), run.ask, self.send, self._commands)
        if number in self._handlers:
            self._handlers[number].hear(widget, message, buffers)

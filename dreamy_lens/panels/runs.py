"""Panel of several runs side by side: each run's frontier, and their merged frontier."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import traitlets

from dreamy_lens.panels import bundle, state
from dreamy_lens.panels.follower import RunFollower
from dreamy_lens.panels.frozen import frozen
from dreamy_lens.panels.live import LivePanel
from dreamy_lens.panels.messages import MessageHandler
from dreamy_lens.panels.run_view import (
    WEIGHT,
    edited_keys,
    first_small_page,
    inspector_of,
    known_attributions,
    queue_attributions,
    starred_prompts,
    view_labels,
    view_of_stars,
)
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.results.notes import note_on_values
from dreamy_lens.runs.dreams import Dreams
from dreamy_lens.runs.python_code import prompt_code, runs_code
from dreamy_lens.runs.worker import ENDED, PAUSED, RUNNING

if TYPE_CHECKING:
    from dreamy_lens.runs.dream import Dream


class RunsPanel(LivePanel):
    """Live view of several runs: all frontiers in one plot, with the merged frontier of each feature.

    Args:
        runs: `Dreams`, or runs that were started separately.
    """

    _esm = bundle.view_module("runs")
    _css = bundle.view_stylesheet()
    status = traitlets.Unicode("ready").tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)
    steps = traitlets.Int(0).tag(sync=True)
    used = traitlets.Float(-1.0).tag(sync=True)
    runs = traitlets.List().tag(sync=True)
    groups = traitlets.List().tag(sync=True)
    picked = traitlets.Unicode("").tag(sync=True)
    python = traitlets.Dict().tag(sync=True)

    def __init__(self, runs: Sequence[Dream]) -> None:
        self.run: Any = runs if isinstance(runs, Dreams) else Dreams(list(runs))
        self._followers = [RunFollower(run) for run in self.run]
        super().__init__(**self.state())
        self._commands = {
            "pause": lambda message: [run.pause() for run in self.run],
            "resume": lambda message: [run.resume() for run in self.run if run.active],
            "stop": lambda message: [run.stop() for run in self.run],
            "keep": lambda message: self.keep(),
        }
        self._handlers: dict[int, MessageHandler] = {}
        if stars := self._stars():
            self.view_state = {"stars": stars}
        self.observe(lambda change: self._keep_stars(change["old"], change["new"]), "view_state")
        self.on_msg(self._hear)
        self._pick_default()
        self.follow(self.run)

    def prepare(self) -> list[Future]:
        """Queue the attributions that a frozen view shows, to be computed when the model threads are idle.

        Returns:
            Futures of the attributions.
        """
        default = self._merged().representative()
        futures = []
        for run in self.run:
            first = [default] if default is not None and default in run.so_far.frontier.prompts else []
            futures += queue_attributions(run, max(2, 20 // len(self.run)), first)
        return futures

    def update(self) -> None:
        """Show the results so far."""
        super().update()
        self._pick_default()

    def to_html(self, weight: int = WEIGHT) -> str:
        """Return the view as HTML that needs no kernel.

        Args:
            weight: Most characters; details are left out to stay below it, as far as possible.
        """
        self._pick_default()
        traits = {**self.state(), "view_state": self.view_state}
        picked = self.picked or self._default_key()

        def page(best: int, worst: int, most: int) -> str:
            entries = {key: state.trimmed(entry, best, worst) for key, entry in self._known(most).items()}
            return frozen("runs", {**traits, "attributions": entries, "picked": picked, "live": False}, self.live_id)

        html = first_small_page(weight, (page(*sizes) for sizes in ((6, 2, 20), (4, 1, 20), (3, 1, 6), (3, 1, 0))))
        # Where the page connects to this live panel, the panel must show the attributions that the page has.
        self.attributions = self._known(20)
        return html

    def _known(self, most: int) -> dict[str, Any]:
        """Return the known results of at most `most` prompts of each run, and of what is picked and edited."""
        also = [self.picked or self._default_key(), *edited_keys(self.view_state)]
        return {key: entry for run in self.run for key, entry in known_attributions(run, also, most).items()}

    def _merged(self) -> Frontier:
        """Return the merged frontier of the first feature."""
        first = [run for run in self.run if run.provenance.feature == self.run[0].provenance.feature]
        return Frontier(prompt for run in first for prompt in run.so_far.frontier)

    def _default_key(self) -> str:
        default = self._merged().representative()
        return state.key(default.ids) if default else ""

    def _pick_default(self) -> None:
        """Pick a prompt when the runs have ended and the user has picked none, so that its strip is there."""
        if self.status in ENDED and not self.picked:
            self.picked = self._default_key()

    def __repr__(self) -> str:
        return f"RunsPanel({self.title}, {len(self.run)} runs, {self.status})"

    def state(self) -> dict[str, Any]:
        """Return the traits that change while the runs go on, by their names."""
        runs, groups = [], list(dict.fromkeys(run.provenance.feature for run in self.run))
        for number, (run, follower) in enumerate(zip(self.run, self._followers, strict=True)):
            seed = run.provenance.seed
            name = f"run {number}" if seed is None else f"seed {seed}"
            group = groups.index(run.provenance.feature)
            code = {"prompt": prompt_code(run)}
            runs.append({"name": name, "group": group, "python": code, **view_labels(run), **follower.brief()})
        names = [next(run for run in self.run if run.provenance.feature == text).feature_names for text in groups]
        statuses = {run["status"] for run in runs}
        ends = [s for s in ("failed", "stopped", "done") if s in statuses]
        status = RUNNING if RUNNING in statuses else PAUSED if PAUSED in statuses else ends[0] if ends else "ready"
        errors = dict.fromkeys(run["error"] for run in runs if run["error"])
        return {
            "title": names[0][0] if len(names) == 1 else f"{len(names)} features",
            "full_title": names[0][1] if len(names) == 1 else "",
            "status": status,
            "error": "; ".join(errors),
            "note": " ".join(filter(None, map(self._note, groups))),
            "step": min((run["step"] for run in runs), default=0),
            "steps": max((run["steps"] for run in runs), default=0),
            "used": min((run["used"] for run in runs), default=-1.0),
            "runs": runs,
            "groups": [name for name, _ in names],
            "python": {"run": runs_code(list(self.run))} if runs else {},
        }

    def _stars(self) -> dict[str, Any]:
        """Return what the view keeps of the starred prompts of all runs, by the numbers of their features and keys."""
        groups = list(dict.fromkeys(run.provenance.feature for run in self.run))
        return {
            f"{groups.index(run.provenance.feature)} {key}": {**star, "run": number}
            for number, run in enumerate(self.run)
            for key, star in view_of_stars(run.starred).items()
        }

    def _keep_stars(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        """Let each run keep its prompts that the user has starred in the view."""
        before, after = ((state.get("stars") or {}).values() for state in (old, new))
        for number, run in enumerate(self.run):
            mine, former = ([star for star in stars if star.get("run") == number] for stars in (after, before))
            if mine != former:
                run.starred = starred_prompts(run, {"stars": {star["key"]: star for star in mine}})

    def _note(self, feature: str) -> str:
        """Return the note on the values of all runs of a feature; "" while one of them goes on."""
        runs = [run for run in self.run if run.provenance.feature == feature]
        if any(run.active for run in runs) or not any(run.note for run in runs):
            return ""
        histories = [run.so_far.history for run in runs]
        best = max((float(history.value.max()) for history in histories if len(history)), default=0.0)
        return note_on_values(feature, best, sum(map(len, histories)), bool(runs[0].provenance.suffix))

    def _hear(self, widget: Any, message: Any, buffers: Any = None) -> None:
        number = message.get("run", 0) if isinstance(message, dict) else 0
        if number not in self._handlers and isinstance(number, int) and 0 <= number < len(self.run):
            run = self.run[number]
            self._handlers[number] = MessageHandler(inspector_of(run), run.ask, self.send, self._commands)
        if number in self._handlers:
            self._handlers[number].hear(widget, message, buffers)

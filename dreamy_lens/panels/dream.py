"""The panel of a run: watch the frontier grow, click a prompt, pull a token."""

from __future__ import annotations

import contextlib
import uuid
import weakref
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from dreamy_lens.errors import DreamyLensError, SettingsError
from dreamy_lens.panels import bundle, state
from dreamy_lens.panels.frozen import frozen
from dreamy_lens.panels.messages import MessageHandler, PromptInspector
from dreamy_lens.runs.controls import ENDED

if TYPE_CHECKING:
    from dreamy_lens.runs.dream import Dream

KEPT = 20
"""Prompts of a frontier whose attribution a frozen view keeps, spread from fluent to strong."""

WEIGHT = 100_000
"""Characters that a frozen view has at most, if leaving things out can do it."""

_LOOKS: weakref.WeakKeyDictionary[Dream, PromptInspector] = weakref.WeakKeyDictionary()


class DreamPanel(anywidget.AnyWidget):
    """A live view of one run, in any host that shows widgets.

    State goes down in traits, which only the thread at work writes while the run goes on; what is clicked comes up as
    messages.

    Args:
        run: that goes on, has ended, or was loaded.
    """

    _esm = bundle.module("dream")
    _css = bundle.stylesheet()
    live = traitlets.Bool(True).tag(sync=True)
    live_id = traitlets.Unicode("").tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    subtitle = traitlets.Unicode("").tag(sync=True)
    python = traitlets.Unicode("").tag(sync=True)
    status = traitlets.Unicode("ready").tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)
    steps = traitlets.Int(0).tag(sync=True)
    seconds = traitlets.Float(0.0).tag(sync=True)
    left = traitlets.Float(-1.0).tag(sync=True)
    evaluated = traitlets.Int(0).tag(sync=True)
    hypervolume = traitlets.Float(0.0, allow_none=True).tag(sync=True)
    error = traitlets.Unicode("").tag(sync=True)
    population = traitlets.List().tag(sync=True)
    frontier = traitlets.List().tag(sync=True)
    previous = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
    restarts = traitlets.List().tag(sync=True)
    growth = traitlets.Dict().tag(sync=True)
    past = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
    attributions = traitlets.Dict().tag(sync=True)
    picked = traitlets.Unicode("").tag(sync=True)

    def __init__(self, run: Dream) -> None:
        # Weakly, because ipywidgets keeps every widget: a run, and the model it uses, go when their user lets them go.
        self._run = weakref.ref(run)
        self.looks = looks_of(run)
        self._follower = state.RunFollower(run)
        super().__init__(
            live_id=uuid.uuid4().hex, **describe(run), attributions=dict(self.looks.known), **self._follower.state()
        )
        commands = {
            "pause": lambda message: self.run.pause(),
            "resume": lambda message: self.run.resume() if self.run.active else None,
            "stop": lambda message: self.run.stop(),
            "more": self._more,
            "past": lambda message: self.run.ask(self._fill_past),
            "start": lambda message: self.run.ask(lambda: self._start(message["ids"])),
        }
        self._talk = MessageHandler(self.looks, lambda function: self.run.ask(function, soon=True), self.send, commands)
        self.on_msg(self._talk.hear)
        self._leave = run.listen(lambda run: self.update())

    @property
    def started(self) -> list[Dream]:
        """Runs that were started from a prompt here, or in another panel of the run."""
        return self.run.started

    @property
    def run(self) -> Dream:
        """What is shown."""
        return alive(self._run)

    def update(self) -> None:
        """Show what was found until now."""
        found = self._follower.state()
        with self.hold_sync():  # one message for everything that changed
            for name, value in found.items():
                if getattr(self, name) != value:
                    setattr(self, name, value)
        if self.status in ENDED:
            self.past = None  # what was asked for before the end is not all of it

    def to_html(self, weight: int = WEIGHT) -> str:
        """The same view with no kernel, for a cell or a page; what is too much for it is left out."""
        page = frozen_run(self.run, self, weight)
        # Where the page finds this panel alive, it starts with what the page has.
        self.attributions = kept(self.run, self.picked)
        return page

    def prepare(self) -> list[Future]:
        """Have what a frozen view keeps worked out when nothing else is asked of the model."""
        return attribute_frontier(self.run)

    def close(self) -> None:
        """Take the view away; the run goes on."""
        self._leave()
        super().close()

    def __repr__(self) -> str:
        return f"DreamPanel({self.title}, {self.status})"

    def _more(self, message: dict[str, Any]) -> None:
        run, more = self.run, int(message.get("iterations", 100))

        def go_on() -> None:
            try:
                run.resume(more, wait=False, progress=False)
            except DreamyLensError as error:
                self.send({"type": "notice", "text": str(error)})

        if not run.active:
            run.ask(go_on)

    def _fill_past(self) -> None:
        self.past = self._follower.past()

    def _start(self, ids: list[int]) -> None:
        from dreamy_lens.panels.cells import beside
        from dreamy_lens.runs.start import again

        try:
            run = again(self.run, ids)
        except DreamyLensError as error:
            self.send({"type": "notice", "text": str(error)})
            return
        self.started.append(run)
        beside(self, DreamPanel(run))
        run.resume(wait=False, progress=False)


def looks_of(run: Dream) -> PromptInspector:
    """At the prompts of a run; one for all of its views, so that nothing is worked out twice."""
    if run not in _LOOKS:
        weak = weakref.ref(run)
        _LOOKS[run] = PromptInspector(
            lambda: alive(weak).session.scorer, lambda ids, ks: alive(weak)._attributions(ids, ks)
        )
    return _LOOKS[run]


def alive(weak: weakref.ref[Dream]) -> Dream:
    """A run that is there still."""
    run = weak()
    if run is None:
        raise SettingsError("This run is gone: nothing in the kernel holds it any more. Load it again, or dream anew.")
    return run


def describe(run: Dream) -> dict[str, str]:
    """What a run is of."""
    origin = run.provenance
    seed = [] if origin.seed is None else [f"seed {origin.seed}"]
    parts = [origin.model, *seed, f"{run.config.length} tokens"]
    parts += ["in a template"] * bool(origin.prefix or origin.suffix)
    return {"title": run.feature_label, "subtitle": " · ".join(parts), "python": f"dl.parse({origin.feature!r})"}


def attribute_frontier(run: Dream, most: int = KEPT) -> list[Future]:
    """Have the attributions that a frozen view keeps worked out when nothing else is asked of the model."""
    looks = looks_of(run)
    worker = run._worker
    assert worker is not None
    prompts = [] if run._session is None else list(run.so_far.frontier.spread(most))
    missing = [p for p in prompts if looks.known.get(state.key(p.ids), {}).get("series") is None]

    def look(ids: tuple[int, ...]) -> None:
        import numpy as np

        with contextlib.suppress(DreamyLensError):  # a feature without a gradient has a frontier all the same
            looks.with_series(np.asarray(ids, dtype=np.int64))

    return [worker.defer(lambda ids=p.ids: look(ids)) for p in missing]


def kept(run: Dream, picked: str = "", most: int = KEPT) -> dict[str, dict[str, Any]]:
    """What is known of the prompts of a run's frontier, and of the one that is picked."""
    known = looks_of(run).known
    keys = [state.key(p.ids) for p in run.so_far.frontier.spread(most)]
    return {key: known[key] for key in [*keys, picked] if key in known}


def frozen_run(run: Dream, panel: DreamPanel | None = None, weight: int = WEIGHT, strips: int = KEPT) -> str:
    """A run as a view that needs no kernel: HTML of at most `weight` characters, if leaving things out can do it."""
    follower = state.RunFollower(run) if panel is None else panel._follower
    picked = panel.picked if panel is not None else ""
    keys = [state.key(p.ids) for p in run.so_far.frontier]
    found = kept(run, picked, strips)
    if picked not in found and picked not in keys and keys:  # one from the middle whose attribution is there
        attributed = list(found) or keys
        picked = attributed[len(attributed) // 2]
    whole = {
        **describe(run),
        **follower.state(),
        "past": follower.past(),
        "picked": picked,
        "live": False,
    }
    if whole["status"] not in ENDED:
        whole["status"] = "stopped"  # nothing goes on in a page
    page = ""
    every = (6, 2, True, strips), (4, 1, True, strips), (4, 1, False, strips), (3, 1, False, min(8, strips))
    for best, worst, texts, most in every:
        few = {key: state.trimmed(one, best, worst) for key, one in kept(run, picked, most).items()}
        past = whole["past"] if texts else _without_texts(whole["past"])
        page = frozen("dream", {**whole, "attributions": few, "past": past}, None if panel is None else panel.live_id)
        if len(page) <= weight:
            break
    return page


def _without_texts(past: dict[str, Any]) -> dict[str, Any]:
    return {**past, "texts": [], "points": [point[:3] for point in past["points"]]}

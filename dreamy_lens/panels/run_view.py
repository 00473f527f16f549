"""The view of a run as far as it needs no widget: what it is of, what is known of its prompts, and its frozen form."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.errors import DreamyLensError, SettingsError
from dreamy_lens.panels import state
from dreamy_lens.panels.frozen import frozen
from dreamy_lens.panels.messages import PromptInspector
from dreamy_lens.runs.worker import ENDED

if TYPE_CHECKING:
    from dreamy_lens.runs.dream import Dream

KEPT = 20
"""Prompts of a frontier whose attribution a frozen view keeps, spread from fluent to strong."""

WEIGHT = 100_000
"""Characters that a frozen view has at most, if leaving things out can do it."""

_INSPECTORS: weakref.WeakKeyDictionary[Dream, PromptInspector] = weakref.WeakKeyDictionary()


def inspector_of(run: Dream) -> PromptInspector:
    """The inspector of a run's prompts; one for all views of the run, so that nothing is worked out twice."""
    if run not in _INSPECTORS:
        weak = weakref.ref(run)
        _INSPECTORS[run] = PromptInspector(
            lambda: alive(weak).session.scorer, lambda ids, ks: alive(weak).attributions(ids, ks)
        )
    return _INSPECTORS[run]


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
    """Ask for the attributions that a frozen view keeps, to be worked out when nothing else is asked of the model."""
    inspector = inspector_of(run)
    prompts = list(run.so_far.frontier.spread(most)) if run.has_session else []
    missing = [p for p in prompts if inspector.known.get(state.key(p.ids), {}).get("series") is None]

    def look(ids: tuple[int, ...]) -> None:
        with contextlib.suppress(DreamyLensError):  # a feature without a gradient has a frontier all the same
            inspector.with_series(np.asarray(ids, dtype=np.int64))

    return [run.defer(lambda ids=p.ids: look(ids)) for p in missing]


def kept(run: Dream, picked: str = "", most: int = KEPT) -> dict[str, dict[str, Any]]:
    """What is known of the prompts of a run's frontier, and of the one that is picked."""
    known = inspector_of(run).known
    keys = [state.key(p.ids) for p in run.so_far.frontier.spread(most)]
    return {key: known[key] for key in [*keys, picked] if key in known}


def frozen_run(
    run: Dream,
    weight: int = WEIGHT,
    strips: int = KEPT,
    *,
    follower: state.RunFollower | None = None,
    picked: str = "",
    live_id: str | None = None,
) -> str:
    """A run as a view that needs no kernel: HTML of at most `weight` characters, if leaving things out can do it.

    Args:
        run: run to show.
        weight: most characters.
        strips: most prompts whose attribution is kept.
        follower: follower of the run, if there is one already.
        picked: key of the prompt that is looked at; the empty one chooses.
        live_id: of the panel that the view was made of, if there is one.
    """
    follower = state.RunFollower(run) if follower is None else follower
    keys = [state.key(p.ids) for p in run.so_far.frontier]
    known = kept(run, picked, strips)
    if picked not in known and picked not in keys and keys:  # one from the middle whose attribution is there
        attributed = list(known) or keys
        picked = attributed[len(attributed) // 2]
    whole = {**describe(run), **follower.state(), "past": follower.past(), "picked": picked, "live": False}
    if whole["status"] not in ENDED:
        whole["status"] = "stopped"  # nothing goes on in a page

    def page(best: int, worst: int, texts: bool, most: int) -> str:
        few = {key: state.trimmed(one, best, worst) for key, one in kept(run, picked, most).items()}
        past = whole["past"] if texts else _without_texts(whole["past"])
        return frozen("dream", {**whole, "attributions": few, "past": past}, live_id)

    every = (6, 2, True, strips), (4, 1, True, strips), (4, 1, False, strips), (3, 1, False, min(8, strips))
    return first_light(weight, (page(*sizes) for sizes in every))


def first_light(weight: int, pages: Iterable[str]) -> str:
    """The first page of at most so many characters, or the last one; pages are made until one will do."""
    page = ""
    for page in pages:
        if len(page) <= weight:
            break
    return page


def _without_texts(past: dict[str, Any]) -> dict[str, Any]:
    return {**past, "texts": [], "points": [point[:3] for point in past["points"]]}

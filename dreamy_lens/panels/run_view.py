"""Parts of a run's view that need no widget: labels, known results of prompts, sections, and the frozen form."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.errors import DreamyLensError, SettingsError
from dreamy_lens.html.escaping import Html
from dreamy_lens.panels import state
from dreamy_lens.panels.follower import RunFollower
from dreamy_lens.panels.frozen import frozen
from dreamy_lens.panels.messages import PromptInspector
from dreamy_lens.panels.sections import PanelSection, SectionStore, prompt_sections
from dreamy_lens.results.prompt import Prompt
from dreamy_lens.runs.python_code import BEST, prompt_code, run_code
from dreamy_lens.runs.worker import ENDED
from dreamy_lens.search.config import lengths_text

if TYPE_CHECKING:
    from dreamy_lens.runs.dream import Dream

KEPT = 20
"""Number of a frontier's prompts whose attribution a frozen view keeps, spread from fluent to strong."""

WEIGHT = 100_000
"""Most characters of a frozen view; details are left out to stay below it, as far as possible."""

WAYS = 8
"""Most groups of prompts that drive the feature in one way, as on a card."""

_INSPECTORS: weakref.WeakKeyDictionary[Dream, PromptInspector] = weakref.WeakKeyDictionary()
_STORES: weakref.WeakKeyDictionary[Dream, SectionStore] = weakref.WeakKeyDictionary()


def inspector_of(run: Dream) -> PromptInspector:
    """Return the inspector of a run's prompts. All views of the run share it, so that nothing is computed twice.

    Args:
        run: Run whose prompts the inspector scores and attributes.
    """
    if run not in _INSPECTORS:
        reference = weakref.ref(run)
        _INSPECTORS[run] = PromptInspector(
            lambda: dereference(reference).session.scorer,
            lambda ids, ks: dereference(reference).attributions(ids, ks),
        )
    return _INSPECTORS[run]


def sections_of(run: Dream) -> SectionStore:
    """Return the sections that a run's views can open. All views of the run share them.

    Args:
        run: Run whose model computes the sections.
    """
    if run not in _STORES:
        reference = weakref.ref(run)

        def ways(_: np.ndarray) -> Html:
            run = dereference(reference)
            found = run.mechanisms().body(WAYS)
            return Html(f'{found}<p class="dl-note">After iteration {run.so_far.iteration}.</p>')

        def words(_: np.ndarray) -> Html:
            return _words(dereference(reference))

        def iteration() -> int:
            return dereference(reference).so_far.iteration

        upstream, downstream = prompt_sections(
            lambda ids: dereference(reference).upstream(ids),
            lambda ids, count: dereference(reference).steer(ids, n_tokens=count),
        )
        search = "Looking for the ways in which the prompts of the run drive the feature…"
        drive = PanelSection("mechanisms", "Ways to drive it", search, ways, whole=True, moment=iteration)
        # Another program may write an explanation, so the folder is read again each time: no object equals another.
        told = PanelSection("words", "In words", "Reading the explanation…", words, whole=True, moment=object)
        _STORES[run] = SectionStore([upstream, drive, downstream, told])
    return _STORES[run]


def _words(run: Dream) -> Html:
    """Return the explanation that is stored with a run, or how to make one; nothing is sent anywhere."""
    found = run.explanation
    if found is not None:
        return found.body("h3")
    first = "" if run.folder else "Save the run with <code>run.save(folder)</code>. "
    return Html(
        f"<p>No explanation is stored with this run. {first}<code>dl.explain(run, llm=...)</code> asks a language "
        "model of your choice for one, and writes it to the folder of the run.</p>"
    )


def dereference(reference: weakref.ref[Dream]) -> Dream:
    """Return the run of a weak reference.

    Args:
        reference: Weak reference to a run.

    Raises:
        SettingsError: The run is no longer in memory.
    """
    run = reference()
    if run is None:
        raise SettingsError("This run is no longer in the kernel's memory. Load it from its folder, or start it again.")
    return run


def view_labels(run: Dream) -> dict[str, str]:
    """Return title, full title (its tooltip) and subtitle of a run, as traits of its view.

    Args:
        run: Run to label.
    """
    origin = run.provenance
    seed = [] if origin.seed is None else [f"seed {origin.seed}"]
    parts = [origin.model, *seed, f"{lengths_text(run.config)} tokens"]
    if origin.contexts:
        parts.append(origin.contexts.partition(" (")[0])
    elif origin.prefix or origin.suffix:
        parts.append("in a template")
    parts += [f"from: {start}"] if (start := run.start_text) else []
    title, full_title = run.feature_names
    return {"title": title, "full_title": full_title, "subtitle": " · ".join(parts)}


def view_code(run: Dream) -> dict[str, str]:
    """Return the Python code that a run's view copies, by what it makes.

    Args:
        run: Run that the view shows.
    """
    return {"run": run_code(run), "best": BEST, "prompt": prompt_code(run)}


def edited_keys(view_state: Mapping[str, Any]) -> list[str]:
    """Return the keys of the prompts that the user has edited, starred or pinned in a view, and of what the edits made.

    Args:
        view_state: What the user has set in the view.
    """
    edits = view_state.get("edits") or {}
    edited = [step["key"] for edit in edits.values() for step in (edit["base"], edit["now"], *edit["trail"])]
    starred = [star["key"] for star in (view_state.get("stars") or {}).values()]
    pinned = view_state.get("pinned")
    return [*edited, *starred, *([pinned["key"]] if pinned else [])]


def starred_prompts(run: Dream, view_state: Mapping[str, Any]) -> list[Prompt]:
    """Return the prompts that the user has starred in a view, in the order in which they were starred.

    Args:
        run: Run that the view shows.
        view_state: What the user has set in the view.
    """
    found = []
    for entry in (view_state.get("stars") or {}).values():
        same = next((p for p in run.so_far.frontier if state.key(p.ids) == entry["key"]), None)
        plain = (tuple(entry["ids"]), tuple(entry["tokens"]), entry["text"], entry["value"], entry["ce"])
        found.append(same or Prompt(*plain, bool(entry["trips"]), run.provenance, run))
    return found


def view_of_stars(prompts: Iterable[Prompt]) -> dict[str, Any]:
    """Return what a view keeps of starred prompts, by their keys.

    Args:
        prompts: Starred prompts.
    """
    stars = {}
    for prompt in prompts:
        entry = state.frontier_entry(prompt)
        named = {name: entry[name] for name in ("key", "ids", "tokens", "text", "trips")}
        stars[entry["key"]] = {**named, "value": entry["y"], "ce": entry["x"]}
    return stars


def queue_attributions(run: Dream, most: int = KEPT, first: Iterable[Prompt] = ()) -> list[Future]:
    """Queue the attributions that a frozen view keeps, to be computed when the model thread is idle.

    Args:
        run: Run whose frontier is attributed.
        most: Most prompts to attribute.
        first: Prompts of the run to attribute before the others.

    Returns:
        Futures of the attributions that are missing.
    """
    inspector = inspector_of(run)
    prompts = [*first, *run.so_far.frontier.spread(most)] if run.has_session else []
    missing = [p for p in prompts if inspector.known.get(state.key(p.ids), {}).get("series") is None]

    def inspect(ids: tuple[int, ...]) -> None:
        with contextlib.suppress(DreamyLensError):  # a feature without a gradient has no attributions
            inspector.with_series(np.asarray(ids, dtype=np.int64))

    return [run.defer(lambda ids=p.ids: inspect(ids)) for p in missing]


def known_attributions(run: Dream, also: Iterable[str] = (), most: int = KEPT) -> dict[str, dict[str, Any]]:
    """Return the known results of prompts on a run's frontier, and of further prompts, by the prompts' keys.

    Args:
        run: Run whose prompts are looked up.
        also: Keys of further prompts, such as the picked one.
        most: Most prompts of the frontier, spread from fluent to strong.
    """
    known = inspector_of(run).known
    keys = [state.key(p.ids) for p in run.so_far.frontier.spread(most)]
    return {key: known[key] for key in [*keys, *also] if key in known}


def frozen_run(
    run: Dream,
    weight: int = WEIGHT,
    strips: int = KEPT,
    *,
    follower: RunFollower | None = None,
    picked: str = "",
    view_state: Mapping[str, Any] | None = None,
    live_id: str | None = None,
) -> str:
    """Return the view of a run as HTML that needs no kernel.

    Args:
        run: Run to show.
        weight: Most characters; details are left out to stay below it, as far as possible.
        strips: Most prompts whose attribution is kept.
        follower: Follower of the run; None makes one.
        picked: Key of the picked prompt; "" picks that of :meth:`Frontier.representative`.
        view_state: What the user has set and edited in the live panel; None is nothing.
        live_id: Id of the live panel that the view was made from; None if there is none.
    """
    follower = RunFollower(run) if follower is None else follower
    keys = [state.key(p.ids) for p in run.so_far.frontier]
    also = edited_keys(view_state or {})
    default = run.so_far.frontier.representative()
    if picked not in keys and picked not in also and picked not in known_attributions(run, [picked]) and default:
        picked = state.key(default.ids)
    past = follower.past()  # opens the run's model, with which the labels have the text of a start
    traits = {
        **view_labels(run),
        "python": view_code(run),
        **follower.state(),
        "past": past,
        "picked": picked,
        "live": False,
    }
    traits["view_state"] = dict(view_state or {})
    if traits["status"] not in ENDED:
        traits["status"] = "stopped"  # the run does not go on in the page

    cloud = follower.cloud()

    *opened, nothing = sections_of(run).frozen_traits([picked, *also])

    def page(best: int, worst: int, texts: bool, most: int, points: bool, sections: dict[str, Any]) -> str:
        entries = known_attributions(run, [picked, *also], most).items()
        attributions = {key: state.trimmed(entry, best, worst) for key, entry in entries}
        past = traits["past"] if texts else _without_texts(traits["past"])
        shown = {**traits, "attributions": attributions, "past": past, "cloud": cloud if points else None, **sections}
        return frozen("dream", shown, live_id)

    few = min(8, strips)
    sizes = [(6, 2, True, strips, True), (6, 2, True, strips, False), (4, 1, True, strips, False)]
    sizes += [(4, 1, False, strips, True), (4, 1, False, strips, False), (3, 1, False, few, False)]
    steps = [(*sizes[0], sections) for sections in opened] + [(*size, nothing) for size in sizes]
    return first_small_page(weight, (page(*step) for step in steps))


def first_small_page(weight: int, pages: Iterable[str]) -> str:
    """Return the first page of at most `weight` characters, or the last page if all are longer.

    Args:
        weight: Most characters.
        pages: Pages, made one after the other until one is small enough.
    """
    page = ""
    for page in pages:
        if len(page) <= weight:
            break
    return page


def _without_texts(past: dict[str, Any]) -> dict[str, Any]:
    return {**past, "texts": [], "points": [point[:3] for point in past["points"]]}

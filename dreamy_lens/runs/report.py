"""A dream as one page: the frontier drawn, its prompts in a table, and which tokens carry each of them.

The page is a single file that fetches nothing and has no script; it reads in light and dark, on phones and on paper.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

from dreamy_lens.errors import DreamyLensError
from dreamy_lens.html import page as markup
from dreamy_lens.html import svg
from dreamy_lens.results import strips
from dreamy_lens.results.attribution import Attribution
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.results.history import History

if TYPE_CHECKING:
    import pandas as pd

    from dreamy_lens.results.prompt import Prompt, Provenance
    from dreamy_lens.search.config import EPOConfig

Attributions = Mapping[int, Attribution] | Sequence[Attribution | None]


class ReportedRun(Protocol):
    """What a page about a run needs of it; a :class:`~dreamy_lens.runs.dream.Dream` has it."""

    @property
    def config(self) -> EPOConfig:
        """The settings."""
        ...

    @property
    def history(self) -> History:
        """Every evaluated prompt."""
        ...

    @property
    def frontier(self) -> Frontier:
        """The prompts that no evaluated prompt beats in both value and cross-entropy."""
        ...

    provenance: Provenance

    def evolution(self) -> pd.DataFrame:
        """Best value, hypervolume and size of the frontier after each iteration."""
        ...


def page(
    title: str,
    frontier: Frontier,
    attributions: Attributions = (),
    evolution: pd.DataFrame | None = None,
    settings: Mapping[str, Any] | None = None,
    intro: str = "",
    history: History | None = None,
) -> str:
    """One self-contained HTML page.

    Args:
        title: heading of the page.
        frontier: its prompts, shown from fluent to strong.
        attributions: by index into the frontier, or in its order; prompts without one go without a strip.
        evolution: what :meth:`History.evolution` returns.
        settings: names and values for the foot of the page; a group of them may be a mapping itself.
        intro: a sentence under the heading.
        history: if given, its prompts are drawn as a cloud behind the frontier.

    Returns:
        The page, which can be written as UTF-8 whatever the tokens are.
    """
    found = _by_index(attributions, len(frontier))
    body = [f"<h1>{markup.escape(title)}</h1>", f"<p>{markup.escape(intro)}</p>" if intro else ""]
    if len(frontier):
        names = [f"p{i + 1}" for i in range(len(frontier))]
        body.append(svg.frontier_svg(frontier, names, history=history))
        body.append(_table(frontier, names, found))
        body.append(_strips(frontier, names, found))
    else:
        body.append("<p>No prompt had finite scores, so there is no frontier.</p>")
    if evolution is not None and len(evolution) > 1:
        body.append(_evolution(evolution))
    if settings:
        body.append(f"<h2>Settings</h2>{settings_list(settings)}")
    return markup.document(title, "".join(body))


def page_of_run(run: ReportedRun, k: int = 32, strips: int = 16) -> str:
    """The page of a run, with the attribution of prompts from all along its frontier.

    Args:
        run: a dream; the page waits for its end.
        k: substitutes tried at each position.
        strips: prompts that are attributed at most, which takes most of the time; the table has all.
    """
    frontier, history = run.frontier, run.history
    attributions: dict[int, Attribution] = {}
    shown = set(frontier.spread(strips))
    for i, prompt in enumerate(frontier):
        if prompt not in shown:
            continue
        try:
            attributions[i] = prompt.attribution(k=k)
        except DreamyLensError:  # a feature without a gradient has a frontier all the same
            break
    title, intro, settings = f"A dream of {run.provenance.feature}", introduction(run), settings_of(run)
    return page(title, frontier, attributions, run.evolution(), settings, intro, history)


def introduction(run: ReportedRun) -> str:
    """What a page about a run shows, in a sentence."""
    return (
        f"Prompts that drive the feature while they still read as language: of {len(run.history):,} evaluated, the "
        f"{len(run.frontier)} that no other beats in both value and cross-entropy, from the most fluent to the "
        "strongest."
    )


def settings_of(run: ReportedRun) -> dict[str, Any]:
    """What a run was made of and with, for the foot of a page."""
    origin, history = run.provenance, run.history
    template = {"prefix": origin.prefix, "suffix": origin.suffix} if origin.prefix or origin.suffix else {}
    what = {"feature": origin.feature, "model": origin.model, "prepend_bos": origin.prepend_bos, **template}
    seconds = {"seconds": f"{history.seconds[-1]:.1f}"} if len(history.seconds) else {}
    config = dataclasses.asdict(run.config) if dataclasses.is_dataclass(run.config) else {}
    return {**what, **{k: v for k, v in config.items() if k not in what}, **seconds, **versions()}


def versions() -> dict[str, str]:
    """Versions of what a run's numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("dreamy-lens", "torch", "transformer-lens", "transformers", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # a saved run can be shown where torch is not installed
            continue
    return found


def _by_index(attributions: Attributions, count: int) -> dict[int, Attribution]:
    pairs = attributions.items() if isinstance(attributions, Mapping) else enumerate(attributions)
    found = {int(i): a for i, a in pairs if a is not None}
    if wrong := sorted(i for i in found if not 0 <= i < count):
        raise ValueError(f"attributions for prompts {wrong}, and the frontier has {count}")
    return found


def _table(frontier: Frontier, names: Sequence[str], found: Mapping[int, Attribution]) -> str:
    rows = []
    for i, (cells, prompt) in enumerate(zip(markup.prompt_rows(frontier.prompts), frontier, strict=True)):
        number = markup.Html(f'<a href="#{names[i]}">{i + 1}</a>') if i in found else str(i + 1)
        rows.append([number, *cells[:-1], markup.text(prompt.text)])
    # A prompt's own section is the place to go to; where there is none, its row is.
    anchors = [f"row{i + 1}" if i in found else name for i, name in enumerate(names)]
    return markup.table(["", *markup.PROMPT_COLUMNS], rows, anchors)


def _strips(frontier: Frontier, names: Sequence[str], found: Mapping[int, Attribution]) -> str:
    if not found:
        return ""
    sections = [strip_section(i, frontier[i], names[i], found[i]) for i in sorted(found)]
    few = f"{len(found)} of {len(frontier)} prompts. " if len(found) < len(frontier) else ""
    heading = f'<h2>Which tokens carry the feature</h2><p class="dl-note">{few}{strips.LEGEND}</p>'
    return heading + "".join(sections)


def strip_section(index: int, prompt: Prompt, name: str, found: Attribution) -> str:
    """One prompt of a frontier with its strip, under its number; `name` is the id of the element."""
    trips = "" if prompt.round_trips else " (as text it encodes to other tokens)"
    note = f'<p class="dl-note"><strong>{index + 1}</strong> {strips.scores(found)}{trips}</p>'
    return f'<section class="dl-dream" id="{name}">{note}{strips.attribution_strip(found)}</section>'


def _evolution(frame: pd.DataFrame) -> str:
    iterations = frame["iteration"].to_numpy()
    restarts = frame.loc[frame["restart"].notna(), "iteration"].tolist() if "restart" in frame else []
    titles = {"best_value": "best value so far", "hypervolume": "hypervolume: area under the frontier"}
    drawn = [
        svg.evolution_svg(iterations, frame[name].to_numpy(dtype=float), restarts, label)
        for name, label in titles.items()
        if name in frame
    ]
    note = '<p class="dl-note">Dashed lines are restarts.</p>' if restarts else ""
    return f"<h2>How the frontier grew</h2>{''.join(drawn)}{note}"


def settings_list(settings: Mapping[str, Any]) -> str:
    """Names and values; a group of them may be a mapping itself."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat.update(value if isinstance(value, Mapping) else {name: value})
    rows = (f"<dt>{markup.escape(name)}</dt><dd>{markup.escape(value)}</dd>" for name, value in flat.items())
    return f"<dl>{''.join(rows)}</dl>"

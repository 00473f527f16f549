"""Static page of a dream: a drawing of its frontier, a table of its prompts, and the tokens that carry each prompt.

The page is a single file that fetches nothing and has no script. It is readable in light and dark themes, on phones
and on paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from dreamy_lens._host import versions
from dreamy_lens.errors import DreamyLensError
from dreamy_lens.features.parser import feature_names
from dreamy_lens.html import svg
from dreamy_lens.html.escaping import Html, escape, safe, with_tooltip
from dreamy_lens.html.page import document, html_table, python_details, warning
from dreamy_lens.html.words import plural
from dreamy_lens.results.attribution import Attribution
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.results.history import History
from dreamy_lens.results.prompt_table import PROMPT_COLUMNS, prompt_rows, prompt_text
from dreamy_lens.results.strips import StripScale, attribution_strip, score_line
from dreamy_lens.search.config import UNLIMITED

if TYPE_CHECKING:
    import pandas as pd

    from dreamy_lens.results.prompt import Prompt, Provenance
    from dreamy_lens.search.config import SearchConfig

VERSIONED = ("dreamy-lens", "torch", "transformer-lens", "transformers", "numpy")
"""Packages that a run's numbers depend on."""

Attributions = Mapping[int, Attribution] | Sequence[Attribution | None]


class ReportedRun(Protocol):
    """Run that a page can report; a :class:`~dreamy_lens.runs.dream.Dream` is one."""

    @property
    def config(self) -> SearchConfig:
        """Settings of the search."""
        ...

    @property
    def start_text(self) -> str:
        """Prompt that the run started from; "" for none."""
        ...

    @property
    def history(self) -> History:
        """Every evaluated prompt."""
        ...

    @property
    def frontier(self) -> Frontier:
        """Prompts that no evaluated prompt beats in both value and cross-entropy."""
        ...

    @property
    def passes(self) -> dict[str, str]:
        """How passes were run on an accelerator, by kind; empty on a CPU."""
        ...

    provenance: Provenance

    def evolution(self) -> pd.DataFrame:
        """Best value, hypervolume and size of the frontier after each iteration."""
        ...


def report_page(
    title: str,
    frontier: Frontier,
    attributions: Attributions = (),
    evolution: pd.DataFrame | None = None,
    settings: Mapping[str, Any] | None = None,
    intro: str = "",
    history: History | None = None,
    heading: Html | None = None,
    note: str = "",
    code: str = "",
) -> str:
    """Return a report as one self-contained HTML page.

    Args:
        title: Title of the page.
        frontier: Prompts to show, from fluent to strong.
        attributions: Attributions by index into the frontier, or in its order; a prompt without one has no strip.
        evolution: Table that :meth:`History.evolution` returns.
        settings: Names and values for the foot of the page; a value that is a mapping is a group of settings.
        intro: Sentence under the heading.
        history: History whose prompts are drawn as a cloud behind the frontier.
        heading: Heading of the page as HTML; None is the title.
        note: Sentence that readers must not miss; "" if there is none.
        code: Program that makes the run again, as Python; "" if it is unknown.

    Returns:
        Page that can be encoded as UTF-8, whatever the tokens are.
    """
    known = _by_index(attributions, len(frontier))
    body = [f"<h1>{safe(heading or title)}</h1>", f"<p>{escape(intro)}</p>" if intro else ""]
    body.append(warning(note))
    if len(frontier):
        names = [f"p{i + 1}" for i in range(len(frontier))]
        cloud = None if history is None else (history.cross_entropy, history.value)
        texts = [prompt.text for prompt in frontier]
        body.append(svg.frontier_svg(frontier.cross_entropies, frontier.values, texts, names, cloud=cloud))
        body.append(_table(frontier, names, known))
        body.append(_strips(frontier, names, known))
    else:
        body.append("<p>No prompt had finite scores, so there is no frontier.</p>")
    if evolution is not None and len(evolution) > 1:
        body.append(_evolution(evolution))
    if settings:
        body.append(f"<h2>Settings</h2>{settings_list(settings)}")
    body.append(python_details(code))
    return document(title, "".join(body))


def static_page_of_run(run: ReportedRun, k: int = 32, strips: int = 16, code: str = "") -> str:
    """Return the page of a run without a script, with attributions of prompts spread along its frontier.

    Args:
        run: Run to report; the function waits for its end.
        k: Number of substitutes to try at each position.
        strips: Most prompts to attribute, which takes most of the time; the table has all prompts.
        code: Program that makes the run again, as Python; "" leaves it out.
    """
    frontier, history = run.frontier, run.history
    attributions: dict[int, Attribution] = {}
    shown = set(frontier.spread(strips))
    for i, prompt in enumerate(frontier):
        if prompt not in shown:
            continue
        try:
            attributions[i] = prompt.attribution(k=k)
        except DreamyLensError:  # a feature without a gradient has no attributions, but it has a frontier
            break
    short, long = feature_names(run.provenance.feature)
    intro, heading = introduction(run), Html(f"A dream of {with_tooltip(short, long)}")
    evolution, settings = run.evolution(), run_settings(run)
    title, note = f"A dream of {short}", frontier.note
    return report_page(title, frontier, attributions, evolution, settings, intro, history, heading, note, code)


def introduction(run: ReportedRun) -> str:
    """Return a sentence that says what a page about a run shows."""
    return (
        f"Prompts that drive the feature while they still read as language. The search evaluated {len(run.history):,} "
        f"prompts. The frontier has {plural(len(run.frontier), 'prompt')}, from the most fluent to the strongest: no "
        "other prompt beats one of them in both value and cross-entropy."
    )


def run_settings(run: ReportedRun) -> dict[str, Any]:
    """Return what a run drove, its settings and its package versions, for the foot of a page."""
    origin, history = run.provenance, run.history
    template = {"prefix": origin.prefix, "suffix": origin.suffix} if origin.prefix or origin.suffix else {}
    template = {"contexts": origin.contexts} if origin.contexts else template
    feature = feature_names(origin.feature)[1]
    driven = {"feature": feature, "model": origin.model, "prepend_bos": origin.prepend_bos, **template}
    driven |= {"start": run.start_text} if run.start_text else {}
    taken = {"seconds taken": f"{history.seconds[-1]:.1f}"} if len(history.seconds) else {}
    config = dataclasses.asdict(run.config) if dataclasses.is_dataclass(run.config) else {}
    unused = {name for name in ("seconds", "prompts", "until", "shortest") if config.get(name) is None}
    unused |= {"iterations"} if config.get("iterations") == UNLIMITED else set()
    search = {"search": type(run.config).__name__}
    own = {name: value for name, value in config.items() if name not in driven and name not in unused}
    passes = {f"{kind} by": way for kind, way in run.passes.items()}
    return {**driven, **search, **own, **taken, **passes, **versions(*VERSIONED)}


def _by_index(attributions: Attributions, count: int) -> dict[int, Attribution]:
    pairs = attributions.items() if isinstance(attributions, Mapping) else enumerate(attributions)
    by_index = {int(i): a for i, a in pairs if a is not None}
    if wrong := sorted(i for i in by_index if not 0 <= i < count):
        raise ValueError(f"There are attributions for prompts {wrong}, but the frontier has {count} prompts.")
    return by_index


def _table(frontier: Frontier, names: Sequence[str], attributions: Mapping[int, Attribution]) -> str:
    rows = []
    for i, (cells, prompt) in enumerate(zip(prompt_rows(frontier.prompts), frontier, strict=True)):
        number = Html(f'<a href="#{names[i]}">{i + 1}</a>') if i in attributions else str(i + 1)
        rows.append([number, *cells[:-1], prompt_text(prompt.text)])
    # Links lead to the prompt's own section, or to its row if it has no section.
    anchors = [f"row{i + 1}" if i in attributions else name for i, name in enumerate(names)]
    return html_table(["", *PROMPT_COLUMNS], rows, anchors)


def _strips(frontier: Frontier, names: Sequence[str], attributions: Mapping[int, Attribution]) -> str:
    if not attributions:
        return ""
    scale = StripScale.of(attributions.values())
    sections = [strip_section(i, frontier[i], names[i], attributions[i], scale) for i in sorted(attributions)]
    few = f"{len(sections)} of {len(frontier)} prompts. " if len(sections) < len(frontier) else ""
    heading = f'<h2>Which tokens carry the feature</h2><p class="dl-note">{few}{scale.legend}</p>'
    return heading + "".join(sections)


def strip_section(index: int, prompt: Prompt, name: str, attribution: Attribution, scale: StripScale) -> str:
    """Return one prompt of a frontier with its strip, as HTML.

    Args:
        index: Index of the prompt in the frontier, from 0.
        prompt: Prompt to show.
        name: Id of the HTML element.
        attribution: Attribution of the prompt.
        scale: Scale of all strips of the page.
    """
    trips = "" if prompt.round_trips else " (re-tokenizes differently)"
    note = f'<p class="dl-note"><strong>{index + 1}</strong> {score_line(attribution, scale)}{trips}</p>'
    return f'<section class="dl-dream" id="{name}">{note}{attribution_strip(attribution, scale)}</section>'


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
    """Return names and values as an HTML list; a value that is a mapping is a group of settings."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat.update(value if isinstance(value, Mapping) else {name: value})
    rows = (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in flat.items())
    return f"<dl>{''.join(rows)}</dl>"

"""Page of a feature's card: static HTML, with the run's panel where scripts may run."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from dreamy_lens.comparison.card import Card
from dreamy_lens.comparison.svg import comparison_key, comparison_svg
from dreamy_lens.errors import DreamyLensError
from dreamy_lens.features.parser import feature_names
from dreamy_lens.html.cards import card_list, tabs
from dreamy_lens.html.escaping import Html, escape, visible, with_tooltip
from dreamy_lens.html.numbers import decimals, number
from dreamy_lens.html.page import copy_script, document, fragment, html_table, python_details
from dreamy_lens.html.svg import Mark, histogram_svg
from dreamy_lens.html.tokens import ValueScale, legend, numbers_switch
from dreamy_lens.html.words import plural
from dreamy_lens.panels.run_view import frozen_run, inspector_of
from dreamy_lens.results.prompt_table import prompt_table
from dreamy_lens.results.strips import StripScale
from dreamy_lens.runs.dream import Dream
from dreamy_lens.runs.report import settings_list, strip_section
from dreamy_lens.scan.page import QUANTILES, percent, quantile_sentence, shared_scale, window_card
from dreamy_lens.scan.window import Window

T = TypeVar("T")

STYLES = ("tokens.css", "cards.css")
FLUENT = 12
"""Most windows that are shown by fluency."""
CALIBRATED = 8
"""Number of dreams, from fluent to strong, whose distance from chance is shown."""
LIMIT = 200_000
"""Most bytes of a page."""
PAGE = 198_000
"""Bytes that a page aims at: details of the run's panel are left out to stay below it, as far as possible."""
LEAST_PANEL = 30_000
"""Bytes that the panel may have on any page."""


class Detail(NamedTuple):
    """How much of a card a page shows.

    Attributes:
        strips: Most dreams that are shown token by token.
        top: Most of the strongest windows.
        each: Most windows for each quantile.
        fluent: Most windows by fluency.
        ways: Most groups of prompts that drive the feature in one way.
    """

    strips: int
    top: int
    each: int
    fluent: int
    ways: int


DETAILS = (
    Detail(1000, 1000, 3, FLUENT, 8),
    Detail(5, 8, 2, 6, 6),
    Detail(4, 6, 1, 4, 4),
    Detail(3, 4, 1, 2, 3),
    Detail(2, 3, 0, 0, 2),
    Detail(1, 1, 0, 0, 1),
    Detail(0, 1, 0, 0, 1),
)
"""Details of a page, the most first: the first with which the page is small enough is taken."""


class CardView:
    """HTML of a card.

    Args:
        card: Card to show.
        top: Number of strongest windows to show.
        each: Number of windows to show for each quantile.
        detail: How much is shown at most.
    """

    def __init__(self, card: Card, top: int = 10, each: int = 3, detail: Detail = DETAILS[0]) -> None:
        self.card, self.comparison, examples = card, card.comparison, card.examples
        self.detail, top, each = detail, min(top, detail.top), min(each, detail.each)
        identity = f"{self.comparison.feature}{self.comparison.model}{self.comparison.summary}{top}"
        self.prefix = "k" + hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest()[:7]
        self.top = examples.top[:top]
        strong = {w.number for w in self.top}
        fluent = [w for w in examples.fluent if w.number not in strong]
        self.fluent = spread_over(fluent, detail.fluent)
        self.fluent_note = f", {len(self.fluent)} of {len(fluent)}" if len(fluent) > len(self.fluent) else ""
        self.quantiles = [(q, examples.quantile(q, each) if each else []) for q in QUANTILES]
        self.scale: ValueScale = shared_scale(
            [*self.top, *self.fluent, *(w for _, some in self.quantiles for w in some)]
        )
        self.attributions = {i: card.attributions[i] for i in spread_over(sorted(card.attributions), detail.strips)}
        self.dreams = {i: f"{self.prefix}d{i + 1}" for i in self.attributions}
        self.windows: dict[Any, str] = {w: f"{self.prefix}t{i + 1}" for i, w in enumerate(self.top)}
        self.windows |= {w: f"{self.prefix}f{i + 1}" for i, w in enumerate(self.fluent)}

    def body(self, panel: str = "", heading: str = "h2") -> str:
        """Return the HTML below the title.

        Args:
            panel: HTML of the run's panel.
            heading: Name of the HTML element of the headings.
        """
        comparison = self.comparison
        card, below = self.card, f"h{int(heading[1]) + 1}"
        effect = f"<{below}>Logit effect</{below}>{card.logit_effect.html()}"
        upstream = self._part("upstream", lambda: card.upstream.body(rows=0) if card.upstream else None)
        steering = self._part("downstream", lambda: card.downstream.body() if card.downstream else None)
        parts = [
            ("Dreams against the corpus", self._plane()),
            ("Ways to drive it", self._part("mechanisms", self._ways)),
            ("Dreams, token by token", self._strips() + panel),
            (f"In {comparison.scanned.corpus}", self._windows()),
            ("Where it comes from", upstream),
            ("What it does", effect + (f"<{below}>Steering</{below}>{steering}" if steering else "")),
            ("In words", self._part("words", lambda: None if card.words is None else card.words.body(below))),
            ("How far above chance", self._part("calibration", self._calibration)),
            ("Settings", self._settings()),
        ]
        sections = "".join(
            f"<section><{heading}>{escape(name)}</{heading}>{text}</section>" for name, text in parts if text
        )
        warnings = "".join(f'<p class="dl-warn">{escape(w)}</p>' for w in comparison.warnings)
        lead = f'<p class="dl-lead">{escape(comparison.sentence)}</p>'
        lead += f'<p class="dl-quiet">{escape(self._introduction())}</p>'
        return f'<div class="dl-sides dl-card" id="{self.prefix}">{lead}{warnings}{sections}</div>'

    def _part(self, name: str, body: Callable[[], Html | None]) -> str:
        """Return the HTML of a part, the reason why it is missing, or "" if it was not asked for."""
        if name in self.card.absent:
            return f'<p class="dl-none">{escape(self.card.absent[name])}</p>'
        return body() or ""

    def _ways(self) -> Html | None:
        mechanisms = self.card.mechanisms
        return None if mechanisms is None else mechanisms.body(self.detail.ways)

    def _calibration(self) -> Html | None:
        """Return dreams with their z-scores against random prompts and against the windows of the corpus."""
        known = self.card.calibration
        if known is None:
            return None
        examples, prompts = self.card.examples, self.comparison.frontier.spread(CALIBRATED)
        scores = known.of(prompts)
        values, spread = scores["value"].to_list(), examples.deviation
        z = [(v - examples.mean) / spread if spread > 0 else math.nan for v in values]
        columns: dict[str, list[float]] = {
            "value": values,
            "z, random prompts": scores["z_random"].to_list(),
            "z, windows": z,
            "cross-entropy": scores["cross_entropy"].to_list(),
        }
        if known.fluency:
            columns["held-out cross-entropy"] = scores["held_out_cross_entropy"].to_list()
        columns["distinct pairs"] = scores["distinct"].to_list()
        places = {name: decimals(column) for name, column in columns.items()}
        rows = [
            [*(number(column[i], places[name]) for name, column in columns.items()), visible(text, token=False)]
            for i, text in enumerate(scores["text"].to_list())
        ]
        held_out = f" Held-out cross-entropy is that under {known.fluency}." if known.fluency else ""
        note = (
            f"How many standard deviations a dream is above the mean of {len(known.random):,} random prompts and of "
            f"{examples.windows:,} windows. Distinct pairs: the share of different ones among its pairs of "
            f"neighbouring tokens, below 1 where it repeats itself.{held_out}"
        )
        table = html_table([*columns, "text"], rows)
        return Html(f'<p class="dl-note">{escape(note)}</p>{table}')

    def _introduction(self) -> str:
        comparison, scanned = self.comparison, self.comparison.scanned
        tried = "" if comparison.evaluated is None else f" that evaluated {comparison.evaluated:,} prompts"
        return (
            f"{comparison.model}: {plural(len(comparison.frontier), 'dream')}, found by "
            f"{plural(len(comparison.seeds), 'run')}{tried}; {scanned.windows:,} windows of {scanned.length} tokens "
            f"from {plural(scanned.documents, 'document')} of {scanned.corpus}.{self._short()}"
        )

    def _short(self) -> str:
        """Return a sentence on what the page leaves out; "" if that is nothing."""
        if self.detail == DETAILS[0]:
            return ""
        return " The texts are long: the page shows fewer of them, so that it stays small; the card has all."

    def _plane(self) -> str:
        names: dict[object, str] = {**self.dreams, **self.windows}
        note = (
            "Dreams are prompts that the search found; windows are text of the corpus. Points further up drive the "
            "feature more; points further left read more like language. Click a point to go to its prompt."
        )
        left = f"{comparison_svg(self.comparison, names)}{comparison_key(self.comparison)}"
        sentences = (*map(str, self.comparison.statements[1:]), *self.comparison.findings)
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
        return (
            f'<p class="dl-note">{note}</p><div class="dl-two dl-first"><div>{left}</div><div>{self._histogram()}</div>'
            f'</div><ul class="dl-said">{items}</ul>'
        )

    def _histogram(self) -> str:
        examples, number = self.card.examples, self.scale.number
        marks = [Mark(examples.quantile_value(q), percent(q), "q") for q in QUANTILES]
        if self.top:
            marks.append(Mark(self.top[0].value, f"strongest window {number(self.top[0].value)}", "w"))
        if len(self.comparison.frontier):
            best = self.comparison.frontier[-1].value
            marks.append(Mark(best, f"strongest dream {number(best)}", "d"))
        shares = ", ".join(percent(q) for q in sorted(QUANTILES))
        note = (
            f"Number of windows by value, with counts on a logarithmic scale. At or below the dotted lines are "
            f"{shares} of the windows. Mean {number(examples.mean)}, standard deviation {number(examples.deviation)}."
        )
        if examples.non_finite:
            note += f" {examples.non_finite:,} windows had no finite value; they are not counted."
        drawn = histogram_svg(examples.histogram.edges, examples.histogram.counts, marks, "value")
        return f'{drawn}<p class="dl-note">{escape(note)}</p>'

    def _strips(self) -> str:
        frontier, attributions = self.comparison.frontier, self.attributions
        if not len(frontier):
            return "<p>No prompt had finite scores, so there is no frontier.</p>"
        if not attributions:
            prompts = frontier.prompts if self.detail == DETAILS[0] else frontier.spread(CALIBRATED)
            return f"<p>{escape(self.card.unattributed)}</p>{prompt_table(prompts)}"
        names = [self.dreams.get(i, "") for i in range(len(frontier))]
        count = len(attributions)
        few = f"{count} of {len(frontier)}, from fluent to strong. " if count < len(frontier) else ""
        tried = "Each token was replaced by substitutes that the gradient favours."
        scale = StripScale.of(attributions.values())
        note = f'<p class="dl-note">{few}{tried} {scale.legend}</p>'
        written = "The text after “continues” is what the model writes after the dream: its most probable tokens."
        if written := written if self.card.continuations else self.card.not_continued:
            note += f'<p class="dl-note">{escape(written)}</p>'
        sections = (
            strip_section(i, frontier[i], names[i], attributions[i], scale) + self._continuation(i)
            for i in sorted(attributions)
        )
        return note + "".join(sections)

    def _continuation(self, index: int) -> str:
        """Return what the model writes after a dream; "" if it was not asked."""
        continuation = self.card.continuations.get(index)
        return "" if continuation is None else f'<p class="dl-continuation">continues {continuation.html()}</p>'

    def _windows(self) -> str:
        parts = [("strongest", self._cards(self.top))]
        if self.detail.each:
            parts.append(("quantiles", self._by_quantile()))
        if self.fluent:
            note = "The strongest of all windows in each quarter of a nat of cross-entropy"
            note = f'<p class="dl-quiet">{note}{self.fluent_note}.</p>'
            parts.append(("by fluency", note + self._cards(self.fluent)))
        tools = f'<p class="dl-note">{legend(self.scale)}</p>{numbers_switch(self.prefix + "n")}'
        return f"{tools}{tabs(self.prefix + 'r', parts)}"

    def _cards(self, windows: Sequence[Window]) -> str:
        if not windows:
            return '<p class="dl-none">No window had a finite value.</p>'
        named = ((w, self.windows[w]) for w in windows)
        return card_list([window_card(w, name, f"window {i + 1}") for i, (w, name) in enumerate(named)], self.scale)

    def _by_quantile(self) -> str:
        parts = []
        for n, (q, windows) in enumerate(self.quantiles):
            parts.append(f"<h4>{quantile_sentence(q, self.card.examples.quantile_value(q), self.scale)}</h4>")
            shown = [window_card(w, f"{self.prefix}q{n}-{i}", "window") for i, w in enumerate(windows)]
            parts.append(card_list(shown, self.scale))
        return "".join(parts)

    def _settings(self) -> str:
        comparison, header = self.comparison, self.card.examples.header
        corpus = {"corpus": comparison.scanned.corpus, "fingerprint": header.get("corpus", {}).get("fingerprint", "")}
        counts = {name: f"{n:,}" for name, n in self.card.examples.counts.items()}
        renamed = {"tokens": "sampled tokens"}  # "tokens" is also a name among the counts
        settings = {renamed.get(name, name): value for name, value in comparison.scanned.settings.items()}
        problems = {"passed over": header["problem_count"]} if header.get("problem_count") else {}
        duration = {"seconds": f"{header['seconds']:.1f}"} if header.get("seconds") else {}
        groups = {
            "Dreams": comparison.settings,
            "Corpus": {**corpus, **counts, **problems, **settings, **duration},
            "Versions of the scan": comparison.scanned.versions,
        }
        shown = (f"<div><h3>{name}</h3>{settings_list(group)}</div>" for name, group in groups.items() if group)
        return f'<div class="dl-groups">{"".join(shown)}</div>'


def card_page(card: Card, top: int = 10, static: bool = False) -> str:
    """Return a card as one self-contained page.

    Args:
        card: Card to show.
        top: Number of strongest windows to show.
        static: Whether to leave out the run's panel and its script.
    """
    heading = f"<h1>{_heading(card)}</h1>"

    def page(detail: Detail, panel: str = "") -> str:
        script = f"<script>{copy_script()}copies(document)</script>" if panel and card.code else ""
        code = python_details(card.code, button=bool(panel))
        body = f"{heading}{CardView(card, top, detail=detail).body(panel)}{code}{script}"
        return document(card.title, body, scripts=bool(panel), styles=STYLES)

    def size(text: str) -> int:
        return len(text.encode("utf-8", "replace"))

    has_panel = not static and _has_panel(card)
    plain, detail = "", DETAILS[-1]
    for detail in DETAILS:
        plain = page(detail)
        if size(plain) <= (PAGE - LEAST_PANEL if has_panel else LIMIT):
            break
    if not has_panel:
        return plain
    panel = _panel(card, PAGE - size(plain))
    for less in DETAILS[DETAILS.index(detail) :]:
        text = page(less, panel)
        if size(text) <= LIMIT:
            return text
    return card_page(card, top, static=True)


def spread_over(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` of some items, at even distances, with the first and the last; the last if it is one.

    >>> spread_over("abcdefg", 3), spread_over("abc", 5), spread_over("abc", 1)
    (['a', 'd', 'g'], ['a', 'b', 'c'], ['c'])
    """
    if len(items) <= count:
        return list(items)
    return [items[round(i)] for i in np.linspace(0, len(items) - 1, count)] if count > 1 else list(items[-1:])[:count]


def card_fragment(card: Card) -> str:
    """Return the HTML that a notebook cell shows, without scripts.

    Args:
        card: Card to show.
    """
    body = CardView(card, 8, 3).body("", "h3")
    return fragment(f"<h2>{_heading(card)}</h2>{body}{python_details(card.code)}", *STYLES)


def _heading(card: Card) -> Html:
    """Return the name of the card's feature as HTML, with its full name as a tooltip."""
    return with_tooltip(card.title, feature_names(card.comparison.feature)[1])


def _has_panel(card: Card) -> bool:
    """Return whether there is a panel: not for several runs, nor for a run whose model is not loaded."""
    runs = card.merged.runs
    return len(runs) == 1 and isinstance(runs[0], Dream) and runs[0].has_session


def _panel(card: Card, room: int) -> str:
    """Return the panel of the run, folded away.

    Args:
        card: Card to show.
        room: Characters that are left for it on the page.
    """
    (run,) = card.merged.runs
    assert isinstance(run, Dream)
    _inspect_strips(run, card)
    view = frozen_run(run, weight=max(LEAST_PANEL, room), strips=len(card.attributions))
    summary = "Explore the run: click prompts, substitutes and iterations"
    return f'<details class="dl-explore"><summary>{summary}</summary>{view}</details>'


def _inspect_strips(run: Dream, card: Card) -> None:
    """Inspect the prompts of the strips in one visit to the model thread, before the panel is made."""
    inspector = inspector_of(run)

    def inspect() -> None:
        for i in card.attributions:
            inspector.with_series(np.asarray(card.comparison.frontier[i].ids, dtype=np.int64))

    with contextlib.suppress(DreamyLensError):
        run.ask(inspect).result()

"""Pages and notebook cells of comparisons. Both are readable without scripts; a small script answers clicks."""

from __future__ import annotations

import base64
import gzip
import hashlib
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from dreamy_lens.comparison.content import ComparisonContent
from dreamy_lens.comparison.overlap import MEMORIZED, Overlap
from dreamy_lens.comparison.svg import comparison_key, comparison_svg
from dreamy_lens.features.parser import feature_names
from dreamy_lens.html.cards import TextCard, card_list, tabs
from dreamy_lens.html.escaping import Html, escape, with_tooltip
from dreamy_lens.html.page import copy_script, document, fragment, html_table, python_details
from dreamy_lens.html.svg import Mark, histogram_svg
from dreamy_lens.html.tokens import ValueScale, legend, numbers_switch
from dreamy_lens.html.words import plural
from dreamy_lens.results.prompt import Prompt
from dreamy_lens.results.prompt_table import prompt_text
from dreamy_lens.runs.report import settings_list
from dreamy_lens.scan.feature_windows import FLUENT_STEP
from dreamy_lens.scan.page import percent, quantile_sentence, window_card
from dreamy_lens.scan.window import Window

CELL_LIMIT = 100_000
"""Most characters of a notebook cell. A cell shows fewer dreams and windows if it would be longer."""


class ComparisonView:
    """View of a comparison as HTML.

    Args:
        comparison: Comparison to show.
        top: Number of strongest windows.
        dreams: Most dreams, spread from fluent to strong.
        each: Number of windows of each quantile.
    """

    def __init__(self, comparison: ComparisonContent, top: int = 64, dreams: int = 64, each: int = 8) -> None:
        self.comparison = comparison
        identity = f"{comparison.feature}{comparison.model}{comparison.summary}{len(comparison.frontier)}{top}{dreams}"
        self.prefix = "c" + hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest()[:7]
        spread = set(comparison.frontier.spread(dreams))
        self.dreams = [i for i, prompt in enumerate(comparison.frontier) if prompt in spread]
        self.top = comparison.top[:top]
        strong = {w.number for w in self.top}
        self.fluent = [w for w in comparison.fluent if w.number not in strong]
        self.quantiles = [(q, windows[:each]) for q, windows in comparison.quantiles]
        self.shown = shown = [*self.top, *self.fluent, *(w for _, group in self.quantiles for w in group)]
        values: list[float] = [comparison.frontier[i].value for i in self.dreams] + [w.value for w in shown]
        values += [float(v) for i in self.dreams for v in self._series(comparison.frontier[i])]
        values += [float(v) for w in shown for v in self._series(w)]
        self.scale = ValueScale.of(values)
        self.names: dict[object, str] = {i: f"{self.prefix}d{i + 1}" for i in self.dreams}
        self.names |= {w: f"{self.prefix}t{i + 1}" for i, w in enumerate(self.top)}
        self.names |= {w: f"{self.prefix}f{i + 1}" for i, w in enumerate(self.fluent)}

    def body(self) -> str:
        """Return the whole view, without the page around it."""
        comparison, prefix = self.comparison, self.prefix
        parts = [
            ("strongest", self._strongest()),
            ("by fluency", self._by_fluency()),
            ("quantiles", self._quantiles()),
            ("how far from the data", self._distances()),
        ]
        warnings = "".join(f'<p class="dl-warn">{escape(w)}</p>' for w in comparison.warnings)
        others = [str(s) for s in comparison.statements if s is not comparison.headline]
        sentences = "".join(f"<li>{escape(s)}</li>" for s in (*others, *comparison.findings))
        return (
            f'<div class="dl-sides" id="{prefix}"><p class="dl-lead">{escape(comparison.sentence)}</p>'
            f'<p class="dl-quiet">{escape(self._introduction())}</p>{warnings}'
            f'<div class="dl-two dl-first"><div>{comparison_svg(comparison, self.names)}{comparison_key(comparison)}'
            f'<ul class="dl-said">{sentences}</ul></div>'
            f"<div>{self._picked()}{self._histogram()}</div></div>"
            f"{self._legend()}{tabs(prefix + 'r', parts)}</div>"
        )

    def inline_html(self) -> str:
        """Return sentences and a few cards with inline styles only, for viewers that remove styles and scripts."""
        comparison = self.comparison
        sentences = "".join(f"<li>{escape(s)}</li>" for s in comparison.summary.split("\n"))
        dreams = [self._dream(i, "") for i in reversed(self.dreams)][:6]
        groups = [("dreams, strongest first", dreams)]
        groups.append(
            ("strongest windows", [self._window(w, "", f"window {i + 1}") for i, w in enumerate(self.top[:6])])
        )
        for q, windows in self.quantiles:
            groups.append(
                (f"windows near the {percent(q)} quantile", [self._window(w, "", "window") for w in windows[:3]])
            )
        details = "".join(
            f"<details{' open' if i < 2 else ''}><summary>{escape(label)}</summary>"
            f"{''.join(card.inline_html(self.scale) for card in cards)}</details>"
            for i, (label, cards) in enumerate(groups)
        )
        title = comparison_heading(comparison)
        return f"<div><b>{title}</b></div><ul>{sentences}</ul>{details}"

    # Parts of the view.

    def _legend(self) -> str:
        """Return the legend of the colours, if any token is coloured, with a checkbox that shows values as numbers."""
        dreams = any(self._series(self.comparison.frontier[i]) for i in self.dreams)
        windows = any(self._series(w) for w in self.shown)
        notes = [str(legend(self.scale))] if dreams or windows else []
        switch = numbers_switch(self.prefix + "n") if notes else ""
        if self.dreams and not dreams:
            advice = "compare(..., values=True) loads the model and computes them"
            notes[:0] = ['<span class="dl-legend">Windows only:</span>'] if notes else []
            notes.append(f'<span class="dl-legend">Values at the tokens of dreams are unknown; {advice}.</span>')
        return f'<p class="dl-note">{" ".join(notes)}</p>{switch}' if notes else ""

    def _introduction(self) -> str:
        """Return a sentence about the runs and the scan."""
        comparison, scanned = self.comparison, self.comparison.scanned
        seeds = [s for s in comparison.seeds if s is not None]
        runs = f"{plural(len(comparison.seeds), 'run')}" + (
            f" (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})" if seeds else ""
        )
        evaluated = "" if comparison.evaluated is None else f" that evaluated {comparison.evaluated:,} prompts"
        kept = "the cross-entropy of all windows was measured"
        kept = kept if scanned.measured else f"the {len(comparison.top)} strongest windows were kept"
        return (
            f"{comparison.model}: {plural(len(comparison.frontier), 'dream')} of {runs}{evaluated}, against "
            f"{scanned.windows:,} windows of {scanned.length} tokens ({scanned.extent}) from "
            f"{scanned.documents:,} documents of {scanned.corpus}; {kept}."
        )

    def _picked(self) -> str:
        """Return the box beside the drawing with the strongest dream and window, which clicks replace."""
        cards = [self._dream(self.dreams[-1], "")] if self.dreams else []
        cards += [self._window(self.top[0], "", "window 1")] if self.top else []
        hint = "The strongest dream and the strongest window; choose a point to see others."
        return f'<div class="dl-picked"><p class="dl-quiet">{hint}</p>{card_list(cards, self.scale)}</div>'

    def _histogram(self) -> str:
        """Return the histogram of all windows, with the strongest dream, the strongest window and the quantiles."""
        comparison, number = self.comparison, self.scale.number
        quantiles = zip(comparison.quantiles, comparison.quantile_values, strict=True)
        marks = [Mark(value, percent(q), "q") for (q, _), value in quantiles]
        for best, noun in ((comparison.top[:1], "window"), (comparison.frontier[-1:], "dream")):
            marks += [Mark(entry.value, f"strongest {noun} {number(entry.value)}", noun[0]) for entry in best]
        edges, counts = comparison.histogram.edges, comparison.histogram.counts
        return histogram_svg(edges, counts, marks, "value (windows, log scale)")

    def _strongest(self) -> str:
        """Return the tab with the strongest dreams and windows."""
        dreams = [self._dream(i) for i in reversed(self.dreams)]
        windows = [self._window(w, self.names[w], f"window {i + 1}") for i, w in enumerate(self.top)]
        return self._columns("Dreams", dreams, "Windows of the corpus", windows)

    def _by_fluency(self) -> str:
        """Return the tab with dreams and windows of equal fluency beside each other."""
        measured = self.comparison.scanned.measured
        step = FLUENT_STEP if measured else 2 * FLUENT_STEP
        rows: dict[int, tuple[list[int], list[Window]]] = {}
        for i in self.dreams:
            rows.setdefault(int(self.comparison.frontier[i].cross_entropy // step), ([], []))[0].append(i)
        for w in (*self.fluent, *self.top):
            if w.cross_entropy is not None and math.isfinite(w.cross_entropy):
                rows.setdefault(int(w.cross_entropy // step), ([], []))[1].append(w)
        windows = "of all windows" if measured else f"of the {len(self.comparison.top)} kept windows"
        pairs = [(rank, self._pair(rank, step, *rows[rank])) for rank in sorted(rows)]
        first = min((rank for rank, (dreams, _) in rows.items() if dreams), default=0)
        before, rest = ("".join(pair for rank, pair in pairs if (rank < first) is early) for early in (True, False))
        if before:
            count = plural(sum(rank < first for rank, _ in pairs), "step")
            before = f"<details><summary>{count} more fluent than any dream</summary>{before}</details>"
        note = f"The strongest dream, and the strongest {windows}, of each step of cross-entropy."
        return f'<p class="dl-quiet">{note}</p>{before}{rest}'

    def _pair(self, rank: int, step: float, dreams: list[int], windows: list[Window]) -> str:
        """Return the strongest dream and the strongest window of one step of cross-entropy.

        Args:
            rank: Number of the step.
            step: Width of a step in nats per token.
            dreams: Indices of the dreams in this step.
            windows: Windows in this step.
        """
        left: str = '<p class="dl-none">no dream in this step</p>'
        if dreams:
            best = max(dreams, key=lambda i: self.comparison.frontier[i].value)
            left = self._dream(best, f"{self.prefix}b{rank}").html(self.scale)
        kept = "" if self.comparison.scanned.measured else "kept "
        right: str = f'<p class="dl-none">no {kept}window in this step</p>'
        if windows:
            w = max(windows, key=lambda w: w.value)
            name = self.names[w] if w in self.fluent else f"{self.prefix}g{rank}"
            right = self._window(w, name, "window").html(self.scale)
        head = f"<h4>cross-entropy {rank * step:g} to {(rank + 1) * step:g}</h4>"
        return f'<div class="dl-pair">{head}<div class="dl-two"><div>{left}</div><div>{right}</div></div></div>'

    def _quantiles(self) -> str:
        """Return the tab with dreams, and windows near the quantiles of all windows."""
        comparison, parts = self.comparison, []
        for k, ((q, windows), value) in enumerate(zip(self.quantiles, comparison.quantile_values, strict=True)):
            parts.append(f"<h4>{quantile_sentence(q, value, self.scale)}</h4>")
            shown = [self._window(w, f"{self.prefix}q{k}-{i}", "window") for i, w in enumerate(windows)]
            parts.append(card_list(shown, self.scale))
        dreams = [self._dream(i, f"{self.prefix}p{i}") for i in reversed(self.dreams)]
        note = f"Windows near the quantiles of all {comparison.scanned.windows:,} windows."
        right = f'<p class="dl-quiet">{note}</p><div class="dl-scroll">{"".join(parts)}</div>'
        left = f'<p class="dl-quiet">Strongest first.</p><div class="dl-scroll">{card_list(dreams, self.scale)}</div>'
        sides = f"<div><h3>Dreams</h3>{left}</div><div><h3>Windows of the corpus</h3>{right}</div>"
        return f'<div class="dl-two">{sides}</div>'

    def _distances(self) -> str:
        """Return the tab with the overlap of each dream with the corpus."""
        searched = any(o.corpus is not None for o in self.comparison.overlaps)
        where = "the whole corpus" if searched else "the kept windows and their context"
        note = (
            f"For each dream: the longest span of its tokens that appears in {where}, and the nearest window, the kept "
            "window with the fewest tokens to change."
        )
        rows = []
        for i in reversed(self.dreams):
            prompt, overlap = self.comparison.frontier[i], self.comparison.overlaps[i]
            edits = "-" if overlap.nearest is None else str(overlap.nearest.distance)
            span = f"{overlap.longest.length} of {overlap.longest.total}"
            texts = Html(_overlap_text(prompt, overlap))
            rows.append([str(i + 1), self.scale.number(prompt.value), span, edits, texts])
        heads = ["dream", "value", "in a row", "edits", "text, longest span, nearest window"]
        return f'<p class="dl-quiet">{escape(note)}</p>{html_table(heads, rows)}'

    def _columns(self, left: str, first: Sequence[TextCard], right: str, second: Sequence[TextCard]) -> str:
        """Return two columns of cards, each with a title."""
        sides = []
        for title, cards in ((left, first), (right, second)):
            body = card_list(cards, self.scale) or '<p class="dl-none">none</p>'
            sides.append(f'<div><h3>{title}</h3><div class="dl-scroll">{body}</div></div>')
        return f'<div class="dl-two">{"".join(sides)}</div>'

    def _dream(self, i: int, name: str | None = None) -> TextCard:
        """Return the card of a dream; `name` replaces the id of its element."""
        prompt, comparison = self.comparison.frontier[i], self.comparison
        origin = prompt.provenance
        where = "" if origin.seed is None or len(comparison.seeds) < 2 else f"seed {origin.seed}"
        shared = comparison.overlaps[i].longest
        beyond = ("beyond the corpus", "no window that is at least as fluent is as strong")
        return TextCard(
            name=self.names.get(i, "") if name is None else name,
            side="dream",
            label=f"dream {i + 1}",
            tokens=prompt.tokens,
            series=comparison.series.get(prompt.ids),
            value=prompt.value,
            cross_entropy=prompt.cross_entropy,
            where=where,
            note=str(shared) if shared.share >= MEMORIZED else "",
            tag=beyond if comparison.beyond[i] else None,
        )

    def _window(self, window: Window, name: str, label: str) -> TextCard:
        """Return the card of a window."""
        return window_card(window, name, label, self.comparison.series.get(window.ids))

    def _series(self, entry: Prompt | Window) -> list[float]:
        """Return the values at the tokens of a prompt or a window; empty if they are unknown."""
        own = getattr(entry, "values", None)
        values = self.comparison.series.get(entry.ids) if own is None else own
        return [] if values is None else values.tolist()


def comparison_heading(comparison: ComparisonContent) -> Html:
    """Return the heading of a comparison as HTML, with the full name of the feature as a tooltip."""
    title = with_tooltip(comparison.title, feature_names(comparison.feature)[1])
    return Html(f"{title}: dreams against {escape(comparison.scanned.corpus)}")


def comparison_page(comparison: ComparisonContent, top: int = 64, dreams: int = 64) -> str:
    """Return a comparison as one self-contained page.

    Args:
        comparison: Comparison to show.
        top: Number of strongest windows.
        dreams: Most dreams, spread from fluent to strong.
    """
    view = ComparisonView(comparison, top, dreams)
    title = f"{comparison.title}: dreams against {comparison.scanned.corpus}"
    scan_settings = {f"scan: {name}": value for name, value in comparison.scanned.settings.items()}
    versions = {f"scan: {name}": value for name, value in comparison.scanned.versions.items()}
    settings = settings_list({**comparison.settings, **scan_settings, **versions})
    script = f"<script>{_script()}follow(document.getElementById('{view.prefix}'));copies(document)</script>"
    code = python_details(comparison.code, button=True)
    body = f"<h1>{comparison_heading(comparison)}</h1>{view.body()}<h2>Settings</h2>{settings}{code}{script}"
    return document(title, body, scripts=True, styles=["tokens.css"])


def comparison_fragment(comparison: ComparisonContent) -> str:
    """Return the HTML of a notebook cell: text that is readable without scripts, and a script that shows the view."""
    cell, code = "", python_details(comparison.code, button=True)
    for top, dreams, each in ((24, 32, 6), (12, 16, 4), (6, 8, 3)):
        view = ComparisonView(comparison, top, dreams, each)
        content = fragment(f"<h3>{comparison_heading(comparison)}</h3>{view.body()}{code}", "tokens.css")
        data = base64.b64encode(gzip.compress(content.encode("utf-8", "replace"), 9, mtime=0)).decode("ascii")
        script = _script() + _SHOW % {"id": view.prefix, "data": data}
        static = view.inline_html().encode("ascii", "xmlcharrefreplace").decode("ascii")
        cell = f'<div data-dreamy="{view.prefix}">{static}</div><script type="module">{script}</script>'
        if len(cell) <= CELL_LIMIT:
            break
    return cell


_SHOW = """
const taken = (globalThis.dreamy_lens_drawn ??= new WeakSet());
const place = [...document.querySelectorAll('[data-dreamy="%(id)s"]')].find((element) => !taken.has(element));
taken.add(place);
const bytes = Uint8Array.from(atob("%(data)s"), (c) => c.charCodeAt(0));
const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
const parsed = new DOMParser().parseFromString(await new Response(stream).text(), "text/html");
place.replaceChildren(...parsed.body.childNodes);
follow(place);
copies(place);
"""
"""Script that shows the packed view. A page may have several copies of a view, so it takes the first free place."""


@cache
def _script() -> str:
    """Return the script of views, without comments."""
    lines = (Path(__file__).parent / "view.js").read_text(encoding="utf-8").splitlines()
    own = "".join(f"{line.strip()}\n" for line in lines if line.strip() and not line.strip().startswith("//"))
    return own + copy_script()


def _overlap_text(prompt: Prompt, overlap: Overlap) -> str:
    """Return a dream, its longest shared span and its nearest window as HTML."""
    span, parts = overlap.longest, [str(prompt_text(prompt.text))]
    if span.length:
        times = "" if span.places is None or span.places < 2 else f", and in {span.places - 1:,} more places"
        parts.append(f'<span class="dl-quiet">span <q>{escape(span.text)}</q> in {escape(span.document)}{times}</span>')
    if overlap.nearest is not None:
        near = overlap.nearest.window
        parts.append(f'<span class="dl-quiet">nearest <q>{escape(near.text)}</q> in {escape(near.document)}</span>')
    return "<br>".join(parts)

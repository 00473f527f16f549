"""A comparison as one page, and as what a notebook shows. Both read without scripts; a small one answers clicks."""

from __future__ import annotations

import base64
import gzip
import hashlib
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from dreamy_lens.comparison.content import ComparisonContent
from dreamy_lens.comparison.overlap import REMEMBERED, Overlap
from dreamy_lens.comparison.svg import comparison_key, comparison_svg
from dreamy_lens.html.cards import TextCard, card_list, tabs
from dreamy_lens.html.escaping import Html, escape
from dreamy_lens.html.page import document, fragment, table
from dreamy_lens.html.svg import Mark, histogram_svg
from dreamy_lens.html.tokens import ValueScale, legend, numbers_switch
from dreamy_lens.html.words import plural
from dreamy_lens.results.prompt import Prompt
from dreamy_lens.results.prompt_table import prompt_text
from dreamy_lens.runs.report import settings_list
from dreamy_lens.scan.feature_windows import FLUENT_STEP
from dreamy_lens.scan.page import percent, quantile_sentence, window_card
from dreamy_lens.scan.window import Window

WEIGHT = 100_000
"""Characters that a notebook's cell has at most, if leaving things out can do it."""


class ComparisonView:
    """A comparison as HTML.

    Args:
        comparison: the comparison.
        top: how many of the strongest windows are shown.
        dreams: how many dreams are shown, spread from fluent to strong.
        each: how many windows of each quantile are shown.
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
        self.shown = shown = [*self.top, *self.fluent, *(w for _, some in self.quantiles for w in some)]
        numbers: list[float] = [comparison.frontier[i].value for i in self.dreams] + [w.value for w in shown]
        numbers += [float(v) for i in self.dreams for v in self._series(comparison.frontier[i])]
        numbers += [float(v) for w in shown for v in self._series(w)]
        self.scale = ValueScale.of(numbers)
        self.names: dict[object, str] = {i: f"{self.prefix}d{i + 1}" for i in self.dreams}
        self.names |= {w: f"{self.prefix}t{i + 1}" for i, w in enumerate(self.top)}
        self.names |= {w: f"{self.prefix}f{i + 1}" for i, w in enumerate(self.fluent)}

    def body(self) -> str:
        """Return the whole comparison, without the page around it."""
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
            f"{self._tools()}{tabs(prefix + 'r', parts)}</div>"
        )

    def inert(self) -> str:
        """Return sentences and a few cards for readers that let neither scripts nor style sheets through."""
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
            f"{''.join(card.inert(self.scale) for card in some)}</details>"
            for i, (label, some) in enumerate(groups)
        )
        title = f"{escape(comparison.title)}: dreams against {escape(comparison.scanned.corpus)}"
        return f"<div><b>{title}</b></div><ul>{sentences}</ul>{details}"

    # Parts of it.

    def _tools(self) -> str:
        """Say what colours mean, if anything is coloured, with the box that has values written out."""
        dreams = any(self._series(self.comparison.frontier[i]) for i in self.dreams)
        windows = any(self._series(w) for w in self.shown)
        notes = [str(legend(self.scale))] if dreams or windows else []
        switch = numbers_switch(self.prefix + "n") if notes else ""
        if self.dreams and not dreams:
            how = "compare(..., values=True) loads the model and works them out"
            notes[:0] = ['<span class="dl-legend">Of windows, the</span>'] if notes else []
            notes.append(f'<span class="dl-legend">Values at the tokens of dreams are not known here: {how}.</span>')
        return f'<p class="dl-note">{" ".join(notes)}</p>{switch}' if notes else ""

    def _introduction(self) -> str:
        comparison, scanned = self.comparison, self.comparison.scanned
        seeds = [s for s in comparison.seeds if s is not None]
        runs = f"{plural(len(comparison.seeds), 'run')}" + (
            f" (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})" if seeds else ""
        )
        tried = "" if comparison.evaluated is None else f" that evaluated {comparison.evaluated:,} prompts"
        kept = "the cross-entropy of all was measured"
        kept = kept if scanned.measured else f"the {len(comparison.top)} strongest were kept"
        return (
            f"{comparison.model}: {plural(len(comparison.frontier), 'dream')} of {runs}{tried}, against "
            f"{scanned.windows:,} windows of {scanned.length} tokens ({scanned.extent}) from "
            f"{scanned.documents:,} documents of {scanned.corpus}; {kept}."
        )

    def _picked(self) -> str:
        best = [self._dream(self.dreams[-1], "")] if self.dreams else []
        best += [self._window(self.top[0], "", "window 1")] if self.top else []
        hint = "The strongest of both; choose a point to see another."
        return f'<div class="dl-picked"><p class="dl-quiet">{hint}</p>{card_list(best, self.scale)}</div>'

    def _histogram(self) -> str:
        comparison, number = self.comparison, self.scale.number
        quantiles = zip(comparison.quantiles, comparison.quantile_values, strict=True)
        marks = [Mark(value, percent(q), "q") for (q, _), value in quantiles]
        for best, noun in ((comparison.top[:1], "window"), (comparison.frontier[-1:], "dream")):
            marks += [Mark(text.value, f"strongest {noun} {number(text.value)}", noun[0]) for text in best]
        edges, counts = comparison.histogram.edges, comparison.histogram.counts
        return histogram_svg(edges, counts, marks, "value (windows, log scale)")

    def _strongest(self) -> str:
        dreams = [self._dream(i) for i in reversed(self.dreams)]
        windows = [self._window(w, self.names[w], f"window {i + 1}") for i, w in enumerate(self.top)]
        return self._two("Dreams", dreams, "Windows of the corpus", windows)

    def _by_fluency(self) -> str:
        """Return dreams and windows of the same fluency beside each other."""
        measured = self.comparison.scanned.measured
        step = FLUENT_STEP if measured else 2 * FLUENT_STEP
        rows: dict[int, tuple[list[int], list[Window]]] = {}
        for i in self.dreams:
            rows.setdefault(int(self.comparison.frontier[i].cross_entropy // step), ([], []))[0].append(i)
        for w in (*self.fluent, *self.top):
            if w.cross_entropy is not None and math.isfinite(w.cross_entropy):
                rows.setdefault(int(w.cross_entropy // step), ([], []))[1].append(w)
        whose = "of all windows" if measured else f"of the {len(self.comparison.top)} kept windows"
        drawn = [(rank, self._pair(rank, step, *rows[rank])) for rank in sorted(rows)]
        first = min((rank for rank, (dreams, _) in rows.items() if dreams), default=0)
        before, rest = ("".join(pair for rank, pair in drawn if (rank < first) is early) for early in (True, False))
        if before:
            count = plural(sum(rank < first for rank, _ in drawn), "step")
            before = f"<details><summary>{count} more fluent than any dream</summary>{before}</details>"
        note = f'<p class="dl-quiet">The strongest dream and the strongest {whose} of each step of cross-entropy.</p>'
        return note + before + rest

    def _pair(self, rank: int, step: float, dreams: list[int], windows: list[Window]) -> str:
        """Return the strongest dream and the strongest window of one step."""
        left: str = '<p class="dl-none">no dream is here</p>'
        if dreams:
            best = max(dreams, key=lambda i: self.comparison.frontier[i].value)
            left = self._dream(best, f"{self.prefix}b{rank}").html(self.scale)
        kept = "" if self.comparison.scanned.measured else "that was kept "
        right: str = f'<p class="dl-none">no window {kept}is here</p>'
        if windows:
            w = max(windows, key=lambda w: w.value)
            name = self.names[w] if w in self.fluent else f"{self.prefix}g{rank}"
            right = self._window(w, name, "window").html(self.scale)
        head = f"<h4>cross-entropy {rank * step:g} to {(rank + 1) * step:g}</h4>"
        return f'<div class="dl-pair">{head}<div class="dl-two"><div>{left}</div><div>{right}</div></div></div>'

    def _quantiles(self) -> str:
        comparison, parts = self.comparison, []
        for k, ((q, windows), value) in enumerate(zip(self.quantiles, comparison.quantile_values, strict=True)):
            parts.append(f"<h4>{quantile_sentence(q, value, self.scale)}</h4>")
            shown = [self._window(w, f"{self.prefix}q{k}-{i}", "window") for i, w in enumerate(windows)]
            parts.append(card_list(shown, self.scale))
        dreams = [self._dream(i, f"{self.prefix}p{i}") for i in reversed(self.dreams)]
        note = f"Windows about as strong as a share of all {comparison.scanned.windows:,} is weaker than."
        right = f'<p class="dl-quiet">{note}</p><div class="dl-scroll">{"".join(parts)}</div>'
        left = f'<p class="dl-quiet">Strongest first.</p><div class="dl-scroll">{card_list(dreams, self.scale)}</div>'
        sides = f"<div><h3>Dreams</h3>{left}</div><div><h3>Windows of the corpus</h3>{right}</div>"
        return f'<div class="dl-two">{sides}</div>'

    def _distances(self) -> str:
        whole = any(o.corpus is not None for o in self.comparison.overlaps)
        where = "the whole corpus" if whole else "the windows that were kept and what surrounds them"
        note = (
            f"For each dream the longest run of its tokens that stands in {where}, and of the kept windows the one "
            "with the fewest tokens to change."
        )
        rows = []
        for i in reversed(self.dreams):
            prompt, overlap = self.comparison.frontier[i], self.comparison.overlaps[i]
            edits = "-" if overlap.nearest is None else str(overlap.nearest.distance)
            run = f"{overlap.most.length} of {overlap.most.of}"
            rows.append([str(i + 1), self.scale.number(prompt.value), run, edits, Html(_overlap_text(prompt, overlap))])
        heads = ["dream", "value", "in a row", "edits", "text, longest run, nearest window"]
        return f'<p class="dl-quiet">{escape(note)}</p>{table(heads, rows)}'

    def _two(self, left: str, first: Sequence[TextCard], right: str, second: Sequence[TextCard]) -> str:
        sides = []
        for title, some in ((left, first), (right, second)):
            body = card_list(some, self.scale) or '<p class="dl-none">none</p>'
            sides.append(f'<div><h3>{title}</h3><div class="dl-scroll">{body}</div></div>')
        return f'<div class="dl-two">{"".join(sides)}</div>'

    def _dream(self, i: int, name: str | None = None) -> TextCard:
        prompt, comparison = self.comparison.frontier[i], self.comparison
        origin = prompt.provenance
        where = "" if origin.seed is None or len(comparison.seeds) < 2 else f"seed {origin.seed}"
        most = comparison.overlaps[i].most
        tag = ("beyond the corpus", "no window at least as fluent is as strong") if comparison.beyond[i] else None
        return TextCard(
            name=self.names.get(i, "") if name is None else name,
            side="dream",
            label=f"dream {i + 1}",
            tokens=prompt.tokens,
            series=comparison.series.get(prompt.ids),
            value=prompt.value,
            cross_entropy=prompt.cross_entropy,
            where=where,
            note=str(most) if most.share >= REMEMBERED else "",
            tag=tag,
        )

    def _window(self, window: Window, name: str, label: str) -> TextCard:
        return window_card(window, name, label, self.comparison.series.get(window.ids))

    def _series(self, text: Prompt | Window) -> list[float]:
        own = getattr(text, "values", None)
        values = self.comparison.series.get(text.ids) if own is None else own
        return [] if values is None else values.tolist()


def comparison_page(comparison: ComparisonContent, top: int = 64, dreams: int = 64) -> str:
    """Return a comparison as one self-contained page.

    Args:
        comparison: the comparison.
        top: how many of the strongest windows are shown.
        dreams: how many dreams are shown, spread from fluent to strong.
    """
    view = ComparisonView(comparison, top, dreams)
    title = f"{comparison.title}: dreams against {comparison.scanned.corpus}"
    scanned = {f"scan: {name}": value for name, value in comparison.scanned.settings.items()}
    made = {f"scan: {name}": value for name, value in comparison.scanned.versions.items()}
    settings = settings_list({**comparison.settings, **scanned, **made})
    script = f"<script>{_script()}follow(document.getElementById('{view.prefix}'))</script>"
    body = f"<h1>{escape(title)}</h1>{view.body()}<h2>Settings</h2>{settings}{script}"
    return document(title, body, scripts=True, styles=["tokens.css"])


def comparison_fragment(comparison: ComparisonContent) -> str:
    """Return what a notebook's cell shows: a piece that reads without scripts, which a script replaces by the view."""
    cell = ""
    for top, dreams, each in ((24, 32, 6), (12, 16, 4), (6, 8, 3)):
        view = ComparisonView(comparison, top, dreams, each)
        title = escape(f"{comparison.title}: dreams against {comparison.scanned.corpus}")
        whole = fragment(f"<h3>{title}</h3>{view.body()}", "tokens.css")
        data = base64.b64encode(gzip.compress(whole.encode("utf-8", "replace"), 9, mtime=0)).decode("ascii")
        script = _script() + _SHOW % {"id": view.prefix, "data": data}
        still = view.inert().encode("ascii", "xmlcharrefreplace").decode("ascii")
        cell = f'<div data-dreamy="{view.prefix}">{still}</div><script type="module">{script}</script>'
        if len(cell) <= WEIGHT:
            break
    return cell


_SHOW = """
const taken = (globalThis.dreamy_lens_drawn ??= new WeakSet());
const place = [...document.querySelectorAll('[data-dreamy="%(id)s"]')].find((one) => !taken.has(one));
taken.add(place);
const bytes = Uint8Array.from(atob("%(data)s"), (c) => c.charCodeAt(0));
const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
const parsed = new DOMParser().parseFromString(await new Response(stream).text(), "text/html");
place.replaceChildren(...parsed.body.childNodes);
follow(place);
"""
"""A page may hold the same view several times, so each script takes the first place that no other has taken."""


@cache
def _script() -> str:
    """Return the script of the view, without its comments."""
    lines = (Path(__file__).parent / "view.js").read_text(encoding="utf-8").splitlines()
    return "".join(f"{line.strip()}\n" for line in lines if line.strip() and not line.strip().startswith("//"))


def _overlap_text(prompt: Prompt, overlap: Overlap) -> str:
    most, parts = overlap.most, [str(prompt_text(prompt.text))]
    if most.length:
        times = "" if most.places is None or most.places < 2 else f", and in {most.places - 1:,} more places"
        parts.append(f'<span class="dl-quiet">run <q>{escape(most.text)}</q> in {escape(most.document)}{times}</span>')
    if overlap.nearest is not None:
        near = overlap.nearest.window
        parts.append(f'<span class="dl-quiet">nearest <q>{escape(near.text)}</q> in {escape(near.document)}</span>')
    return "<br>".join(parts)

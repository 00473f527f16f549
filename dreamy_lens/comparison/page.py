"""A comparison as one page, and as what a notebook shows. Both read without scripts; a small one answers clicks."""

from __future__ import annotations

import base64
import gzip
import hashlib
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dreamy_lens.comparison.corpus_frontier import STEP
from dreamy_lens.comparison.overlap import REMEMBERED
from dreamy_lens.comparison.svg import key, plane_svg
from dreamy_lens.html import page as markup
from dreamy_lens.html.cards import TextCard, cards, tabs
from dreamy_lens.html.histogram import Mark, histogram_svg
from dreamy_lens.html.page import Html, escape
from dreamy_lens.html.tokens import ValueScale, legend, numbers_switch
from dreamy_lens.html.words import plural
from dreamy_lens.results.prompt import Prompt
from dreamy_lens.runs import report
from dreamy_lens.scan.page import at_or_below, percent, window_card
from dreamy_lens.scan.window import Window

if TYPE_CHECKING:
    from dreamy_lens.comparison.comparison import Comparison
    from dreamy_lens.comparison.overlap import Overlap

WEIGHT = 100_000
"""Characters that a notebook's cell has at most, if leaving things out can do it."""


class ComparisonView:
    """A comparison as HTML.

    Args:
        comparison: what is shown.
        top: how many of the strongest windows.
        dreams: how many dreams, spread from fluent to strong.
        each: how many windows of each quantile.
    """

    def __init__(self, comparison: Comparison, top: int = 64, dreams: int = 64, each: int = 8) -> None:
        self.of = of = comparison
        said = f"{of.feature}{of.model}{of.summary}{len(of.frontier)}{top}{dreams}"
        self.prefix = "c" + hashlib.sha256(said.encode("utf-8", "replace")).hexdigest()[:7]
        spread = set(of.frontier.spread(dreams))
        self.dreams = [i for i, prompt in enumerate(of.frontier) if prompt in spread]
        self.top = of.top[:top]
        strong = {w.number for w in self.top}
        self.fluent = [w for w in of.fluent if w.number not in strong]
        self.quantiles = [(q, windows[:each]) for q, windows in of.quantiles]
        self.shown = shown = [*self.top, *self.fluent, *(w for _, some in self.quantiles for w in some)]
        numbers: list[float] = [of.frontier[i].value for i in self.dreams] + [w.value for w in shown]
        numbers += [float(v) for i in self.dreams for v in self._series(of.frontier[i])]
        numbers += [float(v) for w in shown for v in self._series(w)]
        self.scale = ValueScale.of(numbers)
        self.names: dict[object, str] = {i: f"{self.prefix}d{i + 1}" for i in self.dreams}
        self.names |= {w: f"{self.prefix}t{i + 1}" for i, w in enumerate(self.top)}
        self.names |= {w: f"{self.prefix}f{i + 1}" for i, w in enumerate(self.fluent)}

    def body(self, heading: str = "h2") -> str:
        """Everything, without the page around it."""
        of, prefix = self.of, self.prefix
        parts = [
            ("strongest", self._strongest()),
            ("by fluency", self._by_fluency()),
            ("quantiles", self._quantiles()),
            ("how far from the data", self._distances()),
        ]
        warnings = "".join(f'<p class="dl-warn">{escape(w)}</p>' for w in of.warnings)
        said = "".join(
            f"<li>{escape(s)}</li>" for s in (*(str(s) for s in of.statements if s is not of.headline), *of.findings)
        )
        return (
            f'<div class="dl-sides" id="{prefix}"><p class="dl-lead">{escape(of.sentence)}</p>'
            f'<p class="dl-quiet">{escape(self._introduction())}</p>{warnings}'
            f'<div class="dl-two dl-first"><div>{plane_svg(of, self.names)}{key(of)}'
            f'<ul class="dl-said">{said}</ul></div>'
            f"<div>{self._picked()}{self._histogram()}</div></div>"
            f"{self._tools()}{tabs(prefix + 'r', parts)}</div>"
        )

    def inert(self) -> str:
        """The sentences and some of each for readers that let neither scripts nor style sheets through."""
        of = self.of
        said = "".join(f"<li>{escape(s)}</li>" for s in of.summary.split("\n"))
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
        return (
            f"<div><b>{escape(of.title)}: dreams against {escape(of.scanned.corpus)}</b></div><ul>{said}</ul>{details}"
        )

    # Parts of it.

    def _tools(self) -> str:
        """What colours mean, where anything has them, and the box that has values written out."""
        dreams = any(self._series(self.of.frontier[i]) for i in self.dreams)
        windows = any(self._series(w) for w in self.shown)
        told = [str(legend(self.scale))] if dreams or windows else []
        switch = numbers_switch(self.prefix + "n") if told else ""
        if self.dreams and not dreams:
            how = "compare(..., values=True) loads the model and works them out"
            told[:0] = ['<span class="dl-legend">Of windows, the</span>'] if told else []
            told.append(f'<span class="dl-legend">Values at the tokens of dreams are not known here: {how}.</span>')
        return f'<p class="dl-note">{" ".join(told)}</p>{switch}' if told else ""

    def _introduction(self) -> str:
        of, scanned = self.of, self.of.scanned
        seeds = [s for s in of.seeds if s is not None]
        runs = f"{plural(len(of.seeds), 'run')}" + (
            f" (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})" if seeds else ""
        )
        tried = "" if of.evaluated is None else f" that evaluated {of.evaluated:,} prompts"
        kept = "the cross-entropy of all was measured" if scanned.measured else f"the {len(of.top)} strongest were kept"
        return (
            f"{of.model}: {plural(len(of.frontier), 'dream')} of {runs}{tried}, against {scanned.windows:,} windows "
            f"of {scanned.length} tokens ({scanned.extent}) from {scanned.documents:,} documents of {scanned.corpus}; "
            f"{kept}."
        )

    def _picked(self) -> str:
        best = [self._dream(self.dreams[-1], "")] if self.dreams else []
        best += [self._window(self.top[0], "", "window 1")] if self.top else []
        hint = "The strongest of both; choose a point to see another."
        return f'<div class="dl-picked"><p class="dl-quiet">{hint}</p>{cards(best, self.scale)}</div>'

    def _histogram(self) -> str:
        of, number = self.of, self.scale.number
        known = zip(of.quantiles, of.quantile_values, strict=True)
        marks = [Mark(value, percent(q), "q") for (q, _), value in known]
        if of.top:
            marks.append(Mark(of.top[0].value, f"strongest window {number(of.top[0].value)}", "w"))
        if len(of.frontier):
            marks.append(Mark(of.frontier[-1].value, f"strongest dream {number(of.frontier[-1].value)}", "d"))
        return histogram_svg(of.histogram.edges, of.histogram.counts, marks, "value (windows, log scale)")

    def _strongest(self) -> str:
        dreams = [self._dream(i) for i in reversed(self.dreams)]
        windows = [self._window(w, self.names[w], f"window {i + 1}") for i, w in enumerate(self.top)]
        return self._two("Dreams", dreams, "Windows of the corpus", windows)

    def _by_fluency(self) -> str:
        """Dreams and windows of the same fluency beside each other."""
        step = STEP if self.of.scanned.measured else 2 * STEP
        rows: dict[int, tuple[list[int], list[Window]]] = {}
        for i in self.dreams:
            rows.setdefault(int(self.of.frontier[i].cross_entropy // step), ([], []))[0].append(i)
        for w in (*self.fluent, *self.top):
            if w.cross_entropy is not None and math.isfinite(w.cross_entropy):
                rows.setdefault(int(w.cross_entropy // step), ([], []))[1].append(w)
        whose = "of all windows" if self.of.scanned.measured else f"of the {len(self.of.top)} kept windows"
        drawn = [(rank, self._pair(rank, step, *rows[rank])) for rank in sorted(rows)]
        first = min((rank for rank, (dreams, _) in rows.items() if dreams), default=0)
        before, rest = ("".join(pair for rank, pair in drawn if (rank < first) is early) for early in (True, False))
        if before:
            count = plural(sum(rank < first for rank, _ in drawn), "step")
            before = f"<details><summary>{count} more fluent than any dream</summary>{before}</details>"
        note = f'<p class="dl-quiet">The strongest dream and the strongest {whose} of each step of cross-entropy.</p>'
        return note + before + rest

    def _pair(self, rank: int, step: float, dreams: list[int], windows: list[Window]) -> str:
        """The strongest dream and the strongest window of one step."""
        left: str = '<p class="dl-none">no dream is here</p>'
        if dreams:
            best = max(dreams, key=lambda i: self.of.frontier[i].value)
            left = self._dream(best, f"{self.prefix}b{rank}").html(self.scale)
        kept = "" if self.of.scanned.measured else "that was kept "
        right: str = f'<p class="dl-none">no window {kept}is here</p>'
        if windows:
            w = max(windows, key=lambda w: w.value)
            name = self.names[w] if w in self.fluent else f"{self.prefix}g{rank}"
            right = self._window(w, name, "window").html(self.scale)
        head = f"<h4>cross-entropy {rank * step:g} to {(rank + 1) * step:g}</h4>"
        return f'<div class="dl-pair">{head}<div class="dl-two"><div>{left}</div><div>{right}</div></div></div>'

    def _quantiles(self) -> str:
        of, parts = self.of, []
        for k, ((q, windows), value) in enumerate(zip(self.quantiles, of.quantile_values, strict=True)):
            parts.append(f"<h4>{at_or_below(q, value, self.scale)}</h4>")
            parts.append(
                cards([self._window(w, f"{self.prefix}q{k}-{i}", "window") for i, w in enumerate(windows)], self.scale)
            )
        dreams = [self._dream(i, f"{self.prefix}p{i}") for i in reversed(self.dreams)]
        said = f"Windows about as strong as a share of all {of.scanned.windows:,} is weaker than."
        right = f'<p class="dl-quiet">{said}</p><div class="dl-scroll">{"".join(parts)}</div>'
        left = f'<p class="dl-quiet">Strongest first.</p><div class="dl-scroll">{cards(dreams, self.scale)}</div>'
        sides = f"<div><h3>Dreams</h3>{left}</div><div><h3>Windows of the corpus</h3>{right}</div>"
        return f'<div class="dl-two">{sides}</div>'

    def _distances(self) -> str:
        whole = any(o.corpus is not None for o in self.of.overlaps)
        where = "the whole corpus" if whole else "the windows that were kept and what surrounds them"
        note = (
            f"For each dream the longest run of its tokens that stands in {where}, and of the kept windows the one "
            "with the fewest tokens to change."
        )
        rows = []
        for i in reversed(self.dreams):
            prompt, overlap = self.of.frontier[i], self.of.overlaps[i]
            edits = "-" if overlap.nearest is None else str(overlap.nearest.distance)
            run = f"{overlap.most.length} of {overlap.most.of}"
            rows.append([str(i + 1), self.scale.number(prompt.value), run, edits, Html(_told(prompt, overlap))])
        heads = ["dream", "value", "in a row", "edits", "text, longest run, nearest window"]
        return f'<p class="dl-quiet">{escape(note)}</p>{markup.table(heads, rows)}'

    def _two(self, left: str, first: Sequence[TextCard], right: str, second: Sequence[TextCard]) -> str:
        sides = []
        for title, some in ((left, first), (right, second)):
            body = cards(some, self.scale) or '<p class="dl-none">none</p>'
            sides.append(f'<div><h3>{title}</h3><div class="dl-scroll">{body}</div></div>')
        return f'<div class="dl-two">{"".join(sides)}</div>'

    def _dream(self, i: int, name: str | None = None) -> TextCard:
        prompt, of = self.of.frontier[i], self.of
        origin = prompt.provenance
        where = "" if origin.seed is None or len(of.seeds) < 2 else f"seed {origin.seed}"
        most = of.overlaps[i].most
        tag = ("beyond the corpus", "no window at least as fluent is as strong") if of.beyond[i] else None
        return TextCard(
            name=self.names.get(i, "") if name is None else name,
            side="dream",
            label=f"dream {i + 1}",
            tokens=prompt.tokens,
            series=of.series.get(prompt.ids),
            value=prompt.value,
            cross_entropy=prompt.cross_entropy,
            where=where,
            note=str(most) if most.share >= REMEMBERED else "",
            tag=tag,
        )

    def _window(self, window: Window, name: str, label: str) -> TextCard:
        return window_card(window, name, label, self.of.series.get(window.ids))

    def _series(self, one: Prompt | Window) -> list[float]:
        own = getattr(one, "values", None)
        found = self.of.series.get(one.ids) if own is None else own
        return [] if found is None else found.tolist()


def page(comparison: Comparison, top: int = 64, dreams: int = 64) -> str:
    """One self-contained page."""
    view, title = (
        ComparisonView(comparison, top, dreams),
        f"{comparison.title}: dreams against {comparison.scanned.corpus}",
    )
    scanned = {f"scan: {name}": value for name, value in comparison.scanned.settings.items()}
    made = {f"scan: {name}": value for name, value in comparison.scanned.versions.items()}
    settings = report.settings_list({**comparison.settings, **scanned, **made})
    script = f"<script>{_script()}follow(document.getElementById('{view.prefix}'))</script>"
    body = f"<h1>{escape(title)}</h1>{view.body()}<h2>Settings</h2>{settings}{script}"
    return markup.document(title, body, scripts=True, styles=["tokens.css"])


def fragment(comparison: Comparison) -> str:
    """What a notebook's cell shows: a piece that anybody can read, in the place of which scripts put the whole view."""
    found = ""
    for top, dreams, each in ((24, 32, 6), (12, 16, 4), (6, 8, 3)):
        view = ComparisonView(comparison, top, dreams, each)
        title = escape(f"{comparison.title}: dreams against {comparison.scanned.corpus}")
        whole = markup.fragment(f"<h3>{title}</h3>{view.body()}", "tokens.css")
        data = base64.b64encode(gzip.compress(whole.encode("utf-8", "replace"), 9, mtime=0)).decode("ascii")
        script = _script() + _SHOW % {"id": view.prefix, "data": data}
        still = view.inert().encode("ascii", "xmlcharrefreplace").decode("ascii")
        found = f'<div data-dreamy="{view.prefix}">{still}</div><script type="module">{script}</script>'
        if len(found) <= WEIGHT:
            break
    return found


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
    """The script of the view, without its comments."""
    lines = (Path(__file__).parent / "view.js").read_text(encoding="utf-8").splitlines()
    return "".join(f"{line.strip()}\n" for line in lines if line.strip() and not line.strip().startswith("//"))


def _told(prompt: Prompt, overlap: Overlap) -> str:
    most, parts = overlap.most, [str(markup.text(prompt.text))]
    if most.length:
        times = "" if most.places is None or most.places < 2 else f", and in {most.places - 1:,} more places"
        parts.append(f'<span class="dl-quiet">run <q>{escape(most.text)}</q> in {escape(most.document)}{times}</span>')
    if overlap.nearest is not None:
        near = overlap.nearest.window
        parts.append(f'<span class="dl-quiet">nearest <q>{escape(near.text)}</q> in {escape(near.document)}</span>')
    return "<br>".join(parts)

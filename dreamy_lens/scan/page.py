"""One feature's examples as HTML: tabs of the strongest windows, of quantiles, of fluency, and a histogram."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dreamy_lens.html.cards import TextCard, card_list, tabs
from dreamy_lens.html.escaping import escape
from dreamy_lens.html.numbers import decimals, number
from dreamy_lens.html.page import document, fragment
from dreamy_lens.html.svg import Mark, histogram_svg
from dreamy_lens.html.tokens import ValueScale, legend, numbers_switch
from dreamy_lens.scan.feature_windows import FLUENT_STEP, FeatureWindows
from dreamy_lens.scan.window import Window

QUANTILES = (0.999, 0.99, 0.9, 0.5)
"""Shares of the corpus of whose strength windows are shown."""

EACH = 8
"""Windows shown for each quantile."""


def window_card(window: Window, name: str, label: str, series: np.ndarray | None = None) -> TextCard:
    """Return the card of a window, with what surrounds it and where it stands.

    Args:
        window: the window.
        name: the id of the card's element.
        label: what the window is, such as "window 3".
        series: the feature's value if the window ended at each token; None takes the window's own.
    """
    place = f"{window.document}, character {window.character:,}"
    return TextCard(
        name=name,
        side="window",
        label=label,
        tokens=window.tokens,
        series=window.values if series is None else series,
        value=window.value,
        cross_entropy=window.cross_entropy,
        where=place,
        before=window.before,
        after=window.after,
    )


def scale_of(windows: Iterable[Window]) -> ValueScale:
    """Return the scale that some windows share."""
    values: list[float] = []
    for window in windows:
        values.append(window.value)
        values.extend([] if window.values is None else window.values.tolist())
    return ValueScale.of(values)


def percent(q: float) -> str:
    """Format a share.

    >>> percent(0.999), percent(0.5)
    ('99.9 %', '50 %')
    """
    return f"{100 * q:.6g} %"


def at_or_below(q: float, value: float, scale: ValueScale) -> str:
    """Say what a quantile is, with as many decimal places as tell its value from zero.

    >>> at_or_below(0.9, -0.00017, ValueScale(2.0, 3, True))
    '90 % of the windows are at or below −0.00017'
    """
    places = max(scale.places, decimals([value], 2)) if value else scale.places
    text = f"{value:.1e}".replace("-", "−") if 0 < abs(value) < 1e-5 else number(value, places)
    return f"{percent(q)} of the windows are at or below {text}"


def examples_body(examples: FeatureWindows, top: int = 64, each: int = EACH) -> str:
    """Return the examples as HTML, without the page around them.

    Args:
        examples: examples of one feature.
        top: how many of the strongest windows are shown.
        each: how many windows of each quantile.
    """
    prefix = "e" + hashlib.sha256(f"{examples.label}{examples.header.get('generation')}".encode()).hexdigest()[:6]
    strongest = examples.top[:top]
    quantiles = [(q, examples.quantile(q, each)) for q in QUANTILES]
    shown = [*strongest, *examples.fluent, *(w for _, some in quantiles for w in some)]
    scale = scale_of(shown)
    parts = [("strongest", _numbered(strongest, f"{prefix}t", "", scale))]
    parts.append(("quantiles", _quantiles(examples, quantiles, prefix, scale)))
    if examples.fluent:
        fluent = [
            window_card(w, f"{prefix}f{i}", f"{FLUENT_STEP * level:.2f} nats and up")
            for i, (level, w) in enumerate(zip(examples.fluent_levels, examples.fluent, strict=True))
        ]
        note = '<p class="dl-quiet">The strongest window of each quarter of a nat, of all windows of the corpus.</p>'
        parts.append(("by fluency", note + card_list(fluent, scale)))
    marks = [Mark(examples.quantile_value(q), percent(q), "q") for q in QUANTILES]
    if strongest:
        marks.append(Mark(strongest[0].value, f"strongest {scale.number(strongest[0].value)}", "w"))
    histogram = histogram_svg(examples.histogram.edges, examples.histogram.counts, marks, "value (windows, log scale)")
    tools = f'<p class="dl-note">{legend(scale)}</p>{numbers_switch(prefix + "n")}'
    return f'<div class="dl-sides">{_introduction(examples)}{histogram}{tools}{tabs(prefix, parts)}</div>'


def examples_fragment(examples: FeatureWindows) -> str:
    """Return the examples for a notebook's cell."""
    return fragment(f"<h3>{escape(examples.title)}</h3>{examples_body(examples, 16, 4)}", "tokens.css")


def examples_page(examples: FeatureWindows, top: int = 64) -> str:
    """Return the examples as a page of their own, which fetches nothing and has no script."""
    title = f"{examples.title} in {examples.header.get('corpus', {}).get('name', 'a corpus')}"
    return document(title, f"<h1>{escape(title)}</h1>{examples_body(examples, top)}", styles=["tokens.css"])


def _introduction(examples: FeatureWindows) -> str:
    counts, header = examples.counts, examples.header
    places = decimals([examples.mean, examples.deviation], 3)
    mean, deviation = (number(x, places) for x in (examples.mean, examples.deviation))
    text = (
        f"{examples.windows:,} windows of {header.get('settings', {}).get('length', '?')} tokens, from "
        f"{counts.get('documents', 0):,} documents of {header.get('corpus', {}).get('name', 'a corpus')}, on "
        f"{header.get('model', 'a model')}. Mean {mean}, standard deviation {deviation}."
    )
    part = "" if header.get("complete", True) else f'<p class="dl-warn">{escape(stopped(header))}</p>'
    return f'<p class="dl-quiet">{escape(text)}</p>{part}'


def stopped(header: Mapping[str, Any]) -> str:
    """Say that a scan was stopped before the end of its corpus."""
    tokens, name = header.get("counts", {}).get("tokens", 0), header.get("corpus", {}).get("name", "a corpus")
    return f"The scan was stopped after {tokens:,} tokens, so the windows are of a part of {name} only."


def _numbered(windows: Sequence[Window], prefix: str, word: str, scale: ValueScale) -> str:
    if not windows:
        return '<p class="dl-none">No window had a finite value.</p>'
    return card_list([window_card(w, f"{prefix}{i}", f"{word}{i + 1}") for i, w in enumerate(windows)], scale)


def _quantiles(
    examples: FeatureWindows, quantiles: Sequence[tuple[float, Sequence[Window]]], prefix: str, scale: ValueScale
) -> str:
    parts = []
    for k, (q, windows) in enumerate(quantiles):
        parts.append(f"<h4>{at_or_below(q, examples.quantile_value(q), scale)}</h4>")
        parts.append(_numbered(windows, f"{prefix}q{k}", "", scale))
    return "".join(parts)

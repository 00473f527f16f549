"""Examples of one feature as HTML: a histogram, and tabs of the strongest windows, of quantiles and by fluency."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dreamy_lens.html.cards import TextCard, card_list, tabs
from dreamy_lens.html.escaping import escape, with_tooltip
from dreamy_lens.html.numbers import decimals, number
from dreamy_lens.html.page import document, fragment, python_details
from dreamy_lens.html.svg import Mark, histogram_svg
from dreamy_lens.html.tokens import ValueScale, legend, numbers_switch
from dreamy_lens.scan.feature_windows import FLUENT_STEP, FeatureWindows
from dreamy_lens.scan.window import Window

QUANTILES = (0.999, 0.99, 0.9, 0.5)
"""Quantiles of the corpus of which the page shows windows."""

WINDOWS_PER_QUANTILE = 8
"""Number of windows that the page shows for each quantile."""


def window_card(window: Window, name: str, label: str, series: np.ndarray | None = None) -> TextCard:
    """Return the card of a window, with the text around it, and its document and character.

    Args:
        window: Window to show.
        name: Id of the card's HTML element.
        label: Label of the card, such as "window 3".
        series: Values of the feature if the window ended at each token, float32 `[n]`; None takes `window.values`.
    """
    source = f"{window.document}, character {window.character:,}"
    return TextCard(
        name=name,
        side="window",
        label=label,
        tokens=window.tokens,
        series=window.values if series is None else series,
        value=window.value,
        cross_entropy=window.cross_entropy,
        where=source,
        before=window.before,
        after=window.after,
    )


def shared_scale(windows: Iterable[Window]) -> ValueScale:
    """Return one colour scale for the values of all given windows."""
    values: list[float] = []
    for window in windows:
        values.append(window.value)
        values.extend([] if window.values is None else window.values.tolist())
    return ValueScale.of(values)


def percent(q: float) -> str:
    """Return a share from 0 to 1 as a percentage.

    >>> percent(0.999), percent(0.5)
    ('99.9 %', '50 %')
    """
    return f"{100 * q:.6g} %"


def quantile_sentence(q: float, value: float, scale: ValueScale) -> str:
    """Return a sentence about a quantile, with enough decimal places to distinguish its value from zero.

    >>> quantile_sentence(0.9, -0.00017, ValueScale(2.0, 3, True))
    '90 % of the windows are at or below −0.00017'
    """
    places = max(scale.places, decimals([value], 2)) if value else scale.places
    text = f"{value:.1e}".replace("-", "−") if 0 < abs(value) < 1e-5 else number(value, places)
    return f"{percent(q)} of the windows are at or below {text}"


def examples_body(
    examples: FeatureWindows, top: int = 64, each: int = WINDOWS_PER_QUANTILE, fluent: int | None = None
) -> str:
    """Return the examples as HTML, without the page around them.

    Args:
        examples: Examples of one feature.
        top: Number of the strongest windows to show.
        each: Number of windows to show for each quantile; 0 shows no quantiles.
        fluent: Largest number of windows by fluency, spread over all of them; None shows all.
    """
    prefix = "e" + hashlib.sha256(f"{examples.label}{examples.header.get('generation')}".encode()).hexdigest()[:6]
    strongest = examples.top[:top]
    quantiles = [(q, examples.quantile(q, each)) for q in QUANTILES] if each else []
    by_fluency = list(zip(examples.fluent_levels, examples.fluent, strict=True)) if fluent != 0 else []
    if fluent and len(by_fluency) > fluent:
        by_fluency = [by_fluency[i] for i in np.linspace(0, len(by_fluency) - 1, fluent).round().astype(int)]
    shown = [*strongest, *(w for _, w in by_fluency), *(w for _, windows in quantiles for w in windows)]
    scale = shared_scale(shown)
    parts = [("strongest", _numbered(strongest, f"{prefix}t", "", scale))]
    if quantiles:
        parts.append(("quantiles", _quantiles(examples, quantiles, prefix, scale)))
    if by_fluency:
        cards = [
            window_card(w, f"{prefix}f{i}", f"{FLUENT_STEP * level:.2f} nats and up")
            for i, (level, w) in enumerate(by_fluency)
        ]
        note = '<p class="dl-quiet">The strongest window of the corpus at each quarter of a nat of cross-entropy.</p>'
        parts.append(("by fluency", note + card_list(cards, scale)))
    marks = [Mark(examples.quantile_value(q), percent(q), "q") for q in QUANTILES]
    if strongest:
        marks.append(Mark(strongest[0].value, f"strongest {scale.number(strongest[0].value)}", "w"))
    histogram = histogram_svg(examples.histogram.edges, examples.histogram.counts, marks, "value (windows, log scale)")
    tools = f'<p class="dl-note">{legend(scale)}</p>{numbers_switch(prefix + "n")}'
    return f'<div class="dl-sides">{_introduction(examples)}{histogram}{tools}{tabs(prefix, parts)}</div>'


def examples_fragment(examples: FeatureWindows) -> str:
    """Return the examples as HTML for the output of a notebook cell."""
    return fragment(
        f"<h3>{with_tooltip(*examples.names)}</h3>{examples_body(examples, 16, 4)}{python_details(examples.code)}",
        "tokens.css",
    )


def examples_page(examples: FeatureWindows, top: int = 64) -> str:
    """Return the examples as a complete page, which loads nothing from the network and has no script."""
    corpus = examples.header.get("corpus", {}).get("name", "a corpus")
    heading = f"{with_tooltip(*examples.names)} in {escape(corpus)}"
    body = f"<h1>{heading}</h1>{examples_body(examples, top)}{python_details(examples.code)}"
    return document(f"{examples.title} in {corpus}", body, styles=["tokens.css"])


def _introduction(examples: FeatureWindows) -> str:
    """Return what was scanned, the mean and the deviation, and a notice if the scan was stopped."""
    counts, header = examples.counts, examples.header
    places = decimals([examples.mean, examples.deviation], 3)
    mean, deviation = (number(x, places) for x in (examples.mean, examples.deviation))
    text = (
        f"{examples.windows:,} windows of {header.get('settings', {}).get('length', '?')} tokens, from "
        f"{counts.get('documents', 0):,} documents of {header.get('corpus', {}).get('name', 'a corpus')}, on "
        f"{header.get('model', 'a model')}. Mean {mean}, standard deviation {deviation}."
    )
    notice = "" if header.get("complete", True) else f'<p class="dl-warn">{escape(stop_notice(header))}</p>'
    return f'<p class="dl-quiet">{escape(text)}</p>{notice}'


def stop_notice(header: Mapping[str, Any]) -> str:
    """Return a sentence which says that a scan was stopped before the end of its corpus."""
    tokens, name = header.get("counts", {}).get("tokens", 0), header.get("corpus", {}).get("name", "a corpus")
    return f"The scan was stopped after {tokens:,} tokens, so the windows are of a part of {name} only."


def _numbered(windows: Sequence[Window], prefix: str, word: str, scale: ValueScale) -> str:
    """Return cards of windows, numbered from 1."""
    if not windows:
        return '<p class="dl-none">No window had a finite value.</p>'
    return card_list([window_card(w, f"{prefix}{i}", f"{word}{i + 1}") for i, w in enumerate(windows)], scale)


def _quantiles(
    examples: FeatureWindows, quantiles: Sequence[tuple[float, Sequence[Window]]], prefix: str, scale: ValueScale
) -> str:
    """Return a heading and the windows of each quantile."""
    parts = []
    for k, (q, windows) in enumerate(quantiles):
        parts.append(f"<h4>{quantile_sentence(q, examples.quantile_value(q), scale)}</h4>")
        parts.append(_numbered(windows, f"{prefix}q{k}", "", scale))
    return "".join(parts)

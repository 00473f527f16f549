"""Style of all figures: colours that colour-blind readers can tell apart, quiet axes, and safe text."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from dreamy_lens.figures.protocols import ScoredPrompt
from dreamy_lens.html.escaping import visible

# The blue of pages and panels comes first. Readers with any colour vision can tell each colour from the background and
# from the other colours.
LIGHT = ("#0a6ab0", "#d55e00", "#00875f", "#a8478c", "#2e9bd6", "#5f4b00")
DARK = ("#5eb3f3", "#f59230", "#1fae85", "#e39ccb", "#d3e9fb", "#f2d25c")
HEAT = ("rgb(245, 146, 48)", "rgb(166, 82, 8)")
"""Colours for falling values on light and on dark backgrounds, as in pages and panels."""

# No two lines differ by their colour alone.
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")


class LineStyle(NamedTuple):
    """Colour, dash and symbol of a line."""

    colour: str
    dash: str = "solid"
    symbol: str = "circle"


def line_style(dark: bool, i: int) -> LineStyle:
    """Return the style of line number i; six lines in a row differ in colour, dash and symbol."""
    i %= len(LIGHT)
    return LineStyle((DARK if dark else LIGHT)[i], DASHES[i], SYMBOLS[i])


def colour_ramp(dark: bool, count: int) -> list[str]:
    """Return `count` colours from grey to blue, for lines that have an order."""
    first, last = ((111, 120, 131), (94, 179, 243)) if dark else ((138, 147, 158), (10, 106, 176))
    steps = [i / max(1, count - 1) for i in range(count)] if count != 1 else [1.0]
    return [f"rgb{tuple(round(a + (b - a) * t) for a, b in zip(first, last, strict=True))}" for t in steps]


def palette(dark: bool) -> tuple[str, str, str]:
    """Return the colours of text, quiet text and grid."""
    return ("#eceef1", "#a6aeb9", "#383e47") if dark else ("#1b1e23", "#5a626d", "#e3e6ea")


def layout(dark: bool = False, **settings: Any) -> dict[str, Any]:
    """Return keywords for `update_layout`, to which `settings` are added."""
    front, _, grid = palette(dark)
    axis = {"gridcolor": grid, "linecolor": grid, "zeroline": False, "ticks": "", "automargin": True}
    ground = "#15181c" if dark else "#ffffff"
    return {
        "font": {"family": "system-ui, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": front},
        "paper_bgcolor": ground,
        "plot_bgcolor": ground,
        "margin": {"l": 60, "r": 20, "t": 50, "b": 55},
        "hoverlabel": {"align": "left"},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": axis,
        "yaxis": axis,
        **settings,
    }


def escape_label(text: str, token: bool = False) -> str:
    """Escape untrusted text for plotly, which interprets a few tags, and formulas between dollar signs.

    Args:
        text: Text to escape.
        token: Whether the text is one token by itself, as for :func:`dreamy_lens.html.escaping.visible`.
    """
    return html.escape(visible(text, token), quote=False).replace("$", "&#36;")


def hover_text(prompt: ScoredPrompt, width: int = 60) -> str:
    """Return the text at a prompt's point: the prompt in lines of `width` characters, its scores and its origin."""
    scores = f"value {prompt.value:.4g}, cross-entropy {prompt.cross_entropy:.2f}, perplexity {prompt.perplexity:,.4g}"
    origin = prompt.provenance
    details = {"seed": origin.seed, "iteration": origin.iteration}
    source = ", ".join(f"{name} {value}" for name, value in details.items() if value is not None)
    return "<br>".join([wrapped(prompt.text, width), scores, *([source] if source else [])])


def wrapped(text: str, width: int = 60) -> str:
    """Return untrusted text as escaped lines of `width` characters."""
    shown = visible(text)
    return "<br>".join(escape_label(shown[i : i + width]) for i in range(0, len(shown), width))


def with_names(items: Any, noun: str) -> Iterator[tuple[str, Any]]:
    """Yield pairs (name, item) of a mapping or a sequence.

    Args:
        items: Mapping from names, or sequence of pairs (name, item), of items without names, or of both.
        noun: Word that names an item without a name together with its number, such as "run 2".
    """
    pairs = items.items() if isinstance(items, Mapping) else items
    for i, item in enumerate(pairs):
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
            yield item
        else:
            yield f"{noun} {i + 1}", item

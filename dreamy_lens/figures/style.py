"""What all figures share: colours that colour-blind readers can tell apart, quiet axes, and safe text."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from dreamy_lens.figures.protocols import ScoredPrompt
from dreamy_lens.html.escaping import visible

# The pages' and panels' blue first. Each stands out from the ground, and from the others for every colour vision.
LIGHT = ("#0a6ab0", "#d55e00", "#00875f", "#a8478c", "#2e9bd6", "#5f4b00")
DARK = ("#5eb3f3", "#f59230", "#1fae85", "#e39ccb", "#d3e9fb", "#f2d25c")
HEAT = ("rgb(245, 146, 48)", "rgb(166, 82, 8)")
"""Of what weakens, on light and on dark, as in pages and panels."""

# No two lines differ by their colour alone.
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")


class Look(NamedTuple):
    """How one of several lines is drawn."""

    colour: str
    dash: str = "solid"
    symbol: str = "circle"


def looks(dark: bool, i: int) -> Look:
    """The line number i: another colour, dash and symbol for each of six."""
    i %= len(LIGHT)
    return Look((DARK if dark else LIGHT)[i], DASHES[i], SYMBOLS[i])


def ramp(dark: bool, count: int) -> list[str]:
    """Colours from a quiet one to the blue, for what has an order."""
    first, last = ((111, 120, 131), (94, 179, 243)) if dark else ((138, 147, 158), (10, 106, 176))
    steps = [i / max(1, count - 1) for i in range(count)] if count != 1 else [1.0]
    return [f"rgb{tuple(round(a + (b - a) * t) for a, b in zip(first, last, strict=True))}" for t in steps]


def palette(dark: bool) -> tuple[str, str, str]:
    """Foreground, quiet foreground, grid."""
    return ("#eceef1", "#a6aeb9", "#383e47") if dark else ("#1b1e23", "#5a626d", "#e3e6ea")


def layout(dark: bool = False, **settings: Any) -> dict[str, Any]:
    """Keywords for `update_layout`."""
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


def label(text: str, token: bool = False) -> str:
    """Return foreign text for plotly, which reads a few tags in labels, and formulas between dollar signs."""
    return html.escape(visible(text, token), quote=False).replace("$", "&#36;")


def hover(prompt: ScoredPrompt, width: int = 60) -> str:
    """Return the text of a prompt's point: the prompt in lines of `width` characters, its scores, and its origin."""
    scores = f"value {prompt.value:.4g}, cross-entropy {prompt.cross_entropy:.2f}, perplexity {prompt.perplexity:,.4g}"
    origin = prompt.provenance
    known = {"seed": origin.seed, "iteration": origin.iteration}
    source = ", ".join(f"{name} {value}" for name, value in known.items() if value is not None)
    return "<br>".join([lines(prompt.text, width), scores, *([source] if source else [])])


def lines(text: str, width: int = 60) -> str:
    """Return foreign text in lines of `width` characters."""
    shown = visible(text)
    return "<br>".join(label(shown[i : i + width]) for i in range(0, len(shown), width))


def named(items: Any, noun: str) -> Iterator[tuple[str, Any]]:
    """Yield names and things of a mapping, of pairs, or of a plain sequence, whose things are numbered."""
    pairs = items.items() if isinstance(items, Mapping) else items
    for i, item in enumerate(pairs):
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
            yield item
        else:
            yield f"{noun} {i + 1}", item

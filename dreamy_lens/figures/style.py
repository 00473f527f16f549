"""What all figures share: colours that colour-blind readers can tell apart, quiet axes, and safe text."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dreamy_lens.results.markup import visible

if TYPE_CHECKING:
    from dreamy_lens.results.prompt import Prompt

# The colours of Okabe and Ito, less black and yellow: distinct with every kind of colour vision, on light and on dark.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")


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


def escape(text: str, token: bool = False) -> str:
    """Foreign text for plotly, which reads a few tags in labels, and formulas between dollar signs."""
    return html.escape(visible(text, token), quote=False).replace("$", "&#36;")


def hover(prompt: Prompt, width: int = 60) -> str:
    """What a prompt's point says: its text in lines of `width` characters, its scores, and where it came from."""
    shown = visible(prompt.text)
    lines = [escape(shown[i : i + width]) for i in range(0, len(shown), width)]
    scores = f"value {prompt.value:.4g}, cross-entropy {prompt.cross_entropy:.2f}, perplexity {prompt.perplexity:,.4g}"
    origin = prompt.provenance
    known = {"seed": origin.seed, "iteration": origin.iteration}
    source = ", ".join(f"{name} {value}" for name, value in known.items() if value is not None)
    return "<br>".join([*lines, scores, *([source] if source else [])])


def named(items: Any, label: str) -> Iterator[tuple[str, Any]]:
    """Names and things of a mapping, of pairs, or of a plain sequence (then numbered)."""
    pairs = items.items() if isinstance(items, Mapping) else items
    for i, item in enumerate(pairs):
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
            yield item
        else:
            yield f"{label} {i + 1}", item

"""Token strips as figures for papers: Figure 1 of the paper, or several prompts below each other as in its Figure 4."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dreamy_lens.errors import SettingsError, quoted
from dreamy_lens.figures import style
from dreamy_lens.figures.protocols import TokenAttribution
from dreamy_lens.figures.svg_figure import CELL, LINE, QUIET, SvgFigure, text_cells, text_element, token_name
from dreamy_lens.html.numbers import decimals, number

WIDTH = 528
"""Width of a figure in pixels: 5.5 inches, the text of most papers with one column."""

TOKEN, SMALL = 10.7, 9.4  # sizes of fonts in pixels: 8 and 7 points
BAR, BOX, LINE_HEIGHT = 18.0, 16.0, 11.5  # heights of a full bar, of a token's box and of a line of substitutes
LONGEST, LONGEST_NAME = 28, 16  # most letters of a token and of a substitute
GAP = 4.0


def as_attributions(prompts: Any) -> list[tuple[str, TokenAttribution]]:
    """Return attributions with their labels, "" for none.

    Args:
        prompts: Attribution or prompt, or several: a list, a frontier, or a mapping from labels. A prompt is attributed
            with the model of its run.

    Raises:
        SettingsError: There is nothing to draw, or something else than attributions and prompts.
    """
    pairs: list[tuple[str, Any]]
    if isinstance(prompts, Mapping):
        pairs = [(str(label), item) for label, item in prompts.items()]
    elif isinstance(prompts, str) or hasattr(prompts, "attribution") or not hasattr(prompts, "__iter__"):
        pairs = [("", prompts)]
    else:
        pairs = [item if isinstance(item, tuple) and len(item) == 2 else ("", item) for item in prompts]
    attributions = []
    for label, item in pairs:
        if not isinstance(item, TokenAttribution) and not hasattr(item, "attribution"):
            raise SettingsError(
                f"A strip shows attributions and prompts of runs, and {quoted(repr(item)[:60])} is neither; "
                "dl.attribution(feature, text) attributes a text."
            )
        attributions.append((label, item if isinstance(item, TokenAttribution) else item.attribution()))
    if not attributions:
        raise SettingsError("There is no prompt to draw.")
    return attributions


def drop_scale(attributions: Iterable[TokenAttribution]) -> float:
    """Return the largest drop with a worst substitute: full colour and a full bar, on all strips of a page alike."""
    drops = [d for a in attributions for d in np.asarray(a.drop_to_worst, dtype=np.float64) if np.isfinite(d)]
    return max([d for d in drops if d > 0], default=1.0)


def strip(prompts: Any, best: int = 3, worst: int = 1, width: float = WIDTH) -> SvgFigure:
    """Draw the tokens of prompts, coloured by what they do for the feature, above their substitutes.

    The colour of a token is the drop of the value with its worst substitute. The bar above it is the drop with its best
    one; a dotted line stands for a substitute that is better than the token. All prompts of the figure have one scale.

    Args:
        prompts: Attribution or prompt, or several below each other: a list, a frontier, or a mapping from labels. A
            prompt of a run is attributed with the run's model.
        best: Number of best substitutes below each token.
        worst: Number of worst substitutes below them.
        width: Width in pixels, 96 to the inch. Long prompts wrap.

    Returns:
        Figure whose text is 7 and 8 points high if it is printed at its own size.

    >>> import dreamy_lens as dl
    >>> attribution = dl.attribution("L2.N812", "if given, applied only")
    >>> figure = dl.figures.strip({"by hand": attribution}, best=2, width=312)
    >>> figure.width, "by hand" in figure.svg, "<script" in figure.svg
    (312, True, False)
    """
    attributions = as_attributions(prompts)
    full = drop_scale(a for _, a in attributions)
    places = decimals([full, *(a.value for _, a in attributions)], 3)
    parts, y = [], 4.0
    for label, attribution in attributions:
        y += TOKEN + 3
        parts.append(_scores(label, attribution, places, y, width))
        y += 6
        for row in _rows(attribution, best, worst, places, width):
            parts.append(_row(attribution, row, full, places, y))
            depth = max(len(cells) for _, _, cells in row)
            y += BAR + BOX + 4 + depth * LINE_HEIGHT + 6
        y += 6
    tried = max((a.candidates.shape[1] for _, a in attributions), default=0)
    legend, y = _legend(full, places, tried, y, width)
    return SvgFigure("".join(parts) + legend, width, y + 2, "Tokens that carry the value of a feature")


Column = tuple[int, float, list[tuple[str, str] | None]]
"""Position of a token, width of its column, and its substitutes with their values; None is a rule between them."""


def _rows(attribution: TokenAttribution, best: int, worst: int, places: int, width: float) -> list[list[Column]]:
    """Return the columns of tokens, in rows that are at most as wide as the figure."""
    rows: list[list[Column]] = [[]]
    used = GAP
    for i, token in enumerate(attribution.tokens):
        cells = _substitutes(attribution, i, best, worst, places)
        letters = [text_cells(name) + 1 + len(value) for name, value in filter(None, cells)]
        wide = max([text_cells(token_name(token, LONGEST)) * TOKEN, *(n * SMALL for n in letters)]) * CELL + 8
        wide = max(22.0, wide)
        if rows[-1] and used + wide > width - GAP:
            rows.append([])
            used = GAP
        rows[-1].append((i, wide, cells))
        used += wide + GAP
    return rows


def _substitutes(
    attribution: TokenAttribution, position: int, best: int, worst: int, places: int
) -> list[tuple[str, str] | None]:
    top = list(attribution.top(position, best)) if best else []
    counted = len(attribution.top(position, attribution.candidates.shape[1]))
    bottom = list(attribution.worst(position, min(worst, counted - len(top))))[::-1] if counted > len(top) else []
    shown = [(token_name(s.token, LONGEST_NAME), number(s.value, places)) for s in (*top, *bottom)]
    return [*shown[: len(top)], *([None] if top and bottom else []), *shown[len(top) :]]


def _row(attribution: TokenAttribution, row: list[Column], full: float, places: int, y: float) -> str:
    """Return one row of tokens with their bars and substitutes; `y` is the top of a full bar."""
    parts, x = [], GAP
    lose, keep = attribution.drop_to_worst, attribution.drop_to_best
    for i, wide, cells in row:
        share = 0.0 if np.isnan(lose[i]) else float(np.clip(lose[i] / full, 0, 1))
        top, token = y + BAR, token_name(attribution.tokens[i], LONGEST)
        bar = 0.0 if np.isnan(keep[i]) else float(np.clip(keep[i] / full, 0, 1)) * BAR
        if bar > 0.2:
            parts.append(f'<rect class="bar" x="{x:.1f}" y="{top - bar:.1f}" width="{wide:.1f}" height="{bar:.1f}"/>')
        elif keep[i] < 0 and round(float(keep[i]), places):  # what is 0.00 as a number has no dotted line
            parts.append(_dotted(x, top - 1.5, wide))
        fill = f'fill="{style.HEAT[0]}" fill-opacity="{share:.3f}"'
        place = f'x="{x:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{BOX}"'
        parts.append(f'<rect class="token" {place} {fill} stroke="{LINE}" stroke-width=".7"/>')
        parts.append(text_element(x + wide / 2, top + BOX - 4.5, token, TOKEN, anchor="middle"))
        line = top + BOX + 3
        for cell in cells:
            line += LINE_HEIGHT if cell else 0
            if cell is None:
                parts.append(
                    f'<path d="M{x + 3:.1f} {line + 3:.1f}h{wide - 6:.1f}" stroke="{LINE}" stroke-width=".6"/>'
                )
                line += 3
                continue
            parts.append(text_element(x + 3, line, cell[0], SMALL))
            parts.append(text_element(x + wide - 3, line, cell[1], SMALL, anchor="end", colour=QUIET))
        x += wide + GAP
    return "".join(parts)


def _dotted(x: float, y: float, wide: float) -> str:
    line = f'd="M{x:.1f} {y:.1f}h{wide:.1f}" stroke="#000" stroke-width="1.6" stroke-dasharray="1.6 2"'
    return f'<path class="better" {line}/>'


def _scores(label: str, attribution: TokenAttribution, places: int, y: float, width: float) -> str:
    """Return the line above a prompt: its label on the left, its scores on the right."""
    scores = f"value {number(attribution.value, places)}   cross-entropy {number(attribution.cross_entropy, 2)}"
    room = int((width - 2 * GAP) / (CELL * TOKEN)) - len(scores) - 2
    parts = [text_element(width - GAP, y, scores, TOKEN, anchor="end", colour=QUIET)]
    if label:
        parts.append(text_element(GAP, y, token_name(label, max(4, room)), TOKEN, bold=True))
    return "".join(parts)


def _legend(full: float, places: int, tried: int, y: float, width: float) -> tuple[str, float]:
    """Return the legend of the whole figure, and the position of its last line."""
    ramp = "".join(
        f'<rect x="{GAP + 6 * i}" y="{y:.1f}" width="6" height="8" fill="{style.HEAT[0]}" fill-opacity="{i / 4:g}"/>'
        for i in range(5)
    )
    edge = f'<rect x="{GAP}" y="{y:.1f}" width="30" height="8" fill="none" stroke="{LINE}" stroke-width=".6"/>'
    count = f"of {tried} substitutes " if tried else ""
    colour = f"Colour: drop in value with the worst {count}(max {number(full, places)})"
    bar = "Bar: drop with the best, on the same scale (dotted: the best is better than the token)"
    below = "Below: the best substitutes and, under the line, the worst, with the values they give"
    parts = [ramp, edge]
    for i, sentence in enumerate((colour, bar, below)):
        for part in _wrapped(sentence, int((width - 36 - 2 * GAP) / (0.56 * SMALL))):
            y += LINE_HEIGHT if len(parts) > 2 else 8
            parts.append(text_element(GAP + 36, y, part, SMALL, mono=False, colour=QUIET))
        if i == 1:
            parts.append(f'<rect x="{GAP + 12}" y="{y - 8:.1f}" width="6" height="8"/>')
    return "".join(parts), y + 4


def _wrapped(sentence: str, letters: int) -> list[str]:
    lines = [""]
    for word in sentence.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > letters:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines

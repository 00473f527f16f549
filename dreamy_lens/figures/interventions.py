"""Figures of interventions, each effect beside its placebos: curves over strengths, bars, and maps of patches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dreamy_lens.figures import style
from dreamy_lens.figures.heat_cells import ROW, heat_cell, shade, tooltip
from dreamy_lens.figures.svg_figure import CELL, LINE, QUIET, SvgFigure, shortened, text_element, token_name
from dreamy_lens.figures.token_strip import GAP, SMALL, TOKEN, WIDTH
from dreamy_lens.html.escaping import visible
from dreamy_lens.html.numbers import decimals, number

_OWN, _PLACEBO = style.LIGHT[0], style.LIGHT[1]
_PLOT = 130.0  # height of a panel of curves


def strength_curves(
    strengths: Sequence[float],
    panels: Sequence[tuple[str, Sequence[float], np.ndarray, float]],
    axis: str,
    width: float = WIDTH,
) -> SvgFigure:
    """Draw quantities over strengths: the feature as a line, each placebo as a thin line.

    Args:
        strengths: Strengths, S of them.
        panels: For each panel a title, the values `[S]`, those of R placebos `[S, R]`, and the untouched value.
        axis: Words for the strengths.
        width: Width in pixels, 96 to the inch.

    Returns:
        Figure whose text is 7 and 8 points high if it is printed at its own size.

    >>> import numpy as np
    >>> from dreamy_lens.figures import strength_curves
    >>> figure = strength_curves([0, 1, 2], [("KL", [0, 1, 4], np.zeros((3, 2)), 0.0)], "strength")
    >>> figure.svg.count("<polyline")
    3
    """
    order = np.argsort(strengths, kind="stable")
    x = np.asarray(strengths, dtype=np.float64)[order]
    low, high = float(x.min(initial=0.0)), float(x.max(initial=0.0))
    span = (high - low) or 1.0
    each = (width - GAP) / max(1, len(panels)) - GAP
    left = 46.0
    parts = []
    for k, (title, values, placebos, untouched) in enumerate(panels):
        x0 = GAP + k * (each + GAP)
        own, others = np.asarray(values, dtype=np.float64)[order], np.asarray(placebos, dtype=np.float64)[order]
        seen = np.concatenate([own, others.ravel(), [untouched]])
        seen = seen[np.isfinite(seen)]
        bottom, top = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 1.0)
        height = (top - bottom) or 1.0
        places = decimals([top, bottom], 3)

        def across(at: float, x0: float = x0) -> float:
            return x0 + left + (at - low) / span * (each - left - 6)

        def upwards(at: float, bottom: float = bottom, height: float = height) -> float:
            return 22 + _PLOT - (at - bottom) / height * _PLOT

        parts.append(text_element(x0, 12, shortened(title, int(each / (CELL * TOKEN))), TOKEN, bold=True))
        for at in {bottom, top}:
            parts.append(text_element(x0 + left - 5, upwards(at) + 3, number(at, places), SMALL, anchor="end"))
        base = upwards(untouched)
        parts.append(
            f'<line x1="{x0 + left:.1f}" x2="{x0 + each - 6:.1f}" y1="{base:.1f}" y2="{base:.1f}" stroke="{LINE}" '
            'stroke-width=".8" stroke-dasharray="3 2"/>'
        )
        for column, name, colour, wide in [
            *((others[:, r], f"placebo {r + 1}", _PLACEBO, 0.8) for r in range(others.shape[1])),
            (own, "feature", _OWN, 2.0),
        ]:
            pairs = [(across(a), upwards(b)) for a, b in zip(x, column, strict=True) if np.isfinite(b)]
            points = " ".join(f"{a:.1f},{b:.1f}" for a, b in pairs)
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{wide}">'
                f"{tooltip(name)}</polyline>"
            )
        for at in x:
            parts.append(
                text_element(across(float(at)), 22 + _PLOT + 13, f"{at:g}", SMALL, anchor="middle", colour=QUIET)
            )
    words = f"Across: {axis}. Blue: the feature; orange: its placebos; dashed: the untouched model"
    parts.append(text_element(GAP, 22 + _PLOT + 30, words, SMALL, mono=False, colour=QUIET))
    return SvgFigure("".join(parts), width, 22 + _PLOT + 38, "Effects over strengths")


def placebo_bars(
    names: Sequence[str], effects: np.ndarray, placebos: np.ndarray, title: str, width: float = WIDTH
) -> SvgFigure:
    """Draw effects as bars, with a tick for each placebo.

    Args:
        names: Name of each effect, N of them.
        effects: Effects `[N]`.
        placebos: Effects of R placebos of each, `[N, R]`.
        title: What the effects are.
        width: Width in pixels, 96 to the inch.

    Returns:
        Figure whose text is 7 and 8 points high if it is printed at its own size.

    >>> import numpy as np
    >>> from dreamy_lens.figures import placebo_bars
    >>> placebo_bars(["L0.H1"], np.array([2.0]), np.array([[0.1, -0.2]]), "KL").svg.count("<line")
    3
    """
    effects, placebos = np.asarray(effects, dtype=np.float64), np.asarray(placebos, dtype=np.float64)
    limit = float(np.nanmax(np.abs(np.concatenate([effects, placebos.ravel()])), initial=0.0)) or 1.0
    places = decimals([limit], 3)
    left = min(200.0, 10 + CELL * TOKEN * max((len(name) for name in names), default=1))
    room = width - 2 * GAP - left - 60
    lowest = float(min(0.0, np.nanmin(np.concatenate([effects, placebos.ravel()]), initial=0.0)))
    highest = float(max(0.0, np.nanmax(np.concatenate([effects, placebos.ravel()]), initial=0.0)))
    scale = room / ((highest - lowest) or 1.0)
    zero = GAP + left - lowest * scale
    parts = [text_element(GAP, 12, shortened(visible(title), 80), TOKEN, bold=True)]
    y = 20.0
    for name, effect, others in zip(names, effects, placebos, strict=True):
        parts.append(text_element(GAP, y + ROW - 4, shortened(visible(name), int(left / (CELL * TOKEN))), TOKEN))
        if np.isfinite(effect):
            start, wide = zero + min(0.0, effect) * scale, abs(effect) * scale
            parts.append(
                f'<rect x="{start:.1f}" y="{y + 2:.1f}" width="{wide:.1f}" height="{ROW - 4:g}" fill="{_OWN}">'
                f"{tooltip(f'{visible(name)}: {number(float(effect), places, True)}')}</rect>"
            )
        for other in others[np.isfinite(others)]:
            x = zero + other * scale
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y:.1f}" y2="{y + ROW:.1f}" stroke="{_PLACEBO}" '
                f'stroke-width="1.4">{tooltip(f"placebo: {number(float(other), places, True)}")}</line>'
            )
        parts.append(text_element(width - GAP, y + ROW - 4, number(float(effect), places, True), SMALL, anchor="end"))
        y += ROW + 3
    parts.append(f'<line x1="{zero:.1f}" x2="{zero:.1f}" y1="18" y2="{y:.1f}" stroke="{LINE}" stroke-width=".8"/>')
    words = "Bar: the effect; orange ticks: its placebos"
    parts.append(text_element(GAP, y + 12, words, SMALL, mono=False, colour=QUIET))
    return SvgFigure("".join(parts), width, y + 20, title)


def patch_map(
    grids: Sequence[tuple[str, np.ndarray]],
    layers: Sequence[str],
    tokens: Sequence[tuple[str, str]],
    width: float = WIDTH,
) -> SvgFigure:
    """Draw what patches restore, by layer and position: 1 is the prompt's value, 0 that of the neutral prompt.

    Args:
        grids: Title and shares `[layers, positions]` of each map, one below the other.
        layers: Name of each layer.
        tokens: Token of the prompt and of the neutral prompt at each position.
        width: Width in pixels, 96 to the inch. The positions of a long prompt wrap.

    Returns:
        Figure whose text is 7 and 8 points high if it is printed at its own size.

    >>> import numpy as np
    >>> from dreamy_lens.figures import patch_map
    >>> patch_map([("into", np.eye(2))], ["L0", "L1"], [("a", "b"), ("c", "d")]).svg.count("<title>L")
    4
    """
    label = 10 + CELL * TOKEN * max((len(name) for name in layers), default=2)
    room = width - 2 * GAP - label
    wide = max(30.0, min(64.0, room / max(1, len(tokens))))
    at_once = max(1, int(room / wide + 1e-6))
    letters = max(1, int((wide - 3) / (CELL * SMALL)))
    parts, y = [], 4.0
    for title, shares in grids:
        parts.append(text_element(GAP, y + 9, title, TOKEN, bold=True))
        y += 16
        for first in range(0, len(tokens), at_once):
            here = range(first, min(first + at_once, len(tokens)))
            for row in (0, 1):
                for k, j in enumerate(here):
                    x, name = GAP + label + (k + 0.5) * wide, token_name(tokens[j][row], letters)
                    colour = QUIET if row else "#1b1e23"
                    parts.append(text_element(x, y + 9, name, SMALL, anchor="middle", colour=colour, bold=not row))
                y += 11
            y += 2
            for i, layer in enumerate(layers):
                parts.append(text_element(GAP, y + ROW - 4, layer, TOKEN))
                for k, j in enumerate(here):
                    words = f"{layer} at {token_name(tokens[j][0], 40)}"
                    parts.append(heat_cell(GAP + label + k * wide, y, wide, words, float(shares[i, j]), 1.0, 2))
                y += ROW
            y += 8
    ramp = "".join(
        f'<rect x="{GAP + 18 + 6 * i:.1f}" y="{y:.1f}" width="6" height="9" fill="{shade((i - 5) / 5)}"/>'
        for i in range(11)
    )
    ends = text_element(GAP, y + 8, "−1", SMALL, colour=QUIET) + text_element(
        GAP + 88, y + 8, "1 = value of the prompt, 0 = value of the neutral prompt", SMALL, mono=False, colour=QUIET
    )
    words = "Bold: tokens of the prompt; below them those of the neutral prompt"
    parts.append(ramp + ends + text_element(GAP, y + 21, words, SMALL, mono=False, colour=QUIET))
    return SvgFigure("".join(parts), width, y + 28, "Activation patching")

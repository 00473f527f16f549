"""Anytime curves of the quality benchmark: how the frontier grows with the processor time, as a picture (SVG)."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np
from quality_sides import EPO, FRONTIER, REFERENCE, WARM
from quality_table import Natural, Run, measured

FIRST = 10
"""Iterations of EPO at which the curves begin."""
STEPS = 16
SIDES = {FRONTIER: "frontier search", WARM: "EPO, from samples", EPO: "EPO", REFERENCE: "the paper's code"}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM, GAP = 1000, 330, 46, 16, 64, 46, 34

STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1c2733 } .name { font-weight: 600; font-size: 13px }
  .axis { stroke: #9fb3c8; fill: none } .grid { stroke: #e1e8ef; fill: none } .line { fill: none; stroke-width: 2.2 }
  .frontier { stroke: #0b6e99 } .warm-epo { stroke: #c26a00; stroke-dasharray: 7 3 } .epo { stroke: #5c6975 }
  .reference { stroke: #7a4fa3; stroke-dasharray: 2 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e3e9ef } .axis { stroke: #4d6176 } .grid { stroke: #2b3947 }
    .frontier { stroke: #56b8e6 } .warm-epo { stroke: #f0a04b } .epo { stroke: #a9b6c3 } .reference { stroke: #bb9ae0 }
  }
"""


def growth(
    runs: Sequence[Run], naturals: dict[tuple[str, str], Natural], budgets: Sequence[int]
) -> dict[str, dict[str, np.ndarray]]:
    """Compute how the hypervolume grows: the median over pairs, in units of EPO's at the last of the budgets.

    Returns:
        For each model, for each side, HV9 after each budget `[B]`.
    """
    found = [measured(runs, naturals, budget)[0] for budget in budgets]
    last = {key: values["HV9"] for key, values in found[-1].items() if key[2] == EPO}
    curves: dict[str, dict[str, np.ndarray]] = {}
    for model in dict.fromkeys(r.model for r in runs):
        for side in SIDES:
            pairs = [key for key in found[-1] if key[0] == model and key[2] == side]
            units = {key: last[model, key[1], EPO, key[3]] for key in pairs}
            pairs = [key for key in pairs if units[key] > 0]
            if pairs:
                ratios = [[step[key]["HV9"] / units[key] for key in pairs] for step in found]
                curves.setdefault(model, {})[side] = np.median(ratios, axis=1)
    return curves


def picture(runs: Sequence[Run], naturals: dict[tuple[str, str], Natural], iterations: int) -> str:
    """Draw the curves of every model, from :data:`FIRST` iterations of EPO on, as SVG."""
    first = min(FIRST, iterations)
    budgets = sorted({round(b) for b in np.geomspace(first, iterations, STEPS)})
    curves = growth(runs, naturals, budgets)
    top = max(float(line.max()) for sides in curves.values() for line in sides.values())
    top = math.ceil(5 * top) / 5
    span = (WIDTH - LEFT - RIGHT - GAP * (len(curves) - 1)) / max(1, len(curves))
    height = HEIGHT - TOP - BOTTOM
    title = "Hypervolume up to CE 9 over processor time, in units of EPO's at the end; medians over features and seeds"
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    parts += [f"<title>{title}</title>", f"<style>{STYLE}</style>", f'<text x="{LEFT}" y="14">{title}</text>']
    shown = [side for side in SIDES if any(side in sides for sides in curves.values())]
    for number, side in enumerate(shown):
        x = LEFT + 190 * number
        parts.append(f'<path class="line {side}" d="M{x} 32h28"/><text x="{x + 34}" y="36">{SIDES[side]}</text>')
    for number, (model, sides) in enumerate(curves.items()):
        left = LEFT + number * (span + GAP)

        def across(budget: float, left: float = left) -> float:
            share = math.log(budget / first) / math.log(iterations / first) if iterations > first else 1.0
            return left + span * share

        def up(value: float) -> float:
            return TOP + height * (1 - value / top)

        pairs = len({(r.feature, r.seed) for r in runs if r.model == model and r.side == FRONTIER})
        name = f"{html.escape(model)}, {pairs} pair{'s' * (pairs != 1)}"
        parts.append(f'<text class="name" x="{left:.0f}" y="{TOP - 6}">{name}</text>')
        for value in np.arange(0, top + 0.01, 0.5):
            parts.append(f'<path class="grid" d="M{left:.1f} {up(value):.1f}h{span:.1f}"/>')
            if not number:
                parts.append(f'<text x="{left - 6:.0f}" y="{up(value) + 4:.0f}" text-anchor="end">{value:g}</text>')
        parts.append(f'<path class="axis" d="M{left:.1f} {TOP}v{height}h{span:.1f}"/>')
        for budget in (b for b in (10, 30, 100, 300, 1000) if first <= b <= iterations):
            at = f'x="{across(budget):.0f}" y="{TOP + height + 16}" text-anchor="middle"'
            parts.append(f"<text {at}>{budget}</text>")
        for side, line in sides.items():
            points = " ".join(f"{across(b):.1f},{up(v):.1f}" for b, v in zip(budgets, line, strict=True))
            parts.append(f'<polyline class="line {side}" points="{points}"/>')
    foot = "Processor time in iterations of EPO"
    parts.append(f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{foot}</text>')
    return "\n".join([*parts, "</svg>", ""])

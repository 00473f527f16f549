"""Small crisp SVG drawings: a frontier, and a quantity over iterations. They fetch nothing and need no script.

Colours and type come from page.css, so one drawing serves light, dark, print and phones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from dreamy_lens.html.page import Html, decimals, escape, number
from dreamy_lens.results.pareto import hull_rows

if TYPE_CHECKING:
    from dreamy_lens.results.frontier import Frontier
    from dreamy_lens.results.history import History

WIDTH = 760
CLOUD = 900  # dots that a drawing shows of a history at most; more would say no more and weigh ten bytes each


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers within a range, about `count` of them; none in what is no range.

    >>> ticks(0.2, 1.1), ticks(math.nan, math.nan)
    ([0.2, 0.4, 0.6, 0.8, 1.0], [])
    """
    if not (math.isfinite(low) and math.isfinite(high) and high > low):
        return []
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((1, 2, 5, 10), key=lambda m: abs(math.log(m * power / rough)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def frontier_svg(
    frontier: Frontier, links: Sequence[str] | None = None, hull: bool = False, history: History | None = None
) -> Html:
    """A frontier as steps: to the right of each prompt and below it, nothing evaluated is better.

    Args:
        frontier: at least one prompt.
        links: for each prompt, the id of the element it is linked to.
        hull: also join the corners of the convex hull.
        history: draw the prompts it holds as a cloud behind the frontier.
    """
    x, y = frontier.cross_entropies, frontier.values
    plane = Plane(padded(x), padded(y), 380, "cross-entropy, nats per token (fluent on the left)", "value")
    across, up = plane.x(x), plane.y(y)
    parts = [plane.axes()]
    if history is not None:
        parts.append(_cloud(plane, history))
    steps = "".join(f"H{cx:.1f}V{cy:.1f}" for cx, cy in zip(across[1:], up[1:], strict=True))
    parts.append(f'<path class="dl-line" d="M{across[0]:.1f} {up[0]:.1f}{steps}"/>')
    if hull and len(frontier) > 1:
        corners = " ".join(f"{across[i]:.1f},{up[i]:.1f}" for i in hull_rows(y, x))
        parts.append(f'<polyline class="dl-hull" points="{corners}"/>')
    places, labelled = decimals(y), (-math.inf, math.inf)
    for i, prompt in enumerate(frontier):
        scores = f"{i + 1}: value {number(prompt.value, places)}, cross-entropy {number(prompt.cross_entropy, 2)}"
        # A prompt number further than its own size from the last one shown does not run into it.
        apart = max(abs(across[i] - labelled[0]) / 34, abs(up[i] - labelled[1]) / 22) >= 1
        name = f'<text x="{across[i] - 9:.1f}" y="{up[i] - 9:.1f}" text-anchor="end">{i + 1}</text>' if apart else ""
        labelled = (across[i], up[i]) if apart else labelled
        hover = f"<title>{scores}\n{escape(prompt.text)}</title>"
        dot = f'<circle cx="{across[i]:.1f}" cy="{up[i]:.1f}" r="6">{hover}</circle>'
        parts.append(f'<a href="#{escape(links[i])}">{name}{dot}</a>' if links else name + dot)
    return plane.svg("".join(parts), f"{len(frontier)} prompts by cross-entropy and value")


def evolution_svg(iterations: np.ndarray, values: np.ndarray, restarts: Sequence[int], title: str) -> Html:
    """A quantity over iterations as steps, restarts as dashed lines.

    Args:
        iterations: `[T]`.
        values: `[T]`; NaN where there is none yet.
        restarts: iterations with one.
        title: of the vertical axis.
    """
    known = np.isfinite(values)
    iterations, values = np.asarray(iterations)[known], np.asarray(values, dtype=np.float64)[known]
    if len(values) < 2:
        return Html("")
    plane = Plane((float(iterations[0]), float(iterations[-1])), padded(values), 220, "iteration", title)
    marks = "".join(f'<path class="dl-mark" d="M{plane.x(i):.1f} {plane.top}V{plane.bottom}"/>' for i in restarts)
    moves = np.flatnonzero(np.diff(values)) + 1
    steps = "".join(f"H{plane.x(iterations[i]):.1f}V{plane.y(values[i]):.1f}" for i in moves)
    end = f"H{plane.x(iterations[-1]):.1f}"
    line = f'<path class="dl-line" d="M{plane.x(iterations[0]):.1f} {plane.y(values[0]):.1f}{steps}{end}"/>'
    return plane.svg(plane.axes() + marks + line, f"{title} over iterations")


class Plane:
    """Axes with round numbers, and the way from data to the drawing.

    Args:
        x: range across.
        y: range upwards.
        height: of the drawing.
        x_title: of the axis across.
        y_title: of the other.
        counted: whether the axis upwards is of logarithms of counts, with its marks at powers of ten.
        width: of the drawing.
    """

    top = 26

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        height: int,
        x_title: str,
        y_title: str,
        counted: bool = False,
        width: int = WIDTH,
    ) -> None:
        self.x_range, self.y_range, self.titles = x, y, (x_title, y_title)
        self.width, self.height = width, height
        self.x_ticks, y_ticks = ticks(*x), ticks(*y, 5)
        self.x_places, places = _places(self.x_ticks), _places(y_ticks)
        self.y_labels = [(t, number(t, places)) for t in y_ticks]
        if counted:
            self.y_labels = [(float(t), f"{10**t:,}") for t in range(math.floor(y[1]) + 1)]
        widest = max((len(label) for _, label in self.y_labels), default=1)
        self.left, self.right, self.bottom = 18 + (9 if counted else 11) * widest, width - 12, height - 58

    def x(self, data: np.ndarray | float) -> np.ndarray:
        """Where data lies across."""
        share = (np.asarray(data, dtype=np.float64) - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        return self.left + share * (self.right - self.left)

    def y(self, data: np.ndarray | float) -> np.ndarray:
        """Where data lies from the top."""
        share = (np.asarray(data, dtype=np.float64) - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        return self.bottom - share * (self.bottom - self.top)

    def axes(self) -> str:
        """Grid, round numbers and titles."""
        parts = []
        for i, tick in enumerate(self.x_ticks):
            at, minor = f"{self.x(tick):.1f}", ' class="dl-minor"' if i % 2 else ""
            parts.append(f'<path class="dl-grid" d="M{at} {self.top}V{self.bottom}"/>')
            label = number(tick, self.x_places)
            parts.append(f'<text{minor} x="{at}" y="{self.bottom + 24}" text-anchor="middle">{label}</text>')
        for tick, label in self.y_labels:
            at = float(self.y(tick))
            parts.append(f'<path class="dl-grid" d="M{self.left} {at:.1f}H{self.right}"/>')
            parts.append(f'<text x="{self.left - 8}" y="{at + 5:.1f}" text-anchor="end">{label}</text>')
        middle = (self.left + self.right) / 2
        parts.append(
            f'<text class="dl-axis" x="{middle:.0f}" y="{self.height - 8}" text-anchor="middle">{self.titles[0]}</text>'
        )
        parts.append(f'<text class="dl-axis" x="{self.left}" y="14">{escape(self.titles[1])}</text>')
        return "".join(parts)

    def svg(self, content: str, label: str, slim: bool = False) -> Html:
        """The whole drawing; a slim one is about as wide as its text is made for, on phones too."""
        box = f'viewBox="0 0 {self.width} {self.height}"'
        kind = "dl-plot dl-slim" if slim else "dl-plot"
        return Html(f'<svg class="{kind}" {box} role="group" aria-label="{escape(label)}">{content}</svg>')


def _cloud(plane: Plane, history: History) -> str:
    """Evaluated prompts within the axes, as one path of dots; evenly thinned out if there are many."""
    x, y = history.cross_entropy, history.value
    (x0, x1), (y0, y1) = plane.x_range, plane.y_range
    rows = np.flatnonzero((x > x0) & (x < x1) & (y > y0) & (y < y1))
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), CLOUD)).astype(int)] if len(rows) else rows
    dots = "".join(f"M{a:.0f} {b:.0f}h0" for a, b in zip(plane.x(x[rows]), plane.y(y[rows]), strict=True))
    return f'<path class="dl-cloud" d="{dots}"/>' if dots else ""


def padded(values: np.ndarray) -> tuple[float, float]:
    """The range of those values that are finite, with room on both sides; from 0 to 1 if there are none."""
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = float(np.min(values)), float(np.max(values))
    room = 0.07 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def _places(marks: Sequence[float]) -> int:
    """Decimal places with which neighbouring marks differ."""
    step = min((b - a for a, b in pairwise(marks)), default=1.0)
    return max(0, -math.floor(math.log10(step) + 1e-9))

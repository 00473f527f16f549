"""Small SVG drawings of arrays: a frontier, a quantity over iterations, a histogram. They need no script.

Colours and fonts come from the style sheets, so one drawing fits light and dark pages, print, and phones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from dreamy_lens.html.escaping import Html, escape
from dreamy_lens.html.numbers import decimals, number

WIDTH = 760
BARS = 60  # most bars of a histogram; finer bins are merged
CLOUD = 900  # most dots that a drawing shows of a history; more would show nothing new and cost ten bytes each


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Return about `count` round numbers within a range, or none if the range is empty or not finite.

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
    cross_entropies: np.ndarray,
    values: np.ndarray,
    texts: Sequence[str],
    links: Sequence[str] | None = None,
    hull: Sequence[int] | np.ndarray = (),
    cloud: tuple[np.ndarray, np.ndarray] | None = None,
) -> Html:
    """Draw a frontier as steps. Every prompt that was evaluated lies on the steps or below them.

    Args:
        cross_entropies: Cross-entropy of each prompt, rising, `[F]`; there is at least one prompt.
        values: Value of each prompt, rising, `[F]`.
        texts: Text of each prompt.
        links: Id of the HTML element that each prompt's point links to.
        hull: Indices of the prompts at the corners of the convex hull, which a line joins.
        cloud: Cross-entropies and values of other prompts, drawn behind the frontier.
    """
    x, y = cross_entropies, values
    plane = Plane(padded(x), padded(y), 380, "cross-entropy, nats per token (fluent on the left)", "value")
    across, up = plane.x(x), plane.y(y)
    parts = [plane.axes()]
    if cloud is not None:
        parts.append(_cloud(plane, *cloud))
    steps = "".join(f"H{cx:.1f}V{cy:.1f}" for cx, cy in zip(across[1:], up[1:], strict=True))
    parts.append(f'<path class="dl-line" d="M{across[0]:.1f} {up[0]:.1f}{steps}"/>')
    if len(hull) > 1:
        corners = " ".join(f"{across[i]:.1f},{up[i]:.1f}" for i in hull)
        parts.append(f'<polyline class="dl-hull" points="{corners}"/>')
    places, labelled = decimals(y), (-math.inf, math.inf)
    for i, text in enumerate(texts):
        scores = f"{i + 1}: value {number(y[i], places)}, cross-entropy {number(x[i], 2)}"
        # Number a point only if it is so far from the last numbered point that the two numbers do not overlap.
        apart = max(abs(across[i] - labelled[0]) / 34, abs(up[i] - labelled[1]) / 22) >= 1
        name = f'<text x="{across[i] - 9:.1f}" y="{up[i] - 9:.1f}" text-anchor="end">{i + 1}</text>' if apart else ""
        labelled = (across[i], up[i]) if apart else labelled
        hover = f"<title>{scores}\n{escape(text)}</title>"
        dot = f'<circle cx="{across[i]:.1f}" cy="{up[i]:.1f}" r="6">{hover}</circle>'
        parts.append(f'<a href="#{escape(links[i])}">{name}{dot}</a>' if links else name + dot)
    return plane.svg("".join(parts), f"{len(texts)} prompts by cross-entropy and value")


def evolution_svg(iterations: np.ndarray, values: np.ndarray, restarts: Sequence[int], title: str) -> Html:
    """Draw a quantity over iterations as steps, with restarts as dashed lines.

    Args:
        iterations: Numbers of the iterations, `[T]`.
        values: Quantity after each iteration, `[T]`; NaN where it does not exist yet.
        restarts: Iterations that end with a restart.
        title: Title of the vertical axis.
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


class Mark(NamedTuple):
    """Value that a line marks in a histogram.

    Attributes:
        value: Position of the mark on the horizontal axis.
        text: Label of the mark, a few words.
        kind: "d" for a dream, "w" for a window, "q" for a quantile.
    """

    value: float
    text: str
    kind: str


def histogram_svg(edges: np.ndarray, counts: np.ndarray, marks: Sequence[Mark] = (), title: str = "value") -> Html:
    """Draw a histogram of the values of windows. Its scale is logarithmic, so that the few strongest ones are visible.

    Args:
        edges: Edges of the bins, rising, `[bins + 1]`.
        counts: Number of windows in each bin, `[bins]`.
        marks: Values that a line marks; the axis includes all of them.
        title: Title of the horizontal axis.
    """
    if not len(counts) or not counts.sum():
        return Html('<p class="dl-quiet">No window had a finite value.</p>')
    edges, counts = _merge_bins(np.asarray(edges, dtype=np.float64), np.asarray(counts, dtype=np.int64))
    high = math.log10(float(counts.max())) + 0.15
    ends = np.array([edges[0], edges[-1], *(m.value for m in marks if math.isfinite(m.value))])
    plane = Plane(padded(ends), (0.0, max(0.5, high)), 230, title, "", counted=True, width=460)
    bars = []
    for i, n in enumerate(counts.tolist()):
        if n:
            left, right, top = plane.x(edges[i]), plane.x(edges[i + 1]), plane.y(math.log10(n) if n > 1 else 0.08)
            hover = f"<title>{n:,} windows from {edges[i]:.4g} to {edges[i + 1]:.4g}</title>"
            wide, tall = max(1.0, float(right - left) - 1), float(plane.bottom - top)
            place = f'x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{tall:.1f}"'
            bars.append(f'<rect class="dl-bar" {place}>{hover}</rect>')
    content = plane.axes() + "".join(bars) + _marks(plane, marks)
    return plane.svg(content, f"{int(counts.sum()):,} windows by value, on a logarithmic scale", slim=True)


class Plane:
    """Axes with round numbers, and the map from data to positions in the drawing.

    Args:
        x: Range of the horizontal axis.
        y: Range of the vertical axis.
        height: Height of the drawing.
        x_title: Title of the horizontal axis.
        y_title: Title of the vertical axis.
        counted: Whether the vertical axis shows logarithms of counts, with ticks at powers of ten.
        width: Width of the drawing.
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
        """Return horizontal positions of data in the drawing."""
        share = (np.asarray(data, dtype=np.float64) - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        return self.left + share * (self.right - self.left)

    def y(self, data: np.ndarray | float) -> np.ndarray:
        """Return vertical positions of data in the drawing, measured from the top."""
        share = (np.asarray(data, dtype=np.float64) - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        return self.bottom - share * (self.bottom - self.top)

    def axes(self) -> str:
        """Return the grid, the tick labels and the titles."""
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
        """Return the whole drawing.

        Args:
            content: SVG elements of the drawing.
            label: Description for screen readers.
            slim: Whether the drawing is narrow, so that its text keeps a small size on phones.
        """
        box = f'viewBox="0 0 {self.width} {self.height}"'
        kind = "dl-plot dl-slim" if slim else "dl-plot"
        return Html(f'<svg class="{kind}" {box} role="group" aria-label="{escape(label)}">{content}</svg>')


def _cloud(plane: Plane, x: np.ndarray, y: np.ndarray) -> str:
    """Return the points within the axes as one path of dots, evenly thinned out if there are many."""
    (x0, x1), (y0, y1) = plane.x_range, plane.y_range
    rows = np.flatnonzero((x > x0) & (x < x1) & (y > y0) & (y < y1))
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), CLOUD)).astype(int)] if len(rows) else rows
    dots = "".join(f"M{a:.0f} {b:.0f}h0" for a, b in zip(plane.x(x[rows]), plane.y(y[rows]), strict=True))
    return f'<path class="dl-cloud" d="{dots}"/>' if dots else ""


def _marks(plane: Plane, marks: Sequence[Mark]) -> str:
    """Return a vertical line for each mark, with a label for dreams and windows."""
    parts, lines = [], 0
    for mark in sorted(marks, key=lambda m: m.value):
        if not math.isfinite(mark.value):
            continue
        at = float(plane.x(mark.value))
        kind = {"d": "dl-at", "w": "dl-at dl-w"}.get(mark.kind, "dl-at dl-q")
        parts.append(
            f'<path class="{kind}" d="M{at:.1f} {plane.top}V{plane.bottom}"><title>{escape(mark.text)}</title></path>'
        )
        if mark.kind in "dw":
            right = at < (plane.left + plane.right) / 2
            place = f'x="{at + (6 if right else -6):.1f}" y="{plane.top + 14 + 18 * lines}"'
            anchor = "start" if right else "end"
            parts.append(
                f'<text class="dl-over dl-note-{mark.kind}" {place} text-anchor="{anchor}">{escape(mark.text)}</text>'
            )
            lines += 1
    return "".join(parts)


def _merge_bins(edges: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge neighbouring bins until at most `BARS` are left, without empty bins at the ends."""
    full = np.flatnonzero(counts)
    counts, edges = counts[full[0] : full[-1] + 1], edges[full[0] : full[-1] + 2]
    step = -(-len(counts) // BARS)
    if step == 1:
        return edges, counts
    padding = -len(counts) % step
    width = edges[1] - edges[0]
    counts = np.concatenate([counts, np.zeros(padding, dtype=np.int64)]).reshape(-1, step).sum(1)
    return edges[0] + np.arange(len(counts) + 1) * width * step, counts


def padded(values: np.ndarray) -> tuple[float, float]:
    """Return the range of the finite values with some room on both sides, or (0, 1) if no value is finite."""
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = float(np.min(values)), float(np.max(values))
    room = 0.07 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def _places(marks: Sequence[float]) -> int:
    """Return the number of decimal places with which neighbouring ticks differ."""
    step = min((b - a for a, b in pairwise(marks)), default=1.0)
    return max(0, -math.floor(math.log10(step) + 1e-9))

"""Charts of studies: lines, steps, points and deviations in a grid of panels, as SVG for papers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np

from dreamy_lens.errors import SettingsError, quoted
from dreamy_lens.figures import style
from dreamy_lens.figures.heat_cells import tooltip
from dreamy_lens.figures.svg_figure import CELL, LINE, QUIET, SvgFigure, shortened, text_cells, text_element
from dreamy_lens.figures.token_strip import GAP, SMALL, TOKEN, WIDTH
from dreamy_lens.html.escaping import visible
from dreamy_lens.html.numbers import number
from dreamy_lens.html.svg import padded, ticks

_PLOT = 150.0  # height of a panel's plot
_COLOURS = (*style.LIGHT, "#8a929c")
_DASHES = ("", "6 3", "2 2", "7 2 2 2", "10 4", "", "")


class DrawnSeries(Protocol):
    """Points of a chart that belong together."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def x(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def y(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def low(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def high(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def colour(self) -> int: ...  # noqa: D102
    @property
    def thin(self) -> bool: ...  # noqa: D102
    @property
    def labels(self) -> Sequence[str]: ...  # noqa: D102


class DrawnChart(Protocol):
    """Chart: titles, series, and names of categories if the horizontal axis has no numbers."""

    @property
    def title(self) -> str: ...  # noqa: D102
    @property
    def x_title(self) -> str: ...  # noqa: D102
    @property
    def y_title(self) -> str: ...  # noqa: D102
    @property
    def series(self) -> Sequence[DrawnSeries]: ...  # noqa: D102
    @property
    def categories(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def logarithmic(self) -> bool: ...  # noqa: D102


def study_figure(charts: Sequence[DrawnChart], title: str, columns: int = 2, width: float = WIDTH) -> SvgFigure:
    """Draw charts in a grid.

    Args:
        charts: Charts, such as `study.charts`.
        title: Description for screen readers, and title of the page.
        columns: Number of charts side by side.
        width: Width in pixels, 96 to the inch.

    Returns:
        Figure whose text is 7 and 8 points high if it is printed at its own size.

    >>> from dreamy_lens.results.study import ChartSeries, StudyChart
    >>> line = ChartSeries("found", (1.0, 2.0), (0.5, 1.5))
    >>> study_figure([StudyChart("Values", "seed", "value", (line,))], "Seeds").svg.count("<polyline")
    1
    """
    if isinstance(columns, bool) or not isinstance(columns, (int, np.integer)) or columns < 1:
        raise SettingsError(f"columns is {quoted(columns)}; it is the number of charts side by side, at least 1.")
    columns = min(int(columns), max(1, len(charts)))
    each = (width - GAP) / columns - GAP
    parts: list[str] = []
    y = 0.0
    for first in range(0, len(charts), columns):
        heights = []
        for k, chart in enumerate(charts[first : first + columns]):
            drawn, height = _panel(chart, GAP + k * (each + GAP), y, each)
            parts.append(drawn)
            heights.append(height)
        y += max(heights) + 10
    return SvgFigure("".join(parts), width, max(y, 20.0), title)


def _panel(chart: DrawnChart, x0: float, y0: float, wide: float) -> tuple[str, float]:
    """Return one chart at a place, and its height."""
    plane = _Axes(chart, x0, y0, wide)
    parts = [
        text_element(x0, y0 + 12, shortened(visible(chart.title), int(wide / (CELL * TOKEN))), TOKEN, bold=True),
        text_element(x0, y0 + 25, shortened(visible(chart.y_title), int(wide / (CELL * SMALL))), SMALL, colour=QUIET),
        plane.grid(),
    ]
    for series in [*(s for s in chart.series if s.thin), *(s for s in chart.series if not s.thin)]:
        parts.append(_series(series, plane))
    across = shortened(visible(chart.x_title), int(wide / (CELL * SMALL)))
    parts.append(
        text_element((plane.left + plane.right) / 2, plane.bottom + 26, across, SMALL, anchor="middle", colour=QUIET)
    )
    legend, end = _legend(chart, x0, plane.bottom + 42, wide)
    return "".join([*parts, legend]), end - y0


def _legend(chart: DrawnChart, x0: float, y: float, wide: float) -> tuple[str, float]:
    entries = {s.name: s for s in reversed(chart.series) if s.name}
    if not entries:
        return "", y - 12
    parts, x = [], x0
    for name, series in reversed(list(entries.items())):
        shown = shortened(visible(name), max(8, int((wide - 24) / (CELL * SMALL))))
        room = 22 + text_cells(shown) * CELL * SMALL + 10
        if x > x0 and x + room > x0 + wide:
            x, y = x0, y + 13
        colour = _COLOURS[series.colour % len(_COLOURS)]
        parts.append(_mark(series, x + 8, y - 3, colour))
        parts.append(text_element(x + 20, y, shown, SMALL))
        x += room
    return "".join(parts), y + 6


def _mark(series: DrawnSeries, x: float, y: float, colour: str) -> str:
    if series.kind in ("points", "bars"):
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>'
    dash = _DASHES[series.colour % len(_DASHES)]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x - 8:.1f}" x2="{x + 8:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" '
        f'stroke-width="2"{dashes}/>'
    )


class _Axes:
    """Axes of one chart: where a point is in the drawing."""

    def __init__(self, chart: DrawnChart, x0: float, y0: float, wide: float) -> None:
        self.chart = chart
        xs = [self._scaled(v) for s in chart.series for v in s.x]
        ys = [float(v) for s in chart.series for v in (*s.y, *s.low, *s.high)]
        self.x_range = padded(np.array(xs)) if not chart.categories else (-0.5, len(chart.categories) - 0.5)
        self.y_range = padded(np.array(ys))
        self.y_ticks = ticks(*self.y_range, 4)
        places = _places(self.y_ticks)
        self.y_labels = [number(t, places) for t in self.y_ticks]
        widest = max(map(len, self.y_labels), default=1)
        self.left, self.right = x0 + 8 + widest * CELL * SMALL, x0 + wide - 6
        self.top, self.bottom = y0 + 32, y0 + 32 + _PLOT

    def _scaled(self, value: float) -> float:
        if not self.chart.logarithmic:
            return float(value)
        return math.log10(value) if value > 0 else math.nan

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (self._scaled(value) - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def grid(self) -> str:
        parts = []
        for tick, label in zip(self.y_ticks, self.y_labels, strict=True):
            at = self.y(tick)
            parts.append(f'<path d="M{self.left:.1f} {at:.1f}H{self.right:.1f}" stroke="#e3e6ea" stroke-width=".8"/>')
            parts.append(text_element(self.left - 4, at + 3, label, SMALL, anchor="end", colour=QUIET))
        for at, label in self._x_labels():
            parts.append(text_element(at, self.bottom + 13, label, SMALL, anchor="middle", colour=QUIET))
        edge = f"M{self.left:.1f} {self.top:.1f}V{self.bottom:.1f}H{self.right:.1f}"
        parts.append(f'<path d="{edge}" fill="none" stroke="{LINE}" stroke-width=".8"/>')
        return "".join(parts)

    def _x_labels(self) -> list[tuple[float, str]]:
        names = self.chart.categories
        if names:
            room = int((self.right - self.left) / len(names) / (CELL * SMALL)) - 1
            step = 1 if room >= 3 else -(-3 // max(1, room))
            cells = max(3, room * step)
            return [(self.x(i), shortened(visible(n), cells)) for i, n in enumerate(names) if i % step == 0]
        if self.chart.logarithmic:
            low, high = self.x_range
            powers = [m * 10.0**p for p in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
            inside = [v for v in powers if low <= math.log10(v) <= high]
            inside = inside if len(inside) <= 6 else [v for v in inside if f"{v:e}".startswith("1")]
            return [(self.x(v), f"{v:g}") for v in inside]
        found = ticks(*self.x_range, 4)
        places = _places(found)
        return [(self.x(t), number(t, places)) for t in found]


def _places(marks: Sequence[float]) -> int:
    """Return the number of decimal places with which neighbouring ticks differ."""
    step = min((b - a for a, b in pairwise(marks)), default=1.0)
    return min(6, max(0, -math.floor(math.log10(step) + 1e-9))) if step > 0 else 0


def _series(series: DrawnSeries, plane: _Axes) -> str:
    colour = _COLOURS[series.colour % len(_COLOURS)]
    points = [
        (plane.x(a), plane.y(b), i)
        for i, (a, b) in enumerate(zip(series.x, series.y, strict=True))
        if math.isfinite(plane.x(a)) and math.isfinite(b)
    ]
    if not points:
        return ""
    parts = []
    banded = len(series.low) == len(series.x) == len(series.high)
    if banded and series.kind != "bars":
        ends = [(x, plane.y(series.low[i]), plane.y(series.high[i])) for x, _, i in points]
        ends = [e for e in ends if math.isfinite(e[1]) and math.isfinite(e[2])]
        outline = " ".join([*(f"{x:.1f},{a:.1f}" for x, a, _ in ends), *(f"{x:.1f},{b:.1f}" for x, _, b in ends[::-1])])
        parts.append(f'<polygon points="{outline}" fill="{colour}" fill-opacity=".14"/>')
    if series.kind in ("line", "steps"):
        dash = _DASHES[series.colour % len(_DASHES)]
        dashes = f' stroke-dasharray="{dash}"' if dash and not series.thin else ""
        wide = 0.7 if series.thin else 1.8
        faint = ' stroke-opacity=".45"' if series.thin else ""
        corners: list[tuple[float, float]] = []
        for x, y, _ in points:
            if series.kind == "steps" and corners:
                corners.append((x, corners[-1][1]))
            corners.append((x, y))
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{wide}"{dashes}{faint}>'
            f"{tooltip(series.name)}</polyline>"
        )
        return "".join(parts)
    for x, y, i in points:
        if series.kind == "bars" and banded and math.isfinite(series.low[i]) and math.isfinite(series.high[i]):
            ends = f"M{x:.1f} {plane.y(series.low[i]):.1f}V{plane.y(series.high[i]):.1f}"
            parts.append(f'<path d="{ends}" stroke="{colour}" stroke-width="1.4"/>')
        said = series.labels[i] if i < len(series.labels) else series.name
        size, faint = (1.6, ' fill-opacity=".5"') if series.thin else (2.6, "")
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{colour}"{faint}>{tooltip(said)}</circle>')
    return "".join(parts)

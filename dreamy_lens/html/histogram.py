"""A histogram as a small drawing, on a scale of logarithms so that the few strongest can be seen beside the many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dreamy_lens.html.page import Html, escape
from dreamy_lens.html.svg import Plane, padded

BARS = 60  # drawn at most; finer bins are put together


class Mark(NamedTuple):
    """A value that is marked: "d" a dream's, "w" a window's, "q" a quantile."""

    value: float
    text: str
    kind: str


def histogram_svg(edges: np.ndarray, counts: np.ndarray, marks: Sequence[Mark] = (), title: str = "value") -> Html:
    """How many windows have which value, with some values marked.

    Args:
        edges: where bins begin and end, `[bins + 1]`.
        counts: `[bins]`.
        marks: lines with a few words; the axis reaches all of them.
        title: of the horizontal axis.
    """
    if not len(counts) or not counts.sum():
        return Html('<p class="dl-quiet">No window had a finite value.</p>')
    edges, counts = _coarser(np.asarray(edges, dtype=np.float64), np.asarray(counts, dtype=np.int64))
    high = math.log10(float(counts.max())) + 0.15
    ends = np.array([edges[0], edges[-1], *(m.value for m in marks if math.isfinite(m.value))])
    plane = Plane(padded(ends), (0.0, max(0.5, high)), 230, title, "", counted=True, width=460)
    bars = []
    for i, n in enumerate(counts.tolist()):
        if n:
            left, right, top = plane.x(edges[i]), plane.x(edges[i + 1]), plane.y(math.log10(n) if n > 1 else 0.08)
            said = f"<title>{n:,} windows from {edges[i]:.4g} to {edges[i + 1]:.4g}</title>"
            wide, tall = max(1.0, float(right - left) - 1), float(plane.bottom - top)
            place = f'x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{tall:.1f}"'
            bars.append(f'<rect class="dl-bar" {place}>{said}</rect>')
    content = plane.axes() + "".join(bars) + _marks(plane, marks)
    return plane.svg(content, f"{int(counts.sum()):,} windows by value, on a logarithmic scale", slim=True)


def _marks(plane: Plane, marks: Sequence[Mark]) -> str:
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


def _coarser(edges: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neighbouring bins put together until there are few enough, without empty ones at the ends."""
    full = np.flatnonzero(counts)
    counts, edges = counts[full[0] : full[-1] + 1], edges[full[0] : full[-1] + 2]
    step = -(-len(counts) // BARS)
    if step == 1:
        return edges, counts
    more = -len(counts) % step
    width = edges[1] - edges[0]
    counts = np.concatenate([counts, np.zeros(more, dtype=np.int64)]).reshape(-1, step).sum(1)
    return edges[0] + np.arange(len(counts) + 1) * width * step, counts

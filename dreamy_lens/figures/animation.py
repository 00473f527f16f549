"""Replay of a search for talks: an SVG that moves by itself and loops, with no script."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dreamy_lens.figures import style
from dreamy_lens.figures.svg_figure import CELL, QUIET, SvgFigure, text_element
from dreamy_lens.html.escaping import visible
from dreamy_lens.html.numbers import decimals, number
from dreamy_lens.html.svg import ticks

WIDTH, LEFT, TOP, RIGHT, FLOOR, HEIGHT = 720, 62, 50, 20, 372, 506
FRAMES = 90
"""Most frames of a replay."""

_TEXT, _LINES = 15.0, 3  # size and most lines of a prompt's text


@dataclass(frozen=True)
class ReplayFrame:
    """Frontier after an iteration.

    Attributes:
        iteration: Number of the iteration.
        cross_entropies: Cross-entropy of each prompt of the frontier, rising, `[F]`.
        values: Value of each prompt of the frontier, rising, `[F]`.
        best: Index of the prompt that is shown as the best one.
        text: Text of that prompt.
        evaluated: Number of prompts that were evaluated up to this iteration.
    """

    iteration: int
    cross_entropies: np.ndarray
    values: np.ndarray
    best: int
    text: str
    evaluated: int


def replay(frames: Sequence[ReplayFrame], title: str, subtitle: str = "", seconds: float = 12.0) -> SvgFigure:
    """Draw a search as an animation: the frontier grows, and the best prompt changes below it.

    A program that does not show animations shows the end of the search, and so does a browser whose user asks for less
    motion.

    Args:
        frames: Frontiers, in the order of the iterations; at least one.
        title: Title, such as the name of the feature.
        subtitle: Text beside the title.
        seconds: Duration of one loop; the last frame stays for a quarter of it.
    """
    xs, ys = (np.concatenate([getattr(f, name) for f in frames]) for name in ("cross_entropies", "values"))
    plane = _Plane(_padded(xs), _padded(ys))
    places, last = decimals(ys), frames[-1].iteration
    hold = 0.25 * seconds if len(frames) > 1 else seconds
    step = (seconds - hold) / max(1, len(frames) - 1)
    first, end = 100 * step / seconds, 100 * hold / seconds
    rules = (
        f".r{{visibility:hidden;animation:r {seconds:g}s step-end infinite}}"
        f".e{{animation:e {seconds:g}s step-end infinite}}"
        f"@keyframes r{{0%{{visibility:visible}}{first:.3f}%{{visibility:hidden}}}}"
        f"@keyframes e{{0%{{visibility:visible}}{end:.3f}%{{visibility:hidden}}}}"
        "@media(prefers-reduced-motion:reduce){.r,.e{animation:none}}"
        f".l{{fill:none;stroke:{style.LIGHT[0]};stroke-width:2}}"
        f".p{{fill:none;stroke:{style.LIGHT[0]};stroke-width:7;stroke-linecap:round}}"
        f".b{{fill:none;stroke:#1b1e23;stroke-width:2}}.t{{fill:{style.LIGHT[0]}}}"
    )
    head = text_element(LEFT - 44, 28, visible(title), 19, mono=False, bold=True)
    beside = text_element(WIDTH - RIGHT, 28, visible(subtitle), 13, mono=False, anchor="end", colour=QUIET)
    track = f'<rect x="{LEFT}" y="{HEIGHT - 12}" width="{WIDTH - LEFT - RIGHT}" height="4" rx="2" fill="#e3e6ea"/>'
    moving = []
    for i, frame in enumerate(frames):
        final = i == len(frames) - 1
        # Each frame begins its own turn of the common cycle in the past, so that all of them run from the start.
        delay = "" if i == 0 else f' style="animation-delay:{i * step - seconds:.3f}s"'
        content = _frame(frame, plane, places, last)
        moving.append(f'<g class="{"e" if final else "r"}"{delay}>{content}</g>')
    body = f"<style>{rules}</style>{head}{beside}{plane.axes()}{track}{''.join(moving)}"
    return SvgFigure(body, WIDTH, HEIGHT, f"Replay of {title}")


class _Plane:
    """Plane of value against cross-entropy, with its axes."""

    def __init__(self, across: tuple[float, float], up: tuple[float, float]) -> None:
        self.across, self.up = across, up

    def x(self, cross_entropy: np.ndarray | float) -> np.ndarray:
        low, high = self.across
        return LEFT + (np.asarray(cross_entropy) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: np.ndarray | float) -> np.ndarray:
        low, high = self.up
        return FLOOR - (np.asarray(value) - low) / (high - low) * (FLOOR - TOP)

    def axes(self) -> str:
        parts = []
        across, up = ticks(*self.across, 7), ticks(*self.up, 6)
        for marks, horizontal in ((across, True), (up, False)):
            places = decimals([b - a for a, b in pairwise(marks)] or [1.0], 1)
            for mark in marks:
                x, y = (self.x(mark), FLOOR) if horizontal else (LEFT, self.y(mark))
                line = f"M{x:.1f} {TOP}V{FLOOR}" if horizontal else f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}"
                parts.append(f'<path d="{line}" stroke="#e3e6ea"/>')
                where = (float(x), FLOOR + 18.0, "middle") if horizontal else (LEFT - 8.0, float(y) + 4, "end")
                text = number(mark, places)
                parts.append(text_element(*where[:2], text, 12, mono=False, anchor=where[2], colour=QUIET))
        middle = (LEFT + WIDTH - RIGHT) / 2
        words = "cross-entropy, nats per token (fluent on the left)"
        parts.append(text_element(middle, FLOOR + 38, words, 13, mono=False, anchor="middle"))
        turned = text_element(0, 0, "value", 13, mono=False, anchor="middle")
        parts.append(f'<g transform="translate(16 {(TOP + FLOOR) / 2:.0f}) rotate(-90)">{turned}</g>')
        return "".join(parts)


def _frame(frame: ReplayFrame, plane: _Plane, places: int, last: int) -> str:
    """Return what is shown during one frame."""
    if not len(frame.values):
        return ""
    x, y = plane.x(frame.cross_entropies), plane.y(frame.values)
    steps = "".join(f"H{cx:.1f}V{cy:.1f}" for cx, cy in zip(x[1:], y[1:], strict=True))
    dots = "".join(f"M{cx:.1f} {cy:.1f}h0" for cx, cy in zip(x, y, strict=True))
    best = frame.best
    drawn = f'<path class="l" d="M{x[0]:.1f} {y[0]:.1f}{steps}"/><path class="p" d="{dots}"/>'
    ring = f'<circle class="b" cx="{x[best]:.1f}" cy="{y[best]:.1f}" r="8"/>'
    done = frame.iteration / last if last else 1.0
    length = done * (WIDTH - LEFT - RIGHT)
    bar = f'<rect class="t" x="{LEFT}" y="{HEIGHT - 12}" width="{length:.0f}" height="4" rx="2"/>'
    scores = f"value {number(frame.values[best], places)}, cross-entropy {number(frame.cross_entropies[best], 2)}"
    counted = f"iteration {frame.iteration} · {frame.evaluated:,} prompts"
    y0 = FLOOR + 62
    said = text_element(LEFT - 44, y0, scores, 14, mono=False, bold=True)
    said += text_element(WIDTH - RIGHT, y0, counted, 13, mono=False, anchor="end", colour=QUIET)
    for i, line in enumerate(_lines(frame.text)):
        said += text_element(LEFT - 44, y0 + 20 + 18 * i, line, _TEXT)
    return drawn + ring + bar + said


def _lines(text: str) -> list[str]:
    """Return a prompt's text as lines, in which every character is visible."""
    cells = int((WIDTH - RIGHT - LEFT + 44) / (CELL * _TEXT))
    lines = textwrap.wrap(visible(text.removeprefix(" ")), cells, drop_whitespace=True) or ["∅"]
    return lines if len(lines) <= _LINES else [*lines[: _LINES - 1], lines[_LINES - 1][: cells - 1] + "…"]


def _padded(values: np.ndarray) -> tuple[float, float]:
    """Return a range with some room around all values."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    room = 0.05 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room

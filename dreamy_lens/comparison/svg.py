"""SVG drawing of a comparison, like Figure 3 of the paper: dreams, windows, and the region without windows."""

from __future__ import annotations

import math

import numpy as np

from dreamy_lens.comparison.content import ComparisonContent
from dreamy_lens.html.escaping import Html, escape
from dreamy_lens.html.numbers import decimals, number
from dreamy_lens.html.svg import Plane, padded
from dreamy_lens.scan.window import Window

DOTS = 700  # most dots of the cloud


def shown_range(comparison: ComparisonContent) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the ranges of cross-entropy and value that include the dreams and the kept windows."""
    scored = comparison.corpus_frontier.scored
    x = [p.cross_entropy for p in comparison.frontier] + [float(w.cross_entropy or 0) for w in scored]
    y = [p.value for p in comparison.frontier] + [w.value for w in scored]
    if len(comparison.cloud):
        # Random windows may lie far out, so the range includes most of them, but not all.
        x += np.quantile(comparison.cloud[:, 0], [0.02, 0.98]).tolist()
        y += np.quantile(comparison.cloud[:, 1], [0.02, 0.98]).tolist()
    return padded(np.array(x or [0.0, 1.0])), padded(np.array(y or [0.0, 1.0]))


def comparison_svg(comparison: ComparisonContent, names: dict[object, str]) -> Html:
    """Draw value against cross-entropy: dreams, windows, and the region without windows.

    Args:
        comparison: Comparison to draw.
        names: Ids of the HTML elements that points link to. The key of a dream is its index in the frontier, the key of
            a window is the window.
    """
    across, up = shown_range(comparison)
    plane = Plane(across, up, 470, "cross-entropy, nats per token (fluent on the left)", "value")
    parts = [_pattern(), _region(plane, comparison), plane.axes(), _cloud(plane, comparison.cloud)]
    parts += [_limit(plane, comparison), _label(plane, comparison), _edge(plane, comparison), _steps(plane, comparison)]
    drawn: set[int] = set()
    for windows, kind in ((comparison.top, "dl-w"), (comparison.fluent, "dl-w dl-f")):
        for window in reversed(windows):  # the strongest windows last, so that they are on top
            if window.number not in drawn and math.isfinite(math.nan if (c := window.cross_entropy) is None else c):
                drawn.add(window.number)
                parts.append(_window(plane, window, kind, names.get(window)))
    places = decimals([p.value for p in comparison.frontier] or [1.0])
    for i, prompt in enumerate(comparison.frontier):
        scores = f"value {number(prompt.value, places)}, cross-entropy {number(prompt.cross_entropy, 2)}"
        x, y = plane.x(prompt.cross_entropy), plane.y(prompt.value)
        title = f"<title>dream {i + 1}: {scores}\n{escape(prompt.text)}</title>"
        dot = f'<circle class="dl-p" cx="{x:.1f}" cy="{y:.1f}" r="6.5">{title}</circle>'
        parts.append(_linked(dot, names.get(i)))
    return plane.svg("".join(parts), _description(comparison))


def comparison_key(comparison: ComparisonContent) -> Html:
    """Return a legend that explains the marks of the drawing."""
    line = '<path class="dl-line" d="M0 6H26"/><circle class="dl-p" cx="13" cy="6" r="5"/>'
    entries = [(line, f"{len(comparison.frontier)} dreams, the frontier")]
    entries.append((_square(13, 6, "dl-w"), f"the {len(comparison.top)} strongest windows"))
    if comparison.fluent:
        entries.append((_square(13, 6, "dl-w dl-f"), "the strongest of each quarter of a nat"))
    if len(comparison.cloud):
        dots = '<path class="dl-cloud" d="M6 8h0M13 4h0M19 8h0"/>'
        entries.append((dots, f"{len(comparison.cloud):,} windows at random"))
    area = '<rect class="dl-area" width="26" height="12"/><path class="dl-edge" d="M0 11H26"/>'
    entries.append((area, "beyond the corpus: no window is there"))
    items = (
        f'<span><svg class="dl-plot" viewBox="0 0 26 12" aria-hidden="true">{mark}</svg>{text}</span>'
        for mark, text in entries
    )
    return Html(f'<p class="dl-key">{"".join(items)}</p>')


def _description(comparison: ComparisonContent) -> str:
    """Describe the drawing for screen readers."""
    n, windows = len(comparison.frontier), len(comparison.top)
    return f"{n} dreams and {windows} windows by cross-entropy and value. {comparison.sentence}"


def _pattern() -> str:
    """Return the definition of the hatching."""
    lines = '<path class="dl-hatch" d="M0 9L9 0M-2 2L2 -2M7 11L11 7"/>'
    return f'<defs><pattern id="dl-hatched" width="9" height="9" patternUnits="userSpaceOnUse">{lines}</pattern></defs>'


def _corners(plane: Plane, comparison: ComparisonContent) -> list[tuple[float, float, bool]]:
    """Return the corners of the line above which no window lies: x, y, and whether a window may be below the line."""
    costs, highs = comparison.corpus_frontier.ceiling()
    corners = []
    for cost, high in zip(costs.tolist(), highs.tolist(), strict=True):
        x = plane.left if cost == -math.inf else float(np.clip(plane.x(cost), plane.left, plane.right))
        y = plane.bottom if high == -math.inf else float(np.clip(plane.y(high), plane.top, plane.bottom))
        corners.append((x, y, high > -math.inf))
    return corners


def _region(plane: Plane, comparison: ComparisonContent) -> str:
    """Return the hatched region that no window reaches."""
    if not comparison.top:
        return ""
    corners = _corners(plane, comparison)
    steps = "".join(f"H{x:.1f}V{y:.1f}" for x, y, _ in corners)
    shape = f"M{plane.left} {plane.top}V{corners[0][1]:.1f}{steps}H{plane.right}V{plane.top}Z"
    return f'<path class="dl-area" d="{shape}"/><path d="{shape}" fill="url(#dl-hatched)" stroke="none"/>'


def _label(plane: Plane, comparison: ComparisonContent) -> str:
    """Return the label of the region that no window reaches."""
    if not comparison.top:
        return ""
    text = f"Beyond the corpus ({comparison.scanned.extent})"
    return f'<text class="dl-over dl-note-w" x="{plane.left + 14}" y="{plane.top + 26}">{escape(text)}</text>'


def _edge(plane: Plane, comparison: ComparisonContent) -> str:
    """Return the lower edge of the region that no window reaches."""
    if not comparison.top:
        return ""
    path, started = "", False
    for x, y, has_windows in _corners(plane, comparison):
        path += (
            f"H{x:.1f}V{y:.1f}"
            if started
            else f"M{x:.1f} {plane.bottom}V{y:.1f}"
            if has_windows and x > plane.left
            else f"M{x:.1f} {y:.1f}"
            if has_windows
            else ""
        )
        started = started or has_windows
    return f'<path class="dl-edge" d="{path}H{plane.right}"/>' if started else ""


def _steps(plane: Plane, comparison: ComparisonContent) -> str:
    """Return the frontier of the dreams as a line of steps."""
    frontier = comparison.frontier
    if not len(frontier):
        return ""
    across, up = plane.x(frontier.cross_entropies), plane.y(frontier.values)
    steps = "".join(f"H{x:.1f}V{y:.1f}" for x, y in zip(across[1:], up[1:], strict=True))
    return f'<path class="dl-line" d="M{across[0]:.1f} {up[0]:.1f}{steps}H{plane.right}"/>'


def _cloud(plane: Plane, points: np.ndarray) -> str:
    """Return random windows as one path of dots."""
    (x0, x1), (y0, y1) = plane.x_range, plane.y_range
    x, y = points[:DOTS, 0], points[:DOTS, 1]
    inside = (x > x0) & (x < x1) & (y > y0) & (y < y1)
    pairs = zip(plane.x(x[inside]), plane.y(y[inside]), strict=True)
    dots = "".join(dict.fromkeys(f"M{a:.0f} {b:.0f}h0" for a, b in pairs))  # each pixel once
    return f'<path class="dl-cloud" d="{dots}"/>' if dots else ""


def _limit(plane: Plane, comparison: ComparisonContent) -> str:
    """Return a vertical line at the cross-entropy of the first sentence, with a label."""
    limit = comparison.headline.limit
    if not plane.x_range[0] < limit < plane.x_range[1]:
        return ""
    at = float(plane.x(limit))
    line = f'<path class="dl-at dl-q" d="M{at:.1f} {plane.top}V{plane.bottom}"/>'
    text = f"cross-entropy {limit:.4g}"
    right = at < plane.right - 130
    place = f'x="{at + (6 if right else -6):.1f}" y="{plane.bottom - 8}" text-anchor="{"start" if right else "end"}"'
    return f'{line}<text class="dl-over" {place}>{text}</text>'


def _window(plane: Plane, window: Window, kind: str, link: str | None) -> str:
    """Return the mark of a window."""
    x, y = float(plane.x(float(window.cross_entropy or 0))), float(plane.y(window.value))
    scores = f"value {window.value:.4g}, cross-entropy {window.cross_entropy:.2f}, {escape(window.document)}"
    return _linked(_square(x, y, kind, f"<title>{scores}\n{escape(window.text)}</title>"), link)


def _square(x: float, y: float, kind: str, title: str = "") -> str:
    """Return a square, the mark of windows."""
    return f'<rect class="dl-p {kind}" x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10">{title}</rect>'


def _linked(mark: str, link: str | None) -> str:
    """Return a mark as a link to an element, if there is one."""
    return mark if link is None else f'<a href="#{link}">{mark}</a>'

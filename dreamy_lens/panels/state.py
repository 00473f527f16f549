"""Turn runs and attributions into small JSON values for the views. Nothing here displays anything."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from dreamy_lens.results.attribution import Attribution
    from dreamy_lens.results.history import History
    from dreamy_lens.results.prompt import Prompt
    from dreamy_lens.results.snapshot import Snapshot
    from dreamy_lens.runs.dream import Dream

CLOUD = 1000
"""Most evaluated prompts that the cloud of a view shows."""

_LEVELS, _DIGIT = 720, 90  # steps of a coordinate of the cloud, finer than a pixel; values of one of its letters


def rounded(x: float, digits: int = 6) -> float | None:
    """Round a number to significant digits.

    Args:
        x: Number to round.
        digits: Number of significant digits.

    Returns:
        Rounded number; None for infinities and NaN, which JSON does not have.
    """
    return float(f"{x:.{digits}g}") if math.isfinite(x) else None


def key(ids: Iterable[int]) -> str:
    """Return the key that identifies a prompt in a view.

    Args:
        ids: Token ids of the prompt.
    """
    return ".".join(str(int(i)) for i in ids)


def frontier_entry(prompt: Prompt) -> dict[str, Any]:
    """Return the entry of a prompt on a frontier.

    Args:
        prompt: Prompt with its scores.
    """
    return {
        "key": key(prompt.ids),
        "ids": list(prompt.ids),
        "tokens": list(prompt.tokens),
        "text": prompt.text,
        "x": rounded(prompt.cross_entropy),
        "y": rounded(prompt.value),
        "it": prompt.provenance.iteration,
        "trips": prompt.round_trips,
    }


def attributed_entry(attribution: Attribution, text: str, trips: bool, partial: bool = False) -> dict[str, Any]:
    """Return the entry of a prompt with its attribution.

    Args:
        attribution: Attribution of the prompt.
        text: Text of the prompt.
        trips: Whether the prompt round-trips.
        partial: Whether more substitutes will be tried.
    """
    n, k = attribution.candidates.shape
    best = [attribution.top(i, k) for i in range(n)]
    return {
        **scored_entry(attribution.ids, attribution.tokens, text, trips, attribution.value, attribution.cross_entropy),
        "drop": [rounded(x) for x in attribution.drop_to_worst],
        "floor": [rounded(x) for x in attribution.drop_to_best],
        "subs": [[[s.token, s.token_id, rounded(s.value), rounded(s.cross_entropy)] for s in row] for row in best],
        "tried": k,
        "partial": partial,
    }


def scored_entry(
    ids: Iterable[int], tokens: Sequence[str], text: str, trips: bool, value: float, cross_entropy: float
) -> dict[str, Any]:
    """Return the entry of a prompt with its scores only.

    Args:
        ids: Token ids of the prompt.
        tokens: Text of each token.
        text: Text of the prompt.
        trips: Whether the prompt round-trips.
        value: Value of the feature.
        cross_entropy: Cross-entropy of the prompt, in nats per token.
    """
    ids = [int(i) for i in ids]
    scores = {"value": rounded(value), "ce": rounded(cross_entropy)}
    nothing = {"drop": None, "floor": None, "subs": None, "tried": None, "partial": False, "series": None}
    return {"key": key(ids), "ids": ids, "tokens": list(tokens), "text": text, "trips": trips, **scores, **nothing}


def trimmed(entry: dict[str, Any], best: int = 6, worst: int = 2) -> dict[str, Any]:
    """Return an entry with fewer substitutes: the best ones and the worst ones of each position.

    The strip's colours and bars show the best and the worst substitute, so these are always kept.

    Args:
        entry: Entry of a prompt.
        best: Number of best substitutes to keep at each position.
        worst: Number of worst substitutes to keep at each position.
    """
    if entry["subs"] is None:
        return entry
    rows = [row if len(row) <= best + worst else [*row[:best], *row[len(row) - worst :]] for row in entry["subs"]]
    return {**entry, "subs": rows}


def outlined(x: np.ndarray, y: np.ndarray, most: int = CLOUD, bins: int = 64) -> np.ndarray:
    """Choose points that stand for many: the outline of all points, and an even sample of the others.

    Args:
        x: Coordinates across, float `[n]`, finite.
        y: Coordinates up, float `[n]`, finite.
        most: Most points to choose, at least four for each bin.
        bins: Number of strips, across and up, whose outermost points are kept.

    Returns:
        Indices of the chosen points, ascending.
    """
    if len(x) <= most:
        return np.arange(len(x))
    outline: set[int] = set()
    for along, height in ((x, y), (y, x)):
        span = float(np.ptp(along)) or 1.0
        strip = np.minimum(((along - along.min()) / span * bins).astype(int), bins - 1)
        order = np.lexsort((height, strip))
        ends = np.flatnonzero(np.diff(strip[order]))
        outline |= {*order[np.append(0, ends + 1)].tolist(), *order[np.append(ends, len(order) - 1)].tolist()}
    others = np.setdiff1d(np.arange(len(x)), np.fromiter(outline, int))
    room = max(0, most - len(outline))
    sample = others[np.linspace(0, len(others) - 1, min(room, len(others))).astype(int)]
    return np.sort(np.concatenate([np.fromiter(outline, int), sample]))


def cloud_of(history: History, most: int = CLOUD) -> dict[str, Any]:
    """Return evaluated prompts as points of the plane, in a short form.

    `data` has six letters for each point, column by column: two each for the coordinates as steps of the range, and for
    the difference between the iterations of two points that follow one another. `at` says how many points there are,
    `of` how many prompts they stand for.

    Args:
        history: Every evaluated prompt.
        most: Most points.
    """
    finite = np.flatnonzero(np.isfinite(history.cross_entropy) & np.isfinite(history.value))
    x, y = history.cross_entropy[finite].astype(float), history.value[finite].astype(float)
    if not len(finite):
        return {"x": [0, 1], "y": [0, 1], "at": 0, "of": 0, "data": ""}
    kept = outlined(x, y, most)
    iterations = history.iteration[finite][kept].astype(int)
    columns, ranges = [], {}
    for name, values in (("x", x[kept]), ("y", y[kept])):
        low, span = float(values.min()), float(np.ptp(values)) or 1.0
        columns.append(np.rint((values - low) / span * (_LEVELS - 1)).astype(int))
        ranges[name] = [rounded(low), rounded(span / (_LEVELS - 1))]
    columns.append(np.minimum(np.diff(iterations, prepend=0), _DIGIT**2 - 1))
    letters = [part for column in columns for part in (column // _DIGIT, column % _DIGIT)]
    return {
        **ranges,
        "at": len(kept),
        "of": len(finite),
        "data": "".join(chr(35 + n) for part in letters for n in part),
    }


def calibration_of(run: Dream, so_far: Snapshot) -> dict[str, Any]:
    """Return the scale of a run's values: mean and deviation of each baseline, and known held-out cross-entropies.

    Args:
        run: Run; without baselines the result is empty.
        so_far: Results of the run, whose frontier is shown.
    """
    baselines = run.baselines
    if baselines is None:
        return {}
    known, rows = baselines.known_held_out, [so_far.history.ids_of(row) for row in so_far.frontier_rows.tolist()]
    held = {key(ids): rounded(known[tuple(ids)], 5) for ids in rows if tuple(ids) in known}
    scales: list[list[Any]] = []
    for b in (b for b in baselines.all if b.deviation > 0):
        of = f"{b.name} ({b.source})" if b.source else b.name
        title = f"standard deviations above the mean of {len(b):,} {of}: {b.mean:.3g} ± {b.deviation:.3g}"
        scales.append([f"z, {b.name.split()[0]}", title, rounded(b.mean), rounded(b.deviation)])
    fluency = f"cross-entropy under {baselines.fluency}" if baselines.fluency else ""
    return {"scales": scales, "held": held, "fluency": fluency}

"""Measures of finished runs of the quality benchmark, and the table of their ratios."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from measures import frontier, hypervolume
from measures import table as text_table
from quality_sides import EPO, FRONTIER, MERGED, MERGED_SEEDS, REFERENCE, WARM

MEASURES = ("HV9", "HV9n", "HV6", "f4.6", "f6", "f9")
AGAINST = ((WARM, EPO), (REFERENCE, EPO), (FRONTIER, EPO), (FRONTIER, WARM), (FRONTIER, MERGED))
"""Pairs of sides that are compared: (side, baseline)."""
DRAWS = 2000
ALL = "all"


class Natural(NamedTuple):
    """Scores of natural windows for a feature.

    Attributes:
        model, feature: Names.
        digest: Digest of the model's weights.
        floor: Median value.
        dull: 5 % quantile of the cross-entropy.
        half: Half of the features that it belongs to, "tune" or "report".
    """

    model: str
    feature: str
    digest: str
    floor: float
    dull: float
    half: str


@dataclass
class Run:
    """Finished run.

    Attributes:
        model, feature, side, seed: What was run.
        arrays: `value`, `cross_entropy` and `cpu` of every prompt, and `ends` and `in_model` of every iteration.
        about: Versions, and other facts.
    """

    model: str
    feature: str
    side: str
    seed: int
    arrays: dict[str, np.ndarray]
    about: dict[str, Any]

    def points(self, seconds: float | None) -> np.ndarray:
        """Return (value, cross-entropy) of the prompts of the iterations that ended in time, `[N, 2]`."""
        points = np.stack([self.arrays["value"], self.arrays["cross_entropy"]], axis=1).astype(np.float64)
        return points if seconds is None else points[self.arrays["cpu"] <= seconds]

    def outside(self, seconds: float | None) -> float:
        """Return the share of the processor time outside passes through the model. NaN if it is not known."""
        ends, in_model = self.arrays["ends"], self.arrays["in_model"]
        inside = np.flatnonzero(ends <= (ends[-1] if seconds is None else seconds))
        return 1 - float(in_model[inside[-1]] / ends[inside[-1]]) if len(inside) else math.nan


def measures_of(points: np.ndarray, natural: Natural) -> dict[str, float]:
    """Measure the frontier of `[N, 2]` points: HV9, HV9n, HV6, f4.6, f6 and f9, all above the floor."""
    points = frontier(points)
    clipped = np.stack([points[:, 0], np.maximum(points[:, 1], natural.dull)], axis=1)

    def best(ceiling: float) -> float:
        values = points[points[:, 1] <= ceiling, 0]
        return max(float(values.max()) - natural.floor, 0.0) if len(values) else 0.0

    return {
        "HV9": hypervolume(points, natural.floor, 9.0),
        "HV9n": hypervolume(clipped, natural.floor, 9.0),
        "HV6": hypervolume(points, natural.floor, 6.0),
        "f4.6": best(4.6),
        "f6": best(6.0),
        "f9": best(9.0),
    }


def measures(run: Run, seconds: float | None, natural: Natural) -> dict[str, float]:
    """Measure a run after some processor seconds, or at its end."""
    return measures_of(run.points(seconds), natural)


Key = tuple[str, str, str, int]
"""Model, feature, side and seed. The merged runs have seed -1."""


def measured(
    runs: Sequence[Run], naturals: dict[tuple[str, str], Natural], budget: int
) -> tuple[dict[Key, dict[str, float]], dict[Key, float]]:
    """Measure all runs after the time of so many iterations of EPO with the same model, feature and seed.

    Returns:
        The measures, with those of the merged runs; and the shares of time outside passes.
    """
    found: dict[Key, dict[str, float]] = {}
    outside: dict[Key, float] = {}
    baseline = {(r.model, r.feature, r.seed): r for r in runs if r.side == EPO}
    merged: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    for r in runs:
        epo = baseline.get((r.model, r.feature, r.seed))
        if epo is None:
            continue
        seconds, natural = float(epo.arrays["ends"][budget]), naturals[r.model, r.feature]
        key = r.model, r.feature, r.side, r.seed
        points = r.points(seconds)
        found[key], outside[key] = measures_of(points, natural), r.outside(seconds)
        if r.side == EPO and r.seed in MERGED_SEEDS:
            merged[r.model, r.feature].append(frontier(points))
    for (model, feature), parts in merged.items():
        if len(parts) == len(MERGED_SEEDS):
            points = np.concatenate(parts)
            found[model, feature, MERGED, -1] = measures_of(points, naturals[model, feature])
    return found, outside


def ratio(ours: float, theirs: float) -> float:
    """Divide two measures. If both are zero, they are equal; if only the baseline is, the ratio is infinite."""
    return ours / theirs if theirs > 0 else math.inf if ours > 0 else 1.0


def ratios(
    found: dict[Key, dict[str, float]], model: str, side: str, baseline: str, measure: str
) -> dict[tuple[str, str], list[float]]:
    """List the ratios of all pairs, by model and feature; a pair is one feature and seed."""
    listed: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (m, f, s, seed), numbers in sorted(found.items()):
        other = found.get((m, f, baseline, -1 if baseline == MERGED else seed))
        if s == side and model in (m, ALL) and other is not None:
            listed[m, f].append(ratio(numbers[measure], other[measure]))
    return dict(listed)


def interval(listed: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float]:
    """95 % interval of the median over all pairs, by a bootstrap over features `[features][seeds]`."""
    longest = max(map(len, listed))
    padded = np.array([[*row, *[math.nan] * (longest - len(row))] for row in listed])
    chosen = np.random.default_rng(seed).integers(len(listed), size=(DRAWS, len(listed)))
    drawn = padded[chosen].reshape(DRAWS, -1)
    medians = np.sort(np.nanmedian(drawn, axis=1) if np.isnan(padded).any() else np.median(drawn, axis=1))
    # Order statistics, since a mean of an infinite and a finite ratio would say nothing.
    return float(medians[int(0.025 * (DRAWS - 1))]), float(medians[math.ceil(0.975 * (DRAWS - 1))])


class Summary(NamedTuple):
    """Ratios of one measure.

    Attributes:
        median: Median over pairs.
        low, high: 95 % interval.
        won, of: Pairs with a ratio above 1, and all pairs; against merged runs, features whose median is above 1.
        worst: Smallest ratio of a pair.
    """

    median: float
    low: float
    high: float
    won: int
    of: int
    worst: float

    @classmethod
    def over(cls, listed: dict[tuple[str, str], list[float]], by_feature: bool) -> Summary:
        rows = list(listed.values())
        pairs = np.concatenate([np.array(row) for row in rows])
        counted = np.array([np.median(row) for row in rows]) if by_feature else pairs
        won = int((counted > 1).sum())
        return cls(float(np.median(pairs)), *interval(rows), won, len(counted), float(pairs.min()))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f}) {self.won}/{self.of}"


def worst_seed(found: dict[Key, dict[str, float]], model: str, side: str) -> tuple[float, str]:
    """Find the smallest ratio, over features, of the worst seed's HV9 to the mean of the seeds, and its feature."""
    listed: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (m, f, s, _), numbers in found.items():
        if s == side and model in (m, ALL):
            listed[m, f].append(numbers["HV9"])
    shares = {f: min(v) / np.mean(v) if np.mean(v) else 0.0 for (_, f), v in listed.items() if len(v) > 1}
    name = min(shares, key=lambda f: shares[f], default="")
    return (float(shares[name]), name) if name else (math.nan, "")


class Row(NamedTuple):
    """Row of the table: one side against a baseline, at one budget."""

    budget: int
    model: str
    side: str
    baseline: str
    summaries: dict[str, Summary]
    worst_seed: tuple[float, str]
    outside: float


def rows(runs: Sequence[Run], naturals: dict[tuple[str, str], Natural], budget: int) -> Iterator[Row]:
    """Compute the rows of one budget."""
    found, outside = measured(runs, naturals, budget)
    models = list(dict.fromkeys(r.model for r in runs))
    for model in [*models, ALL] if len(models) > 1 else models:
        for side, baseline in AGAINST:
            listed = {name: ratios(found, model, side, baseline, name) for name in MEASURES}
            if listed["HV9"]:
                summaries = {name: Summary.over(pairs, baseline == MERGED) for name, pairs in listed.items()}
                shares = [share for (m, _, s, _), share in outside.items() if s == side and model in (m, ALL)]
                shares = [share for share in shares if not math.isnan(share)] or [math.nan]
                worst = worst_seed(found, model, side)
                worst = worst_seed(found, model, side)
                yield Row(budget, model, side, baseline, summaries, worst, float(np.mean(shares)))


class Report(NamedTuple):
    """Table in several forms; `runs_csv` has the measures of every run."""

    text: str
    markdown: str
    csv: str
    runs_csv: str


HEAD = ("time", "models", "side / baseline", *MEASURES, "worst f9", "worst seed", "outside")


def report(
    runs: Sequence[Run], naturals: dict[tuple[str, str], Natural], budgets: Sequence[int], iterations: int
) -> Report:
    """Write the table of the ratios of all sides at all budgets."""
    listed = [row for budget in budgets for row in rows(runs, naturals, budget)]
    cells = [_cells(row) for row in listed]
    note = " ".join(_notes(runs, iterations))
    markdown = "".join(f"| {' | '.join(row)} |\n" for row in (HEAD, ["---"] * len(HEAD), *cells))
    text = f"{note}\n\n{text_table(HEAD, cells)}"
    return Report(text, f"{note}\n\n{markdown}", _csv(listed), _runs_csv(runs, naturals, budgets))


def _cells(row: Row) -> list[str]:
    share, name = row.worst_seed
    return [
        str(row.budget),
        row.model,
        f"{row.side} / {row.baseline}",
        *(str(row.summaries[name]) for name in MEASURES),
        f"{row.summaries['f9'].worst:.2f}",
        f"{share:.2f} {name}" if name else "-",
        "-" if math.isnan(row.outside) else f"{100 * row.outside:.1f} %",
    ]


def _notes(runs: Sequence[Run], iterations: int) -> Iterator[str]:
    epo = [float(r.arrays["ends"][-1]) for r in runs if r.side == EPO]
    if epo:
        least, most = min(epo), max(epo)
        yield f"{iterations} iterations of EPO took {least:.1f} to {most:.1f} processor seconds."
    yield "Ratios: median over pairs (95 % interval over features) pairs above 1 / pairs; features in place of pairs"
    yield "where the baseline is merged."
    for side in dict.fromkeys(r.side for r in runs):
        known = {str(sorted(r.about.get("versions", {}).items())) for r in runs if r.side == side}
        if len(known) > 1:
            yield f"The runs of {side} come from {len(known)} versions of the code, packages or processor."


def _csv(listed: Sequence[Row]) -> str:
    head = ["budget", "models", "side", "baseline", "measure", *Summary._fields]
    lines = [head]
    for row in listed:
        first = [str(row.budget), row.model, row.side, row.baseline]
        for name, summary in row.summaries.items():
            lines.append([*first, name, *map(str, summary)])
        lines.append([*first, "worst seed / mean HV9", str(row.worst_seed[0]), "", "", "", "", ""])
        lines.append([*first, "share outside passes", str(row.outside), "", "", "", "", ""])
    return _written(lines)


def _runs_csv(runs: Sequence[Run], naturals: dict[tuple[str, str], Natural], budgets: Sequence[int]) -> str:
    lines = [["budget", "model", "feature", "side", "seed", *MEASURES, "outside"]]
    for budget in budgets:
        found, outside = measured(runs, naturals, budget)
        for key, numbers in sorted(found.items()):
            model, feature, side, seed = key
            name = "" if seed < 0 else str(seed)
            values = [f"{numbers[m]:.6g}" for m in MEASURES]
            lines.append([str(budget), model, feature, side, name, *values, f"{outside.get(key, math.nan):.4f}"])
    return _written(lines)


def _written(lines: Sequence[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()

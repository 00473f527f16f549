"""Tables from finished runs: areas for each feature, their ratio with its interval and tests, the cost of each side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from measures import bootstrap, hull, hypervolume, log_ratio, sign_test, table, wilcoxon

OURS, BASELINES = "dreamy_lens", ("reference", "reference_ordinary")
SIDES = (*BASELINES, OURS)
CEILINGS = ("12", "9", "log V")
"""Cross-entropies in nats below which areas are measured; the table of features uses the first."""

Measure = Callable[[dict[str, Any], float], float]
"""Function of a finished run and its feature's floor that returns one number."""


def measure(ceiling: float, *, tokens: str = "ordinary", shape: str = "frontier", first: int | None = None) -> Measure:
    """Return the function that measures the hypervolume of a run.

    Args:
        ceiling: Cross-entropy below which the area lies.
        tokens: "ordinary" counts prompts without special tokens, "all" counts every prompt.
        shape: "frontier", or "hull" for only its supported points, which the reference code reports.
        first: Number of distinct prompts to count, in the order of their evaluation; default: all.
    """

    def area(run: dict[str, Any], floor: float) -> float:
        rows = np.array([r for r in run[f"arrivals_{tokens}"] if first is None or r[0] < first]).reshape(-1, 3)
        return hypervolume(hull(rows[:, 1:]) if shape == "hull" else rows[:, 1:], floor, ceiling)

    return area


def report(data: dict[str, Any], features: Sequence[str], seeds: int) -> str:
    """Write the tables against each baseline, for the features whose runs are all finished."""
    lines = []
    for baseline in BASELINES:
        sides = (baseline, OURS)
        finished = [f for f in features if all(f"{s}/{f}/{n}" in data["runs"] for s in sides for n in range(seeds))]
        if finished:
            comparison = Comparison(data, baseline, finished, seeds)
            lines += [comparison.features_table(), "", comparison.ratios_table(), ""]
    return "\n".join([*lines, costs(data)])


class Comparison:
    """Comparison of dreamy_lens with one baseline, on features for which both have all seeds."""

    def __init__(self, data: dict[str, Any], baseline: str, features: list[str], seeds: int) -> None:
        self.data, self.baseline, self.features, self.seeds = data, baseline, features, seeds
        self.ceilings = {name: math.log(data["vocabulary"]) if name == "log V" else float(name) for name in CEILINGS}

    def areas(self, measure: Measure) -> tuple[np.ndarray, np.ndarray]:
        """Measure the runs of the baseline and of dreamy_lens, `[features, seeds]` each."""
        runs, floors = self.data["runs"], self.data["floors"]
        theirs, ours = (
            np.array([[measure(runs[f"{side}/{f}/{n}"], floors[f]) for n in range(self.seeds)] for f in self.features])
            for side in (self.baseline, OURS)
        )
        return theirs, ours

    def features_table(self) -> str:
        """Write a table with one row for each feature, at the first ceiling."""
        name, ceiling = next(iter(self.ceilings.items()))
        variants = ({}, {"shape": "hull"}, {"tokens": "all"})
        areas = [self.areas(measure(ceiling, **options)) for options in variants]  # pyright: ignore
        rows = []
        for i, feature in enumerate(self.features):
            row = [feature, f"{self.data['floors'][feature]:+.4f}"]
            row += [f"{a[i].mean():.3f} ± {a[i].std(ddof=1) if self.seeds > 1 else math.nan:.3f}" for a in areas[0]]
            rows.append(row + [f"{ours[i].mean() / (theirs[i].mean() or math.nan):.3f}" for theirs, ours in areas])
        head = ["feature", "floor", self.baseline, OURS, "ratio", "of hulls", "specials too"]
        return f"Hypervolume below {name} nats, mean ± sd over {self.seeds} seeds:\n\n{table(head, rows)}"

    def measures(self) -> dict[str, Measure]:
        """Name all measures of the table of ratios."""
        measures = {f"frontier, CE < {n}": measure(c) for n, c in self.ceilings.items()}
        measures |= {f"hull, CE < {n}": measure(c, shape="hull") for n, c in self.ceilings.items()}
        measures |= {f"specials too, CE < {n}": measure(c, tokens="all") for n, c in self.ceilings.items()}
        name, ceiling = next(iter(self.ceilings.items()))
        for first in (2_500, 5_000, 10_000, 20_000, 40_000):
            measures[f"first {first} distinct, CE < {name}"] = measure(ceiling, first=first)
        return measures

    def ratios_table(self) -> str:
        """Write a table with one row for each measure: ratio, interval, paired tests over runs and over features."""
        rows = []
        for name, measured in self.measures().items():
            theirs, ours = self.areas(measured)
            if (theirs.mean(axis=1) * ours.mean(axis=1) == 0).any():
                rows.append([name, *["-"] * 7])  # if a side has no area on a feature, there is no ratio
                continue
            logs = log_ratio(ours, theirs)
            low, high = bootstrap(ours, theirs)
            row = [name, f"{math.exp(logs.mean()):.3f}", f"{low:.3f} to {high:.3f}"]
            for differences in ((ours - theirs).ravel(), logs):
                ahead, total, p = sign_test(differences)
                row += [f"{ahead}/{total}", f"{p:.2g}"]
            rows.append([*row, f"{wilcoxon(logs):.2g}"])
        head = ["", "ratio", "95 %", "runs ahead", "sign p", "features ahead", "sign p", "Wilcoxon p"]
        return f"{OURS} / {self.baseline}, geometric mean over features:\n\n{table(head, rows)}"


def costs(data: dict[str, Any]) -> str:
    """Write a table of prompts, time, and the largest difference from the plain model for each side."""
    rows = []
    for side in SIDES:
        runs = [r for key, r in data["runs"].items() if key.startswith(side + "/")]
        if runs:
            row = [
                side,
                str(len(runs)),
                *(f"{np.mean([r[key] for r in runs]):.0f}" for key in ("distinct", "ordinary")),
            ]
            row += [f"{np.median([r['seconds'] for r in runs]):.1f}"]
            rows.append(row + [f"{max(r['own_' + key] for r in runs):.1e}" for key in ("value", "cross_entropy")])
    s = data["settings"]
    drawn = s["population"] * (1 + s["iterations"] * s["children"])
    head = ["", "runs", "distinct", "without specials", "seconds", "own value off by", "own CE off by"]
    return f"{drawn} prompts are drawn per run on every side. Means over runs, median seconds:\n\n{table(head, rows)}"

"""From finished runs to tables: areas per feature, their ratio with its interval and tests, and what each side cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from measures import bootstrap, hull, hypervolume, log_ratio, sign_test, table, wilcoxon

OURS, BASELINES = "dreamy_lens", ("reference", "reference_ordinary")
SIDES = (*BASELINES, OURS)
CEILINGS = ("12", "9", "log V")
"""Cross-entropies in nats below which areas are measured; the first is that of the tables of features."""

Measure = Callable[[dict[str, Any], float], float]
"""A finished run and its feature's floor -> one number."""


def measure(ceiling: float, *, tokens: str = "ordinary", shape: str = "frontier", first: int | None = None) -> Measure:
    """Hypervolume of a run.

    Args:
        ceiling: cross-entropy below which the area lies.
        tokens: "ordinary" counts prompts without special tokens, "all" every prompt.
        shape: "frontier", or "hull" for its supported points only, which is what the reference code reports.
        first: count only so many distinct prompts, in the order in which they were evaluated.
    """

    def of(run: dict[str, Any], floor: float) -> float:
        rows = np.array([r for r in run[f"arrivals_{tokens}"] if first is None or r[0] < first]).reshape(-1, 3)
        return hypervolume(hull(rows[:, 1:]) if shape == "hull" else rows[:, 1:], floor, ceiling)

    return of


def report(data: dict[str, Any], features: Sequence[str], seeds: int) -> str:
    """Tables against each baseline, of the features all of whose runs are finished."""
    lines = []
    for baseline in BASELINES:
        sides = (baseline, OURS)
        done = [f for f in features if all(f"{s}/{f}/{n}" in data["runs"] for s in sides for n in range(seeds))]
        if done:
            comparison = Comparison(data, baseline, done, seeds)
            lines += [comparison.features_table(), "", comparison.ratios_table(), ""]
    return "\n".join([*lines, costs(data)])


class Comparison:
    """dreamy_lens against one baseline, on features for which both have all seeds."""

    def __init__(self, data: dict[str, Any], baseline: str, features: list[str], seeds: int) -> None:
        self.data, self.baseline, self.features, self.seeds = data, baseline, features, seeds
        self.ceilings = {name: math.log(data["vocabulary"]) if name == "log V" else float(name) for name in CEILINGS}

    def areas(self, of: Measure) -> tuple[np.ndarray, np.ndarray]:
        """One measure of the baseline and of dreamy_lens, `[features, seeds]` each."""
        runs, floors = self.data["runs"], self.data["floors"]
        theirs, ours = (
            np.array([[of(runs[f"{side}/{f}/{n}"], floors[f]) for n in range(self.seeds)] for f in self.features])
            for side in (self.baseline, OURS)
        )
        return theirs, ours

    def features_table(self) -> str:
        """One row for each feature, at the first ceiling."""
        name, ceiling = next(iter(self.ceilings.items()))
        found = [self.areas(measure(ceiling, **kw)) for kw in ({}, {"shape": "hull"}, {"tokens": "all"})]  # pyright: ignore
        rows = []
        for i, feature in enumerate(self.features):
            row = [feature, f"{self.data['floors'][feature]:+.4f}"]
            row += [f"{a[i].mean():.3f} ± {a[i].std(ddof=1) if self.seeds > 1 else math.nan:.3f}" for a in found[0]]
            rows.append(row + [f"{ours[i].mean() / (theirs[i].mean() or math.nan):.3f}" for theirs, ours in found])
        head = ["feature", "floor", self.baseline, OURS, "ratio", "of hulls", "specials too"]
        return f"Hypervolume below {name} nats, mean ± sd over {self.seeds} seeds:\n\n{table(head, rows)}"

    def measures(self) -> dict[str, Measure]:
        found = {f"frontier, CE < {n}": measure(c) for n, c in self.ceilings.items()}
        found |= {f"hull, CE < {n}": measure(c, shape="hull") for n, c in self.ceilings.items()}
        found |= {f"specials too, CE < {n}": measure(c, tokens="all") for n, c in self.ceilings.items()}
        name, ceiling = next(iter(self.ceilings.items()))
        for first in (2_500, 5_000, 10_000, 20_000, 40_000):
            found[f"first {first} distinct, CE < {name}"] = measure(ceiling, first=first)
        return found

    def ratios_table(self) -> str:
        """One row for each measure: the ratio, its interval, and paired tests over runs and over features."""
        rows = []
        for name, of in self.measures().items():
            theirs, ours = self.areas(of)
            if (theirs.mean(axis=1) * ours.mean(axis=1) == 0).any():
                rows.append([name, *["-"] * 7])  # a side without any area on some feature has no ratio
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
    """What each side evaluated, its time, and how far its own numbers are from the plain model's."""
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

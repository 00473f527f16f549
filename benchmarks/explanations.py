"""Measure whether dreams or the strongest windows of a corpus predict better which held-out windows drive a feature.

    python -m benchmarks.explanations --features 200 --out explanations.jsonl

Features are neurons drawn at random over all layers of the embedded model. Each gets one dream run and the prediction
scores of `dl.explain`, for which no language model is asked. The file is written line by line, and a second call
continues it. With `--table` the file is only read.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import dreamy_lens as dl

KINDS, SIMILARITIES = ("dreams", "windows", "both"), ("n-grams", "embeddings")


def drawn(count: int, seed: int) -> list[str]:
    """Return neurons drawn without replacement over all layers."""
    model: Any = dl.load_model()
    layers, width = model.cfg.n_layers, model.cfg.d_mlp
    chosen = np.random.default_rng(seed).choice(layers * width, count, replace=False)
    return [f"L{i // width}.N{i % width}" for i in chosen.tolist()]


def measure(options: argparse.Namespace) -> None:
    """Make the runs and the scores that the file does not have yet."""
    features, out = drawn(options.features, options.seed), Path(options.out)
    done = {row["feature"] for row in rows(out)} if out.exists() else set()
    examples = dl.max_activating(
        features, corpus=dl.corpus.docstrings(), tokens=options.tokens, k=64, length=12, sample=3000
    )
    for number, feature in enumerate(features):
        if feature in done:
            continue
        run = dl.dream(feature, iterations=options.iterations, length=12, wait=True, progress=False)
        found = dl.explain(run, examples).prediction
        row: dict[str, Any] = {"feature": feature, "value": max((p.value for p in run.frontier), default=None)}
        if found is not None:
            row |= {"active": found.active, "inactive": found.inactive, "known": found.known, "auroc": found.auroc}
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{number + 1} of {len(features)}: {feature}", flush=True)


def rows(out: Path) -> list[dict[str, Any]]:
    """Return the lines of the file."""
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def interval(values: np.ndarray, statistic: Any, seed: int = 0) -> tuple[float, float]:
    """Return the bootstrap interval of 95 % over features."""
    random = np.random.default_rng(seed)
    drawn = [statistic(values[random.integers(0, len(values), len(values))]) for _ in range(2000)]
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def table(found: list[dict[str, Any]]) -> str:
    """Return the medians and the shares as a table of text."""
    known = [row for row in found if "auroc" in row]
    lines = [f"{len(known)} of {len(found)} features have windows that can be held out."]
    if not known:
        return lines[0]
    areas = {
        (kind, name): np.array([row["auroc"][kind][name] for row in known]) for kind in KINDS for name in SIMILARITIES
    }
    for (kind, name), values in areas.items():
        low, high = interval(values, np.median)
        lines.append(f"AUROC, {kind:8} {name:11} median {np.median(values):.3f} ({low:.3f} to {high:.3f})")
    for name in SIMILARITIES:
        for kind in ("dreams", "both"):
            better = areas[kind, name] > areas["windows", name]
            low, high = interval(better, np.mean)
            lines.append(
                f"{kind} better than windows, {name}: {100 * better.mean():.0f} % of features "
                f"({100 * low:.0f} to {100 * high:.0f} %)"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="explanations.jsonl")
    parser.add_argument("--table", action="store_true", help="only print the table of what the file has")
    options = parser.parse_args()
    if not options.table:
        measure(options)
    print(table(rows(Path(options.out))))


if __name__ == "__main__":
    main()

"""Measure in how many ways neurons can be driven, how specific ablation is, and what `diversity` costs a run.

    python benchmarks/ways.py                                    # eight neurons of the embedded model
    python benchmarks/ways.py --features L2.N812 L3.N40 --iterations 150 --planted

Plain and diverse runs alternate; seconds are those of the processor. `--planted` measures one neuron more: L2.N5, which
is made to read what two neurons of layer 0 write and nothing else.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

import dreamy_lens as dl

FEATURES = ("L2.N812", "L2.N100", "L2.N17", "L3.N40", "L3.N300", "L4.N7", "L4.N333", "L3.N123", "L1.N7")
PLANTED = (495, 395)


def plant(model) -> None:
    """Make L2.N5 read the outputs of two neurons of layer 0."""
    weights = dict(model.named_parameters())

    def find(layer: int, part: str, kind: str) -> torch.Tensor:
        return next(x for n, x in weights.items() if f"layers.{layer}." in n and f".{part}." in n and n.endswith(kind))

    out = find(0, "dense_4h_to_h", "weight")
    with torch.no_grad():
        find(2, "dense_h_to_4h", "weight")[5] = sum(out[:, k] / out[:, k].norm() for k in PLANTED)
        find(2, "dense_h_to_4h", "bias")[5] = -1.0


def measure(feature: str, model, examples, iterations: int, seed: int) -> dict[str, float]:
    """Run the feature plainly and with diversity, find the mechanisms of both runs, and print a line for each."""
    found: dict[str, float] = {}
    for diversity in (0.0, 0.5):
        start = time.process_time()
        run = dl.dream(feature, model, seed=seed, iterations=iterations, diversity=diversity, progress=False)
        seconds = time.process_time() - start
        result = dl.mechanisms(run, examples=examples)
        count = len(result)
        own = result.drops.diagonal()
        off = result.drops[~np.eye(count, dtype=bool)]
        shares = " ".join(f"{cell.share:.2f}/{cell.window_share:.2f}" for cell in result.cells)
        other, random = off.mean() if len(off) else np.nan, result.control_drops.mean()
        print(
            f"{feature} diversity {diversity}: {seconds:.1f} s of processor time, maximum {result.maximum:.2f}, "
            f"{count} cells, {len(result.ways)} ways, {sum(result.confirmed)} confirmed, "
            f"score {result.polysemanticity:.2f}; dreams/corpus {shares}; "
            f"drop own {own.mean():.3f}, other {other:.3f}, random {random:.3f}; "
            f"self-BLEU {result.texts[0].self_bleu:.2f}, distance {result.texts[0].distance:.2f}",
            flush=True,
        )
        found[f"seconds {diversity}"] = seconds
        found[f"maximum {diversity}"] = result.maximum
        found[f"area {diversity}"] = run.frontier.hypervolume((result.ordinary, 9.0))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure all features."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", nargs="+", default=list(FEATURES))
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=200_000, help="tokens of the corpus; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--planted", action="store_true")
    options = parser.parse_args(arguments)
    model = dl.load_model()
    features = list(options.features)
    if options.planted:
        plant(model)
        features.append("L2.N5")
    examples = None
    if options.tokens:
        examples = dl.max_activating(features, model, tokens=options.tokens, k=32, length=12, progress=False)
    dl.dream(features[0], model, iterations=1, diversity=0.5, progress=False)  # what is done once
    rows = []
    for feature in features:
        try:
            rows.append(measure(feature, model, examples, options.iterations, options.seed))
        except dl.errors.FeatureError as error:  # a neuron that is off everywhere
            print(f"{feature}: {error}", flush=True)
    for name in ("seconds", "maximum", "area"):
        ratios = [row[f"{name} 0.5"] / row[f"{name} 0.0"] for row in rows]
        low, middle, high = np.quantile(ratios, [0, 0.5, 1])
        print(f"{name} with diversity / without: median {middle:.3f}, {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    main()

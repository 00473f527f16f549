"""Measure two sources of speed: linear layers by MKL and by oneDNN, and seeds side by side against one by one.

    python benchmarks/parts.py [--threads 2] [--rounds 5]

Both sides of a comparison alternate in this process. The benchmark prints medians.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

SHAPES = ((1472, 224, 896), (1472, 896, 224), (512, 224, 4096), (1472, 768, 3072), (128, 768, 50257))
"""Rows, inputs and outputs of linear layers: those of the embedded model, then those of GPT-2 small."""

SEARCHES = ((12, 8, 32), (12, 2, 16), (6, 4, 8))
"""n, M and r of each search."""

ITERATIONS = 15
"""Number of iterations of each search."""


def medians(sides: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    """Measure the median seconds of each side, after one warm-up turn."""
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(rounds + 1):
        for side, seconds in zip(sides, times, strict=True):
            began = time.perf_counter()
            side()
            if turn:
                seconds.append(time.perf_counter() - began)
    return [float(np.median(seconds)) for seconds in times]


def main(argv: list[str] | None = None) -> None:
    import torch

    import dreamy_lens as dl
    from dreamy_lens.models.kernels import _onednn_linear

    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--threads", type=int, default=2, help="torch threads (2)")
    p.add_argument("--rounds", type=int, default=5, help="turns of each side (5)")
    args = p.parse_args(argv)
    torch.set_num_threads(args.threads)
    onednn = _onednn_linear()
    print("oneDNN is not used on this processor." if onednn is None else "GFLOP/s of linear layers, MKL and oneDNN:")
    for rows, inputs, outputs in SHAPES if onednn is not None else ():
        x, w, b = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
        mkl_seconds, onednn_seconds = medians(
            (lambda t=(x, w, b): torch.nn.functional.linear(*t), lambda t=(x, w, b): onednn(*t)), 4 * args.rounds
        )
        work = 2e-9 * rows * inputs * outputs
        print(f"  {rows} x {inputs} -> {outputs}: {work / mkl_seconds:.0f}, {work / onednn_seconds:.0f}")
    model = dl.load_model()
    print(f"Seconds of four seeds of L2.N17 side by side, and one after the other, {ITERATIONS} iterations:")
    for n, m, r in SEARCHES:
        settings: dict[str, Any] = {"length": n, "population": m, "children": r, "iterations": ITERATIONS}
        settings["progress"] = False
        together, alone = medians(
            (
                lambda s=settings: dl.dream("L2.N17", model, seeds=range(4), **s),
                lambda s=settings: [dl.dream("L2.N17", model, seed=seed, **s) for seed in range(4)],
            ),
            args.rounds,
        )
        print(f"  n = {n}, M = {m}, r = {r}: {together:.2f}, {alone:.2f}, ratio {together / alone:.2f}")


if __name__ == "__main__":
    main()

"""Compare an iteration of a search on a processor with the shortest time that its matrix products could take.

    python benchmarks/floor.py                       # the embedded model and the shape of GPT-2 small

The floor is the number of multiplications and additions of the matrix products of an iteration, counted by torch as the
search makes them, divided by the rate that this machine reaches in large products of the best routine. Iterations and
products alternate, and medians count. What is beyond the floor is everything else: smaller products at a lower rate,
attention, norms, activation functions, gathering, and the search outside of the model.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from typing import Any

import torch
from speed_models import SHAPES, bridge
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import dreamy_lens as dl
from dreamy_lens.models import matmul_t

MODELS = ("embedded", "gpt2-small")


class Products(TorchDispatchMode):
    """Counts the multiplications and additions of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def rate(rows: int = 2048, width: int = 2048) -> float:
    """Return the multiplications and additions per second of one large product."""
    x, w = torch.randn(rows, width), torch.randn(width, width)
    began = time.perf_counter()
    matmul_t(x, w)
    return 2 * rows * width * width / (time.perf_counter() - began)


def measure(model: str, search: str, iterations: int) -> tuple[float, float, float]:
    """Return GFLOP of an iteration, its seconds, and the rate of large products in GFLOP/s, as medians."""
    run = dl.dream(
        SHAPES[model].feature, bridge(model, "cpu"), search=search, prepend_bos=False, iterations=5, progress=False
    )
    steps = run.steps(run.iteration + iterations)
    flops: list[float] = []
    seconds: list[float] = []
    rates: list[float] = []
    for turn in range(iterations):
        rates.append(rate())
        counter = Products()
        began = time.perf_counter()
        with counter if turn % 4 == 3 else contextlib.nullcontext():
            run.take(next(steps))
        if turn % 4 == 3:
            flops.append(counter.total)
        elif turn:  # the first step finds out how the model can be run
            seconds.append(time.perf_counter() - began)
    return statistics.median(flops) / 1e9, statistics.median(seconds), statistics.median(rates) / 1e9


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=MODELS, choices=MODELS)
    parser.add_argument("--searches", nargs="*", default=["epo", "frontier"])
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| model | search | GFLOP | GFLOP/s in large products | floor, ms | iteration, ms | floor / iteration |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for model in options.models:
        for search in options.searches:
            work, seconds, speed = measure(model, search, options.iterations)
            floor = work / speed
            times = f"{1000 * floor:.1f} | {1000 * seconds:.1f} | {floor / seconds:.0%}"
            print(f"| {model} | {search} | {work:.2f} | {speed:.0f} | {times} |", flush=True)


if __name__ == "__main__":
    main()

"""Compare the routines of torch for the matrix products of a pass on a processor.

    python benchmarks/products.py                       # the products of the embedded model, one thread

Each product has the shape that it has in a pass over an iteration's children, with a bias. Routines alternate, and the
shortest time counts. The packed routines get weights that are stored in blocks beforehand. They are private to torch:
what a version of it does not have is left out. For the MLP's first product, the GELU behind it is measured too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from speed_models import SHAPES
from torch import Tensor
from torch.nn import functional as F

NODES = 1728
"""Distinct tokens of an iteration's children, rounded as a pass rounds them."""

Routine = Callable[[], Tensor]


def shapes(model: str) -> dict[str, tuple[int, int, int]]:
    """Return the rows, the inner size and the columns of each product of a pass, by name."""
    shape = SHAPES[model]
    width, wide = shape.width, 4 * shape.width
    chunk = max(128, (1 << 21) // shape.vocabulary // 64 * 64)
    return {
        "queries, keys, values": (NODES, width, 3 * width),
        "output of attention": (NODES, width, width),
        "MLP, first": (NODES, width, wide),
        "MLP, second": (NODES, wide, width),
        "unembedding": (chunk, width, shape.vocabulary),
    }


def routines(rows: int, inner: int, columns: int, gelu: bool) -> dict[str, Routine]:
    """Return what computes the product, by name of the routine."""
    x, weight, bias = torch.randn(rows, inner), torch.randn(columns, inner), torch.randn(columns)
    found: dict[str, Routine] = {
        "F.linear": lambda: F.linear(x, weight, bias),
        "no bias": lambda: F.linear(x, weight),
    }
    onednn, mkl = torch.ops.mkldnn, torch.ops.mkl

    def pointwise(stored: Tensor, after: str) -> Tensor:
        return onednn._linear_pointwise(x, stored, bias, after, [], "none" if after == "gelu" else "")

    def packed_onednn() -> dict[str, Routine]:
        stored = onednn._reorder_linear_weight(weight, rows)
        named: dict[str, Routine] = {"oneDNN, packed": lambda: pointwise(stored, "none")}
        return named | ({"oneDNN, packed, with GELU": lambda: pointwise(stored, "gelu")} if gelu else {})

    def packed_mkl() -> dict[str, Routine]:
        stored = mkl._mkl_reorder_linear_weight(weight, rows)
        return {"MKL, packed": lambda: mkl._mkl_linear(x, stored, weight, bias, rows)}

    for more in (lambda: {"oneDNN": lambda: pointwise(weight, "none")}, packed_onednn, packed_mkl):
        try:
            made: dict[str, Routine] = more()
            for routine, compute in made.items():
                if "GELU" in routine or torch.allclose(compute(), F.linear(x, weight, bias), atol=1e-3):
                    found[routine] = compute
        except (AttributeError, NotImplementedError, RuntimeError):
            continue
    if gelu:
        found["F.linear and F.gelu"] = lambda: F.gelu(F.linear(x, weight, bias))
    return found


def fastest(functions: dict[str, Routine], turns: int) -> dict[str, float]:
    """Return the shortest time of each function in seconds; they alternate."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(turns):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - began)
    return {name: min(taken) for name, taken in times.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", choices=[n for n, s in SHAPES.items() if not s.cuda_only])
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print("| product | rows x inner x columns | routine | ms | GFLOP/s |")
    print("| --- | --- | --- | --- | --- |")
    for name, (rows, inner, columns) in shapes(options.model).items():
        for routine, seconds in fastest(routines(rows, inner, columns, name == "MLP, first"), options.turns).items():
            size, rate = f"{rows} x {inner} x {columns}", 2e-9 * rows * inner * columns / seconds
            print(f"| {name} | {size} | {routine} | {1000 * seconds:.3g} | {rate:.3g} |", flush=True)


if __name__ == "__main__":
    main()

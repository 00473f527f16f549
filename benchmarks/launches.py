"""Count what the host does in one iteration of a search on an accelerator: kernels, graphs and waits.

The accelerator is emulated on the processor, so the counts are exact and no times are measured. `before` is the same
search without graphs of the device.

    python benchmarks/launches.py [--model embedded] [--iterations 40]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dreamy_lens as dl
from dreamy_lens.runs import Dream
from dreamy_lens.scoring import graph_choice, graphs
from tests.helpers import devices


def counts(model: str, search: str, iterations: int, patience: int) -> np.ndarray:
    """Return kernels, graphs started and waits of each iteration but the first, `[iteration, 3]`."""
    bridge, marks, take, former = dl.load_model(model), [], Dream.take, graphs.PATIENCE
    with devices.emulated() as waits:
        devices.place(bridge, "cuda:0")

        def taken(run: Any, step: Any) -> None:
            marks.append((waits.kernels, waits.launches, len(waits)))
            take(run, step)

        Dream.take, graphs.PATIENCE = taken, patience  # pyright: ignore[reportAttributeAccessIssue]
        # There is nothing to time: what the host starts by itself counts, and so graphs win.
        graph_choice.clock = lambda: waits.kernels + 1e-3 * waits.launches
        try:
            dl.dream("L1.N5", bridge, search=search, iterations=iterations, progress=False)
        finally:
            Dream.take, graphs.PATIENCE = take, former  # pyright: ignore[reportAttributeAccessIssue]
    return np.diff(np.array(marks), axis=0)[1:]


def main() -> None:
    """Print a table for both searches, before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="name or folder of the model")
    parser.add_argument("--iterations", type=int, default=40, help="iterations of each run; the last half counts")
    arguments = parser.parse_args()
    print("| search | | kernels | graphs | waits |\n| --- | --- | --- | --- | --- |")
    for search in ("epo", "frontier"):
        for name, patience in (("before", 1 << 60), ("after", graphs.PATIENCE)):
            table = counts(arguments.model, search, arguments.iterations, patience)[-(arguments.iterations // 2) :]
            kernels, started, waits = np.median(table, axis=0)
            print(f"| {search} | {name} | {kernels:.0f} | {started:.0f} | {waits:.0f} |", flush=True)


if __name__ == "__main__":
    main()

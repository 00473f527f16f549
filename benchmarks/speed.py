"""Measure the speed of dreamy_lens against the paper's own code and against nanogcg, and where its time goes.

    python benchmarks/speed.py CHECKOUT [--models embedded gpt2-small ...] [--device cuda] [--out speed.json]

CHECKOUT is a clone of https://github.com/Confirm-Solutions/dreamy. It is not changed, and only its `epo` is imported.
README.md beside this file describes the comparison.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measures import table
from speed_inside import SYMBOLS, apart, profile, shapes
from speed_models import CHILDREN, LENGTH, POPULATION, SHAPES, Shape
from speed_sides import NANOGCG, OURS, OURS_GCG, PER_ITERATION, REFERENCE, Failed, Lane, Place

TABLES = ("sides", "shapes", "profile")
RUN = 300
"""Iterations of a complete run with the paper's settings."""


def pairs(sides: Sequence[str]) -> list[tuple[str, ...]]:
    """Group the sides that alternate: those of EPO, and those of GCG. At most two models are loaded at a time."""
    epo = tuple(side for side in (OURS, REFERENCE) if side in sides)
    gcg = ()
    if NANOGCG in sides:
        gcg = (OURS_GCG, NANOGCG)
        if importlib.util.find_spec("nanogcg") is None:
            print("nanogcg is left out: the package is not installed (pip install nanogcg).", flush=True)
            gcg = ()
    return [pair for pair in (epo, gcg) if pair]


def take_turns(sides: Sequence[str], place: Place, iterations: int, rounds: int) -> dict[str, Any]:
    """Run the sides in turns. Return for each side the seconds of each iteration in each round, and its memory."""
    lanes: dict[str, Lane] = {}
    results: dict[str, Any] = {}
    try:
        for side in sides:
            try:
                lanes[side] = Lane(side, place)
                lanes[side].run(1)  # warm-up
                results[side] = {"loaded": lanes[side].loaded, "rounds": []}
            except Failed as error:
                results[side] = {"failed": str(error)}
        for turn in range(rounds):
            active = [side for side in sides if "failed" not in results[side]]
            for side in active if turn % 2 == 0 else active[::-1]:  # so that no side always runs second
                try:
                    results[side]["rounds"].append(lanes[side].run(iterations))
                except Failed as error:
                    results[side] = {"failed": str(error)}
        for side in sides:
            if "failed" not in results[side]:
                try:
                    results[side]["peak"] = lanes[side].end()
                except Failed as error:
                    results[side] = {"failed": str(error)}
    finally:
        for lane in lanes.values():
            lane.kill()
    return results


def ratios(theirs: Sequence[Sequence[float]], ours: Sequence[Sequence[float]]) -> list[str]:
    """Compute how many times as long `theirs` takes: from medians over all iterations, and the extremes of rounds."""
    each = [float(np.median(a) / np.median(b)) for a, b in zip(theirs, ours, strict=True)]
    overall = float(np.median(np.concatenate(theirs)) / np.median(np.concatenate(ours)))
    return [f"{overall:.2f}", f"{min(each):.2f}", f"{max(each):.2f}"]


def sides_table(pair: Sequence[str], results: dict[str, Any], flop: float | None) -> str:
    """Write a table with one row for each side, with ratios to the last side.

    Args:
        pair: Names of the sides.
        results: Result of `take_turns`.
        flop: Floating-point operations of an iteration, for a column with their rate; None for no such column.
    """
    head = ["", "ms/iteration", "iterations/s", "prompts/s", "ratio", "least", "most", "MiB loaded", "MiB peak"]
    head += [] if flop is None else ["naive TFLOP/s"]
    rows, notes, baseline = [], [], results[pair[-1]]
    for side in pair:
        result = results[side]
        if "failed" in result:
            rows.append([side, *["-"] * (len(head) - 1)])
            notes.append(f"{side} failed: {result['failed']}")
            continue
        median = float(np.median(np.concatenate(result["rounds"])))
        row = [side, f"{median * 1e3:.1f}", f"{1 / median:.2f}", f"{PER_ITERATION[side] / median:.0f}"]
        row += ["-"] * 3 if "failed" in baseline else ratios(baseline["rounds"], result["rounds"])
        row += [f"{result['loaded']:.0f}", f"{result['peak']:.0f}"]
        rows.append(row if flop is None else [*row, f"{flop / median / 1e12:.1f}"])
    return "\n".join([table(head, rows), *notes])


def floor(shape: Shape, peak: float) -> str:
    """Write the shortest time of a run in which every token of every child is computed."""
    tokens = LENGTH * POPULATION * CHILDREN
    per_token = 2 * shape.parameters
    seconds = per_token * tokens * RUN / (peak * 1e12)
    work = f"{per_token / 1e9:.3g} GFLOP x {tokens} tokens x {RUN} iterations"
    return f"Naive floor of a run: {work} at {peak:g} TFLOP/s = {seconds:.1f} s"


def shapes_table(points: Sequence[dict[str, Any]]) -> str:
    """Write a table with one row for each point of `speed_inside.shapes`."""
    rows = []
    for point in points:
        shared, plain = (float(np.median(np.concatenate(point[kind]))) for kind in ("shared", "plain"))
        prompts = point["population"] * point["children"]
        row = [f"{SYMBOLS[point['axis']]} = {point[point['axis']]}", f"{shared * 1e3:.1f}", f"{plain * 1e3:.1f}"]
        rows.append([*row, f"{prompts / shared:.0f}", *ratios(point["plain"], point["shared"])])
    return table(["", "ms shared", "ms plain", "prompts/s shared", "plain/shared", "least", "most"], rows)


def profile_table(parts: dict[str, float]) -> str:
    """Write a table with one row for each part of an iteration."""
    total = sum(parts.values())
    rows = [[part, f"{seconds * 1e3:.2f}", f"{100 * seconds / total:.1f}"] for part, seconds in parts.items()]
    passes = sum(parts[part] for part in ("forward passes", "gradient passes"))
    rows.append(["all", f"{total * 1e3:.2f}", "100.0"])
    rows.append(["all but passes", f"{(total - passes) * 1e3:.2f}", f"{100 * (1 - passes / total):.1f}"])
    return table(["", "ms/iteration", "%"], rows)


def has_cuda() -> bool:
    """Return whether torch has a CUDA device. Another process calls this, so that the parent imports no torch."""
    import torch

    return torch.cuda.is_available()


def save(path: Path, data: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(data))
    os.replace(partial, path)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("checkout", type=Path, help="clone of the paper's reference code")
    p.add_argument("--models", nargs="+", choices=SHAPES, default=["embedded"], help="pythia needs a GPU (embedded)")
    p.add_argument("--device", choices=("cpu", "cuda"), help="device; default: cuda if there is a GPU")
    p.add_argument("--iterations", type=int, default=10, help="iterations of each turn (10)")
    p.add_argument("--rounds", type=int, default=6, help="turns of each side (6)")
    p.add_argument("--sides", nargs="+", choices=(OURS, REFERENCE, NANOGCG), default=[OURS, REFERENCE, NANOGCG])
    p.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES, help="tables to print; see README.md")
    p.add_argument("--threads", type=int, default=2, help="torch threads of each side (2)")
    p.add_argument("--peak", type=float, default=790.0, help="TFLOP/s that the GPU reaches in large products (790)")
    p.add_argument("--out", type=Path, default=Path("speed.json"), help="file for the numbers (speed.json)")
    return p


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    if not (args.checkout / "dreamy" / "epo.py").is_file():
        raise SystemExit(f"{args.checkout} is not a checkout of the reference: it has no dreamy/epo.py.")
    cuda = apart(has_cuda) if args.device != "cpu" else False
    if args.device == "cuda" and not cuda:
        raise SystemExit("This machine has no CUDA device. Leave out --device cuda.")
    models = [name for name in args.models if cuda or not SHAPES[name].cuda_only]
    for name in args.models:
        if name not in models:
            print(f"{name} is left out: it is measured only on CUDA, and this machine has no CUDA device.", flush=True)
    device, checkout = "cuda" if cuda else "cpu", str(args.checkout.resolve())
    places = {name: Place(name, device, args.threads, checkout) for name in models}
    data: dict[str, Any] = {key: getattr(args, key) for key in ("iterations", "rounds", "threads")} | {"device": device}

    def record(kind: str, name: str, results: Any) -> None:
        data.setdefault(kind, {}).setdefault(name, {}).update(results)
        save(args.out, data)

    if "sides" in args.tables:
        groups = pairs(args.sides)
        for name, place in places.items():
            shape = SHAPES[name]
            where = f"{name} ({shape.dtype}, {device}, {args.rounds} rounds of {args.iterations} iterations)"
            for pair in groups:
                results = take_turns(pair, place, args.iterations, args.rounds)
                record("sides", name, results)
                gcg = NANOGCG in pair
                target = f'log p of "{shape.word}"' if gcg else shape.feature
                rows = sides_table(pair, results, shape.flop if cuda and not gcg else None)
                print(f"\n{where}, {target}:\n\n{rows}", flush=True)
            if cuda:
                print(floor(shape, args.peak), flush=True)
    if "shapes" in args.tables and models:
        name = models[0]
        points = apart(shapes, places[name], args.iterations, args.rounds)
        record("shapes", name, {"points": points})
        print(f"\nOne setting varied at a time, around Table 1, on {name}:\n\n{shapes_table(points)}", flush=True)
    if "profile" in args.tables and models:
        name = models[0]
        parts = apart(profile, places[name], args.iterations * args.rounds)
        record("profile", name, parts)
        print(f"\nWhere an iteration's time goes, on {name}:\n\n{profile_table(parts)}", flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())

"""Compare dreamy_lens with the paper's own code: the frontier hypervolume of both, on equal features and settings.

    python benchmarks/faithful.py CHECKOUT MODEL [--features L0.N8 L1.N25 ...] [--seeds 4] [--out faithful.json]

CHECKOUT is a clone of https://github.com/Confirm-Solutions/dreamy. It is not changed, and only its `epo` is imported.
MODEL is a folder of a Hugging Face model. README.md beside this file describes the comparison. Finished runs are kept
in the --out file. The same command continues a comparison that was stopped, and prints the tables of a finished one.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import io
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from comparison import OURS, SIDES, report
from measures import arrivals, frontier
from plain_model import PlainModel

TABLE_1 = {"iterations": 300, "population": 8, "children": 32, "top_k": 512, "length": 12, "restart_every": 30}


@dataclass(frozen=True)
class Task:
    """Search to run: side, feature, seed and settings."""

    side: str
    feature: str
    seed: int
    settings: dict[str, Any]

    @property
    def key(self) -> str:
        return f"{self.side}/{self.feature}/{self.seed}"


@functools.lru_cache(maxsize=1)
def plain_model(folder: str) -> PlainModel:
    return PlainModel.load(folder)


@functools.lru_cache(maxsize=1)
def bridge(folder: str) -> Any:
    import dreamy_lens as dl

    return dl.load_model(folder, device="cpu", dtype="float32")


def run_reference(task: Task, checkout: str, folder: str) -> tuple[np.ndarray, ...]:
    """Run the reference's own search. Return ids, values and cross-entropies of all evaluated prompts, in order."""
    if checkout not in sys.path:
        sys.path.insert(0, checkout)
    import torch
    from dreamy.epo import epo  # pyright: ignore[reportMissingImports]

    plain, s = plain_model(folder), task.settings
    run, start = plain.runner(task.feature), None
    if task.side == "reference_ordinary":
        run = without(plain.special, run)
        ordinary = np.setdiff1d(np.arange(plain.vocabulary), plain.special)
        random = np.random.default_rng(task.seed)
        start = torch.from_numpy(random.choice(ordinary, size=(s["population"], s["length"])))
    with contextlib.redirect_stdout(io.StringIO()):
        history = epo(
            run,
            plain.model,
            plain.tokenizer,
            seq_len=s["length"],
            population_size=s["population"],
            iters=s["iterations"],
            explore_per_pop=s["children"],
            batch_size=256,
            topk=s["top_k"],
            restart_frequency=s["restart_every"],
            seed=task.seed,
            initial_ids=start,
            callback=lambda *_, **__: None,
        )
    # Its history repeats the parents in front of every generation; only the parents of the first generation are new.
    arrays = (history.ids, history.target, history.xentropy)
    return tuple(np.concatenate([array[0], *array[1:, s["population"] :]]) for array in arrays)


def without(special: np.ndarray, run: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Wrap a runner so that it rejects prompts with special tokens as the reference does: by the lowest value."""
    import torch

    def checked(input_ids: Any = None, inputs_embeds: Any = None) -> dict[str, Any]:
        output = run(input_ids=input_ids, inputs_embeds=inputs_embeds)
        if input_ids is not None:
            bad = torch.isin(input_ids, torch.from_numpy(special)).any(dim=-1)
            output["target"] = output["target"].masked_fill(bad, -torch.finfo(output["target"].dtype).max)
        return output

    return checked


def run_dreamy_lens(task: Task, checkout: str, folder: str) -> tuple[np.ndarray, ...]:
    """Run dreamy_lens with the reference's conventions: no BOS, and parents compete with their children."""
    import dreamy_lens as dl

    run = dl.dream(task.feature, bridge(folder), seed=task.seed, prepend_bos=False, keep_parents=True, **task.settings)
    history = run.history
    return np.asarray(history.ids), np.asarray(history.value), np.asarray(history.cross_entropy)


def finish(task: Task, checkout: str, folder: str) -> dict[str, Any]:
    """Run one search and score its prompts again with the plain model. Return what the report needs."""
    search = run_dreamy_lens if task.side == OURS else run_reference
    plain = plain_model(folder)
    if task.side == OURS:
        bridge(folder)  # loaded now, so that loading is not timed
    began = time.perf_counter()
    all_ids, own_value, own_ce = search(task, checkout, folder)
    seconds = time.perf_counter() - began

    rows = np.sort(np.unique(all_ids, axis=0, return_index=True)[1])
    ids = all_ids[rows].astype(np.int64)
    value, ce = plain.score(task.feature, ids)
    if not (np.isfinite(value).all() and np.isfinite(ce).all()):
        raise SystemExit(f"{task.key} evaluated prompts whose value or cross-entropy is not finite.")
    ordinary = np.asarray(~np.isin(ids, plain.special).any(axis=1))
    counted = ordinary | (task.side != "reference_ordinary")
    result: dict[str, Any] = {
        "seconds": seconds,
        "distinct": len(ids),
        "ordinary": int(ordinary.sum()),
        "own_value": float(np.abs(own_value[rows] - value)[counted].max()),
        "own_cross_entropy": float(np.abs(own_ce[rows] - ce)[counted].max()),
    }
    for name, chosen in (("ordinary", np.flatnonzero(ordinary)), ("all", np.flatnonzero(counted))):
        kept = arrivals(value[chosen], ce[chosen])  # [distinct prompts before it, value, cross-entropy]
        result[f"arrivals_{name}"] = [[int(k), float(value[chosen[k]]), float(ce[chosen[k]])] for k in kept]
    best = chosen_frontier(ids, value, ce, ordinary)
    result["frontier"] = [
        {"value": float(value[b]), "cross_entropy": float(ce[b]), "ids": ids[b].tolist()} for b in best
    ]
    return result


def chosen_frontier(ids: np.ndarray, value: np.ndarray, ce: np.ndarray, mask: np.ndarray) -> list[int]:
    """Find the rows of the frontier of prompts with ordinary tokens only."""
    points = {(float(v), float(c)) for v, c in frontier(np.stack([value, ce], axis=1)[mask])}
    rows: dict[tuple[float, float], int] = {}
    for row in np.flatnonzero(mask):
        key = (float(value[row]), float(ce[row]))
        if key in points:
            rows.setdefault(key, int(row))
    return sorted(rows.values(), key=lambda row: ce[row])


# File of finished runs.


def save(path: Path, data: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(data))
    os.replace(partial, path)


def open_file(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    """Read the file of finished runs. A file with other settings is refused, since its runs are not comparable."""
    if not path.exists():
        return {**header, "floors": {}, "runs": {}}
    data = json.loads(path.read_text())
    different = [key for key in header if data.get(key) != header[key]]
    if different:
        raise SystemExit(f"{path} was made with other {', '.join(different)}. Name another --out file.")
    return data


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("checkout", type=Path, help="clone of the paper's reference code")
    p.add_argument("model", type=Path, help="folder of a Hugging Face model")
    p.add_argument("--features", nargs="+", help="MLP neurons such as L2.N17; default: chosen by a fixed rule")
    p.add_argument("--count", type=int, default=10, help="number of features that the rule chooses (10)")
    p.add_argument("--seeds", type=int, default=4, help="seeds 0 to SEEDS - 1 (4)")
    p.add_argument("--out", type=Path, default=Path("faithful.json"), help="file of finished runs (faithful.json)")
    p.add_argument("--sides", nargs="+", choices=SIDES, default=("reference", OURS), help="sides to run; see README.md")
    p.add_argument("--threads", type=int, default=1, help="torch threads per process (1)")
    p.add_argument("--jobs", type=int, default=2, help="processes (2)")
    for name, value in TABLE_1.items():
        p.add_argument("--" + name.replace("_", "-"), type=int, default=value, help=f"default: the paper's, {value}")
    return p


def start_worker(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    code = args.checkout / "dreamy" / "epo.py"
    if not code.is_file():
        raise SystemExit(f"{args.checkout} is not a checkout of the reference: it has no dreamy/epo.py.")
    checkout, folder = str(args.checkout.resolve()), str(args.model.resolve())
    start_worker(args.threads)
    plain = plain_model(folder)
    settings = {name: getattr(args, name) for name in TABLE_1}
    digest = hashlib.sha256(code.read_bytes()).hexdigest()
    header = {
        "model": args.model.resolve().name,
        "reference": digest,
        "settings": settings,
        "vocabulary": plain.vocabulary,
    }
    features = args.features or plain.default_features(args.count)
    data = open_file(args.out, header)
    for f in features:
        if f not in data["floors"]:
            data["floors"][f] = plain.floor(f, settings["length"])
    # Sides alternate, so that a slow machine or a stopped comparison affects both sides equally.
    sides = [side for side in SIDES if side in args.sides]
    tasks = [Task(side, f, seed, settings) for seed in range(args.seeds) for f in features for side in sides]
    tasks = [task for task in tasks if task.key not in data["runs"]]
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        if tasks:
            spawn = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(args.jobs, mp_context=spawn, initializer=start_worker, initargs=(args.threads,))
            stack.callback(pool.shutdown, cancel_futures=True)
            pending = {pool.submit(finish, task, checkout, folder): task for task in tasks}
            for number, future in enumerate(as_completed(pending), 1):
                task, result = pending[future], future.result()
                data["runs"][task.key] = result
                save(args.out, data)
                print(f"{number}/{len(tasks)} {task.key}: {result['seconds']:.1f} s", file=sys.stderr, flush=True)
    print(report(data, features, args.seeds))


if __name__ == "__main__":
    main()

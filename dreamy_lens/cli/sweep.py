"""The command `dreamy-lens sweep`, and the options of Ray, which `scan` has as well."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

_COLUMNS = ["feature", "seed", "status", "value", "cross_entropy", "hypervolume", "frontier", "prompts", "seconds"]


def add_sweep(command: Callable[..., argparse.ArgumentParser], model: Callable[..., None], load: Any) -> None:
    """Add the command to a parser; arguments as for :func:`dreamy_lens.cli.corpus.add_commands`."""
    from dreamy_lens.cli.main import NUMBERS

    what = "dream of features with many seeds, and save each run as it finishes"
    sub = command("sweep", lambda options: _sweep(options, load), what, features=True)
    sub.add_argument("feature", metavar="FEATURE", nargs="+", help="what to drive; see below")
    model(sub)
    folder = "a folder or URL for the runs; a sweep that was stopped goes on from there"
    sub.add_argument("--out", metavar="DIR", required=True, help=folder)
    sub.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each feature: seeds 0 to N - 1 (1)")
    for name, (kind, told) in NUMBERS.items():
        if name != "seed":
            sub.add_argument(f"--{name}", type=kind, metavar="N" if kind is int else "X", help=told)
    parents = "let parents compete with their children"
    sub.add_argument("--keep-parents", action="store_true", default=None, help=parents)
    sub.add_argument("--start", metavar="TEXT", action="append", help="start from this text; may be repeated")
    sub.add_argument("--fluency-model", metavar="MODEL", help="whose cross-entropy counts as fluency")
    same = "runs that are scored in the same passes, which is faster on a GPU (default 1)"
    sub.add_argument("--together", type=int, default=1, metavar="N", help=same)
    add_ray(sub)
    sub.add_argument("--quiet", action="store_true", help="no progress bar")


def add_ray(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where it is done."""
    parser.add_argument("--ray", metavar="ADDRESS", nargs="?", const=True, help="on Ray: here, or on this cluster")
    parser.add_argument("--workers", type=int, metavar="N", help="with --ray, how many models are loaded")
    parser.add_argument("--cpus-per-worker", type=float, metavar="X", help="with --ray, cores of each (default 1)")
    parser.add_argument("--gpus-per-worker", type=float, metavar="X", help="with --ray; may be a part of one")


def ray_of(options: argparse.Namespace) -> dict[str, Any]:
    """The options of :func:`add_ray` as keywords."""
    names = ("workers", "cpus_per_worker", "gpus_per_worker")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.ray is None and given:
        told = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        options.misused(f"{told} {'is' if len(given) == 1 else 'are'} for workers on Ray: add --ray")
    return given | {"ray": options.ray}


def model_of(options: argparse.Namespace, load: Any) -> dict[str, Any]:
    """The model as keywords: by its name, as one in memory would be sent to workers; loaded, if a device is named."""
    if options.device is not None:
        return {"model": load(options).source}
    return {"model": options.model, "dtype": options.dtype}


def _sweep(options: argparse.Namespace, load: Any) -> int:
    import dreamy_lens as dl
    from dreamy_lens.cli.main import SETTINGS

    if options.seeds < 1:
        options.misused(f"--seeds {options.seeds}: give a count, at least 1")
    common = {name: getattr(options, name) for name in SETTINGS if getattr(options, name, None) is not None}
    runs = dl.sweep(
        options.feature,
        out=options.out,
        seeds=range(options.seeds),
        start=options.start,
        fluency_model=options.fluency_model,
        together=options.together,
        progress=False if options.quiet else None,
        **model_of(options, load),
        **ray_of(options),
        **common,
    )
    print(runs)
    print(runs.to_pandas()[_COLUMNS].to_string(index=False, float_format="{:.4g}".format, na_rep=""))
    failed = runs.failed
    for _, row in failed.iterrows():
        print(f"dreamy-lens: {row['feature']}, seed {row['seed']}: {row['error']}", file=sys.stderr)
    return int(len(failed) > 0)

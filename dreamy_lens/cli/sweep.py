"""Command `dreamy-lens sweep`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import dreamy_lens as dl
from dreamy_lens.cli.commands import Commands
from dreamy_lens.cli.constraint_options import add_constraints, given_constraints
from dreamy_lens.cli.options import (
    add_model,
    add_quiet,
    add_ray,
    add_settings,
    add_start,
    checked_settings,
    model_keywords,
    progress_of,
    ray_keywords,
)
from dreamy_lens.cli.output import add_output, print_result

_COLUMNS = ["feature", "seed", "status", "value", "cross_entropy", "hypervolume", "frontier", "prompts", "seconds"]


def add_sweep(commands: Commands) -> None:
    """Add the command `sweep`."""
    parser = commands.add("sweep", _sweep, features=True)
    parser.add_argument("feature", metavar="FEATURE", nargs="+", help="features to drive; see below")
    add_model(parser)
    folder = "folder or URL for the runs; if it holds an unfinished sweep, that continues"
    parser.add_argument("--out", metavar="DIR", required=True, help=folder)
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="number of runs of each feature, with the seeds 0 to N - 1 (default 1)",
    )
    add_settings(parser, without=("seed",))
    add_start(parser)
    add_constraints(parser)
    together = "number of runs to score in the same passes; more is faster on a GPU (default 1)"
    parser.add_argument("--together", type=int, default=1, metavar="N", help=together)
    add_ray(parser)
    add_output(parser, "the runs")
    add_quiet(parser)


def _sweep(options: argparse.Namespace) -> int:
    if options.seeds < 1:
        options.misused(f"--seeds {options.seeds}: give a count, at least 1")
    settings = checked_settings(options)
    runs = dl.sweep(
        options.feature,
        out=options.out,
        seeds=range(options.seeds),
        start=options.start,
        constraints=given_constraints(options),
        fluency_model=options.fluency_model,
        together=options.together,
        progress=progress_of(options),
        **model_keywords(options),
        **ray_keywords(options),
        **settings,
    )
    print_result(runs, options, lambda: print_sweep(runs))
    return report_failed(runs)


def print_sweep(runs: Any) -> None:
    """Print the table of a sweep.

    Args:
        runs: Sweep to print.
    """
    print(runs)
    table = runs.to_pandas()[_COLUMNS]
    print(table.to_string(index=False, float_format="{:.4g}".format, na_rep=""))  # pyright: ignore[reportArgumentType]


def report_failed(runs: Any) -> int:
    """Print the failed runs of a sweep on stderr; return the exit status.

    Args:
        runs: Sweep that has ended.
    """
    failed = runs.failed
    for _, row in failed.iterrows():
        print(f"dreamy-lens: {row['feature']}, seed {row['seed']}: {row['error']}", file=sys.stderr)
    return int(len(failed) > 0)

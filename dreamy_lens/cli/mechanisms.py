"""Command `dreamy-lens mechanisms`."""

from __future__ import annotations

import argparse

import dreamy_lens as dl
from dreamy_lens.cli.commands import Commands
from dreamy_lens.cli.options import add_model, add_page, add_quiet, announce, load_selected_model, report_file
from dreamy_lens.cli.output import add_output, print_result
from dreamy_lens.results.export import check_format


def add_mechanisms(commands: Commands) -> None:
    """Add the command `mechanisms`."""
    parser = commands.add("mechanisms", _mechanisms)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folder of a run, or of several, of one feature")
    add_model(parser, bos=False)
    parser.add_argument(
        "--share",
        type=float,
        default=0.8,
        metavar="X",
        help="share of the maximum that a cell must reach to count as a way (default 0.8)",
    )
    parser.add_argument("--examples", metavar="FOLDER", help="scan of a corpus whose strongest windows are examined")
    parser.add_argument(
        "--similar",
        type=float,
        default=0.5,
        metavar="X",
        help="mean cosine of fingerprints from which on prompts are in one cell (default 0.5)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the texts and of the random units")
    add_page(parser, "write the mechanisms as a self-contained page")
    add_output(parser, "the prompts of all cells")
    formats = "write the figure as .svg, .pdf or .png, the table as .csv, or everything as .json"
    parser.add_argument("--out", metavar="FILE", help=formats)
    add_quiet(parser, "do not say what is being done")


def _mechanisms(options: argparse.Namespace) -> None:
    if options.out:
        check_format(options.out, drawn=True)
    given = (options.model, options.device, options.dtype) != (None, None, None)
    model = load_selected_model(options) if given else None  # else each run has its own
    runs = []
    for folder in options.runs:
        found = dl.load(folder, model)
        runs += getattr(found, "runs", [found])
    announce("Finding the ways in which the runs drive their feature", options)
    settings = {name: getattr(options, name) for name in ("share", "examples", "similar", "seed")}
    mechanisms = dl.mechanisms(runs, **settings)
    print_result(mechanisms, options, lambda: print(mechanisms))
    if options.out:
        report_file(mechanisms.save(options.out), options)

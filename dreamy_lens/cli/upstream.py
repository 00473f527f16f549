"""Command `dreamy-lens upstream`."""

from __future__ import annotations

import argparse

import dreamy_lens as dl
from dreamy_lens.cli.commands import Commands
from dreamy_lens.cli.options import add_model, add_page, add_quiet, announce, load_selected_model, report_file
from dreamy_lens.cli.output import add_output, print_result
from dreamy_lens.results.export import check_format


def add_upstream(commands: Commands) -> None:
    """Add the command `upstream`."""
    parser = commands.add("upstream", _upstream, features=True)
    parser.add_argument("feature", metavar="FEATURE", help="feature to decompose; see below")
    parser.add_argument("prompt", metavar="PROMPT", help="text of the prompt")
    add_model(parser)
    quantity = "pre (before the nonlinearity), gate, up, or value; default: pre if there is one, or else value"
    parser.add_argument("--quantity", metavar="NAME", choices=("pre", "gate", "up", "value"), help=quantity)
    parser.add_argument(
        "--neurons", type=int, default=10, metavar="N", help="number of neurons to name in each MLP (default 10)"
    )
    add_page(parser, "write the contributions as a self-contained page")
    add_output(parser, "all components")
    formats = "write the heat maps as .svg, .pdf or .png, the table as .csv, or everything as .json"
    parser.add_argument("--out", metavar="FILE", help=formats)
    add_quiet(parser, "do not say what is being done")


def _upstream(options: argparse.Namespace) -> None:
    if options.out:
        check_format(options.out, drawn=True)
    model = load_selected_model(options)
    announce(f"Dividing {options.feature} into the contributions of components", options)
    settings = {name: getattr(options, name) for name in ("quantity", "neurons", "prepend_bos")}
    upstream = dl.upstream(options.feature, options.prompt, model, **settings)
    print_result(upstream, options, lambda: print(upstream))
    if options.out:
        report_file(upstream.save(options.out), options)

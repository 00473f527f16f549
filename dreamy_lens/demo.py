"""A first dream: `make demo`, `dreamy-lens demo`, or `python -m dreamy_lens.demo`.

The demo dreams of one neuron of the embedded model, prints the frontier, and writes a page to open in a browser.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import dreamy_lens as dl
from dreamy_lens._files import check_page
from dreamy_lens.errors import FileWriteError

FEATURE = "L2.N812"
"""Neuron that is active on "only" as a restriction: "if given, applied only to"."""

ITERATIONS = 40
"""Number of iterations of the search; a run without a budget has 300."""

SHOWN = 10
"""Number of prompts of the frontier that the demo prints, and that the page attributes."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the demo to a parser."""
    parser.add_argument("--feature", default=FEATURE, help="feature to drive (default: %(default)s)")
    parser.add_argument(
        "--iterations",
        type=int,
        default=ITERATIONS,
        help="iterations of the search (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the search (default: %(default)s)")
    parser.add_argument("--html", default="dream.html", help="file to write the page to (default: %(default)s)")


def run_demo(options: argparse.Namespace) -> None:
    """Dream, print the frontier, and write the page.

    Args:
        options: Options of :func:`add_options`.
    """
    print("Loading the embedded model ...", flush=True)
    model = dl.load_model()
    feature = dl.parse(options.feature)
    print(f"Dreaming about {feature.label} for {options.iterations} iterations", flush=True)
    start = time.perf_counter()
    run = dl.dream(
        feature,
        model,
        constraints=[dl.constraints.round_trip(), dl.constraints.printable()],
        iterations=options.iterations,
        seed=options.seed,
    )
    seconds = time.perf_counter() - start

    shown = run.frontier.spread(SHOWN)
    count = len(run.frontier)
    print(
        f"\nScored {len(run.history):,} prompts in {seconds:.0f} s. Of the {count} prompts on the frontier, from "
        "fluent to strong:\n"
    )
    print(shown)
    best = run.frontier.representative()
    if best is not None:
        print(f"\nTokens that carry the value of {best.text!r}:\n")
        print(best.attribution())

    page = Path(options.html).resolve()
    run.to_html(page, strips=SHOWN)
    print(f"\nThe frontier as a page, with attribution: {page.as_uri()}")
    constraints = "[dl.constraints.round_trip(), dl.constraints.printable()]"
    keywords = f"iterations={options.iterations}, seed={options.seed}, constraints={constraints}"
    print(f"In Python: import dreamy_lens as dl; run = dl.dream({options.feature!r}, {keywords})")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo, and return the exit status 0.

    Args:
        arguments: Words of the command line; None is those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m dreamy_lens.demo", description="A first dream on the embedded model."
    )
    add_options(parser)
    options = parser.parse_args(arguments)
    try:
        check_page(options.html)
    except FileWriteError as error:
        parser.error(str(error))
    run_demo(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())

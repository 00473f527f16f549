"""The command line: `dreamy-lens dream`, `attribute`, `scan`, `compare`, `card`, `sweep`, `hooks`, `show`, `doctor`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import dreamy_lens as dl
from dreamy_lens.cli import corpus, dream, model, sweep
from dreamy_lens.cli.options import Commands
from dreamy_lens.errors import DreamyLensError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: words of the command line; None is those of the process.

    Returns:
        The exit status: 0; 1 with a sentence on stderr; 2 for wrong usage, which argparse raises as SystemExit; 130
        after an interrupt outside a search. What a search found before it failed is on stderr.
    """
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.run is None:
        parser.print_help()
        return 2
    try:
        status = options.run(options) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `dreamy-lens hooks | head`: what is still to be flushed goes nowhere either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("dreamy-lens: interrupted.", file=sys.stderr)
        return 130
    except (DreamyLensError, OSError) as error:
        print(f"dreamy-lens: {error}", file=sys.stderr)
        _print_frontier_of(error)
        return 1
    except Exception as error:
        _print_frontier_of(error)
        raise


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="dreamy-lens",
        description="Find the prompts that drive a feature of a language model while they read as language.",
    )
    parser.add_argument("--version", action="version", version=f"dreamy-lens {dl.__version__}")
    parser.set_defaults(run=None)
    commands = Commands(parser)
    dream.add_dream(commands)
    model.add_attribute(commands)
    corpus.add_scan(commands)
    corpus.add_compare(commands)
    corpus.add_card(commands)
    sweep.add_sweep(commands)
    model.add_hooks(commands)
    dream.add_show(commands)
    model.add_doctor(commands)
    return parser


def _print_frontier_of(error: Exception) -> None:
    """Print what the run of an error had found when it failed."""
    run = getattr(error, "run", None)
    if run is not None and len(run.history):
        print(f"Found before that:\n{run.frontier}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

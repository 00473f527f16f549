"""Command `dreamy-lens`, with the commands `dream`, `attribute`, `scan`, `compare`, `card`, `sweep` and others."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Collection, Iterator, Sequence
from importlib import import_module

import dreamy_lens as dl
from dreamy_lens._files import TABLES, check_ending, check_file, check_page
from dreamy_lens._host import reporting
from dreamy_lens.cli.commands import COMMANDS, Commands
from dreamy_lens.cli.wording import in_options
from dreamy_lens.errors import DreamyLensError
from dreamy_lens.scan.index_folder import check_index_folder, is_index_folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Words of the command line; None is those of the process.

    Returns:
        Exit status: 0 for success; 1 for an error, with a sentence on stderr; 2 for wrong usage, which argparse raises
        as SystemExit; 130 after an interrupt outside a search. If a search fails, its frontier so far is on stderr.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = make_parser(words[:1])
    options, unknown = parser.parse_known_args(words)
    if unknown:  # the error comes from the command's own parser, which prints the usage of this command
        getattr(options, "misused", parser.error)(f"unrecognized arguments: {' '.join(unknown)}")
    options.words = words
    if options.run is None:
        parser.print_help()
        return 2
    try:
        _check_files(options)
        with _warnings_in_words(options), reporting(False if getattr(options, "quiet", False) else None):
            status = options.run(options) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # as in `dreamy-lens hooks | head`: a later flush must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("dreamy-lens: interrupted.", file=sys.stderr)
        return 130
    except (DreamyLensError, OSError) as error:
        print(f"dreamy-lens: {in_options(str(error), options)}", file=sys.stderr)
        _print_frontier_of(error)
        return 1
    except Exception as error:
        _print_frontier_of(error)
        raise


def make_parser(names: Collection[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """Return the parser of all commands.

    Args:
        names: Names of the commands that get their options. The modules of the others are not imported, because some
            of them take seconds to import.
    """
    parser = argparse.ArgumentParser(
        prog="dreamy-lens",
        description="Find fluent prompts that drive a feature of a language model to high values.",
    )
    parser.add_argument("--version", action="version", version=f"dreamy-lens {dl.__version__}")
    parser.set_defaults(run=None)
    commands = Commands(parser)
    for name, command in COMMANDS.items():
        if name in names:
            getattr(import_module(f"dreamy_lens.cli.{command.module}"), f"add_{name}")(commands)
        else:
            commands.list_only(name)
    return parser


def _check_files(options: argparse.Namespace) -> None:
    """Raise FileWriteError, before what may take long, if a file that the options name cannot be written."""
    if getattr(options, "html", None):
        if options.html_folders and is_index_folder(options.html):
            check_index_folder(options.html)
        else:
            check_page(options.html)
    if getattr(options, "csv", None):
        check_ending(options.csv, TABLES, "a table in CSV")
        check_file(options.csv)


@contextlib.contextmanager
def _warnings_in_words(options: argparse.Namespace) -> Iterator[None]:
    """Print warnings like errors: who calls no Python functions needs no file and line of them, and no keywords."""
    former = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"dreamy-lens: {in_options(str(message), options)}\n"
    try:
        yield
    finally:
        warnings.formatwarning = former


def _print_frontier_of(error: Exception) -> None:
    """Print the frontier that a run had reached before it failed."""
    run = getattr(error, "run", None)
    if run is not None and len(run.history):
        print(f"Found before that:\n{run.frontier}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

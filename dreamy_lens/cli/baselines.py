"""Command `dreamy-lens baselines`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import dreamy_lens as dl
from dreamy_lens.cli.commands import Commands
from dreamy_lens.cli.corpus import add_corpus, open_chosen_corpus
from dreamy_lens.cli.options import add_model, add_quiet, announce, load_selected_model
from dreamy_lens.cli.output import add_output, print_result

_NUMBERS = ("length", "prompts", "windows", "seed", "prepend_bos")


def add_baselines(commands: Commands) -> None:
    """Add the command `baselines`."""
    parser = commands.add("baselines", _baselines, features=True)
    what = "folder of a run, which keeps the result and whose prompts are compared with it; or a feature"
    parser.add_argument("of", metavar="RUN_OR_FEATURE", help=what)
    add_model(parser)
    add_corpus(parser, "no windows")
    length = "tokens of a prompt and of a window; default: those of the run, or 12"
    parser.add_argument("--length", type=int, metavar="N", help=length)
    parser.add_argument("--prompts", type=int, default=1024, metavar="N", help="random prompts (default 1024)")
    parser.add_argument("--windows", type=int, default=1024, metavar="N", help="windows of the corpus (default 1024)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of what is drawn (default 0)")
    held_out = "held-out model with the same tokenizer, whose cross-entropy the prompts of the run get"
    parser.add_argument("--fluency-model", metavar="MODEL", help=held_out)
    add_output(parser, "the run's prompts with their z-scores, or of the baselines of a feature")
    add_quiet(parser, "do not say what is being done")


def _baselines(options: argparse.Namespace) -> None:
    keywords: dict[str, Any] = {name: getattr(options, name) for name in _NUMBERS}
    keywords |= {"fluency_model": options.fluency_model}
    corpus = None if options.corpus is None else open_chosen_corpus(options)
    announce(f"Measuring {options.of} on random prompts" + (" and windows" if corpus is not None else ""), options)
    if Path(options.of).expanduser().is_dir():
        given = (options.model, options.device, options.dtype) != (None, None, None)
        run = dl.load_run(options.of, load_selected_model(options) if given else None)
        known = dl.baselines(run, None, corpus, **keywords)
        frontier = run.frontier
    else:
        known, frontier = dl.baselines(options.of, load_selected_model(options), corpus, **keywords), None
    baselines = known.to_pandas()
    table = baselines if frontier is None else known.of(frontier)
    document = {
        **{"kind": "Baselines", "feature": known.feature, "model": known.model, "length": known.length},
        **{"seed": known.seed, "fluency_model": known.fluency or None},
        **{"baselines": baselines.to_dict("records"), "table": table.to_dict("records")},
    }

    def as_text() -> None:
        print(known)
        if frontier is not None:
            print(f"\n{frontier}")

    print_result(known, options, as_text, document, table=lambda: table)

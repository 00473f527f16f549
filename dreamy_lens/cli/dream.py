"""Commands for runs: `dreamy-lens dream` and `show`."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

import dreamy_lens as dl
from dreamy_lens._files import check_page, expanded
from dreamy_lens.cli.commands import Commands
from dreamy_lens.cli.constraint_options import CONSTRAINT_OPTIONS, add_constraints, given_constraints
from dreamy_lens.cli.corpus import print_windows
from dreamy_lens.cli.options import (
    add_model,
    add_page,
    add_quiet,
    add_settings,
    add_start,
    announce,
    checked_settings,
    flag_of,
    given_settings,
    load_selected_model,
    progress_of,
    report_file,
)
from dreamy_lens.cli.output import add_output, print_result
from dreamy_lens.cli.sweep import print_sweep, report_failed
from dreamy_lens.comparison.content import SEARCH_ALL
from dreamy_lens.errors import RunFolderError
from dreamy_lens.results.storage import RUN
from dreamy_lens.runs.call_code import program_of
from dreamy_lens.runs.dreams import folders_of
from dreamy_lens.runs.frames import check_replay
from dreamy_lens.runs.saving import check_free


def add_dream(commands: Commands) -> None:
    """Add the command `dream`."""
    parser = commands.add("dream", _dream, features=True)
    parser.add_argument("feature", metavar="FEATURE", nargs="?", help="feature to drive; see below")
    add_model(parser)
    parser.add_argument("--out", metavar="DIR", help="save the run in this folder, every half minute and at the end")
    resume = "continue the saved run in this folder; --iterations is then the number of further iterations"
    parser.add_argument("--resume", metavar="DIR", help=resume)
    seeds = "number of runs with the seeds 0 to N - 1, side by side, instead of --seed; --out then holds a folder each"
    parser.add_argument("--seeds", type=int, metavar="N", help=seeds)
    add_page(parser)
    add_output(parser, "the frontier")
    add_settings(parser)
    add_start(parser)
    add_constraints(parser)
    add_quiet(parser)


def _dream(options: argparse.Namespace) -> int:
    if options.resume is not None:
        run = _saved_run(options)
        announce(f"Continuing the dream of {run.feature_label}", options)
        save_to = options.out or options.resume
        run.resume(options.iterations, progress=progress_of(options), save_to=save_to)
    else:
        if options.feature is None:
            options.misused("name a feature, as in `dreamy-lens dream L2.N17`")
        if options.seeds is not None and options.seed is not None:
            options.misused("--seed and --seeds are both given; keep one")
        if options.seeds is not None and options.seeds < 1:
            options.misused(f"--seeds {options.seeds}: give a count, at least 1")
        if options.out is not None and (expanded(options.out) / RUN).is_file():  # the error of dream() speaks of Python
            raise RunFolderError(
                f"{options.out!r} already holds a run; continue it with --resume {shlex.quote(options.out)}, choose "
                "another name, or delete it first."
            )
        if options.out is not None:
            for folder in [options.out] if options.seeds is None else folders_of(options.out, options.seeds):
                check_free(folder)
        settings = checked_settings(options)
        model = load_selected_model(options)
        announce(f"Dreaming of {options.feature}", options)
        run = dl.dream(
            options.feature,
            model,
            start=options.start,
            constraints=given_constraints(options),
            fluency_model=options.fluency_model,
            save_to=options.out,
            progress=progress_of(options),
            seeds=options.seeds,
            **settings,
        )
    print_result(run, options, lambda: _print_runs(run))
    return int(run.worker is not None and run.worker.save_error is not None)  # a warning has said why


def _saved_run(options: argparse.Namespace) -> Any:
    """Open the run to continue; options that would change its settings are wrong usage."""
    changes = given_settings(options)
    changes.pop("iterations", None)
    bos = changes.pop("prepend_bos", None)
    run_options = ("seeds", "start", *CONSTRAINT_OPTIONS, "fluency_model")
    unusable = ["the feature"] * (options.feature is not None)
    unusable += [flag_of(name) for name in changes]
    unusable += [flag_of(name) for name in run_options if getattr(options, name) not in (None, False)]
    unusable += ["--bos" if bos else "--no-bos"] * (bos is not None)
    if unusable:
        options.misused(f"--resume goes on with the run's own settings; leave out {', '.join(unusable)}")
    run = dl.load_run(options.resume)
    if options.model or options.device or options.dtype:
        # Options that are not given keep the model, device and dtype of the saved run.
        device, dtype = run.made_in
        options.model = options.model or run.provenance.model
        options.device, options.dtype = options.device or device, options.dtype or dtype
        run = dl.load_run(options.resume, load_selected_model(options))
    return run


def add_show(commands: Commands) -> None:
    """Add the command `show`."""
    parser = commands.add("show", _show)
    path = "folder of a run, of several runs, of a sweep, of a scan or of a study; or JSON file of a result, such as "
    path += "a comparison, an attribution, a frontier or merged runs"
    parser.add_argument("path", metavar="PATH", help=path)
    limit = "print only the best prompt with at most this cross-entropy, in nats per token"
    parser.add_argument("--max-cross-entropy", type=float, metavar="X", help=limit)
    replay = "write the search as an animation that loops, .svg or .html; --max-cross-entropy limits its best prompt"
    parser.add_argument("--replay", metavar="FILE", help=replay)
    python = "print the program that makes the result again, as Python, instead of the result"
    parser.add_argument("--python", action="store_true", help=python)
    page = "write a self-contained page; this may load the model; of a scan, a name such as layer2/ gets a folder with "
    add_page(parser, page + "an index of the features and a page for each", folders=True)
    add_output(parser, "what is shown")


def _show(options: argparse.Namespace) -> None:
    if options.replay:
        check_replay(options.replay)
    result = dl.load(options.path)
    kind = type(result).__name__
    if options.html and not hasattr(result, "to_html"):
        options.misused(f"--html writes no page of {kind}; leave it out")
    if options.html and kind != "Examples":
        check_page(options.html)
    if options.replay and kind != "Dream":
        options.misused(f"--replay is for one run, and this is {kind}; leave it out")
    if options.replay:
        result.replay(options.replay, max_cross_entropy=options.max_cross_entropy)
        report_file(options.replay, options)
    if options.python:
        code = program_of(result)
        if not code:
            options.misused(f"--python needs a result that has its program, and this {kind} has none; leave it out")
        print_result(result, options, lambda: print(code), {"kind": kind, "python": code})
    elif options.max_cross_entropy is None:
        print_result(result, options, lambda: _print_result(result))
    elif kind in ("Dream", "Dreams", "Merged", "Frontier"):
        best = getattr(result, "frontier", result).best(max_cross_entropy=options.max_cross_entropy)
        ids = list(best.ids)
        text = f"{best.text!r}\nvalue {best.value:.4g}, cross-entropy {best.cross_entropy:.2f}, ids {ids}"
        print_result(result, options, lambda: print(text), {"kind": "Prompt", **best.to_dict()})
    else:
        options.misused(f"--max-cross-entropy is for runs, and this is {kind}; leave it out")


def _print_runs(result: Any) -> None:
    """Print a result; after several runs, also the frontier that the seeds of each feature reach together."""
    print(result)
    if hasattr(result, "merged") and hasattr(result, "runs"):
        for merged in result.merged():
            print(f"\n{merged.feature_names[0]} on {merged.runs[0].provenance.model}, all runs together\n{merged}")


def _print_result(result: Any) -> None:
    """Print what was opened from a folder or a file."""
    kind = type(result).__name__
    if kind == "Sweep":
        print_sweep(result)
        report_failed(result)
        return
    if kind == "Comparison":
        print(str(result).replace(SEARCH_ALL, "--corpus SOURCE"))
        return
    _print_runs(result)
    if kind == "Dream":
        print(f"\n{result.history!r}, {result.done_text}, seed {result.config.seed}")
    elif kind == "Examples":
        print_windows(result)

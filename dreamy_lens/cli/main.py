"""The command line: `dreamy-lens dream`, `attribute`, `scan`, `compare`, `card`, `sweep`, `hooks`, `show`, `doctor`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreamy_lens import __version__
from dreamy_lens.cli.corpus import add_commands
from dreamy_lens.errors import DreamyLensError

FEATURES = """features:
  L2.N17                                             an MLP neuron, after its nonlinearity, at the last token
  blocks.2.mlp.hook_pre[-1, 17]                      the same before it; `dreamy-lens hooks` lists hook points
  blocks.2.mlp.hook_post[..., 17].max()              anywhere in the prompt
  blocks.4.hook_resid_post[-1].standardised() @ "v.safetensors"
  blocks.3.attn.hook_pattern[0, -1, 2]               head 0's attention from the last token to the third
  'logit(" the") - logit.runner_up(" the")'          a prediction, as in Eq. 3
  'sae_latent("folder", 123, pre_activation=true)'   a latent of a sparse autoencoder
"""


# Settings of the search that are numbers: how to read one, and what it is.
NUMBERS = {
    "iterations": (int, "how many times the population is replaced (default 300)"),
    "population": (int, "members, each with its own weight of cross-entropy (default 8)"),
    "children": (int, "mutations of each member in one iteration (default 32)"),
    "top-k": (int, "candidates at each position (default 512)"),
    "length": (int, "tokens of a prompt (default 12)"),
    "lambda-min": (float, "least weight of cross-entropy (default 0.1)"),
    "lambda-max": (float, "largest weight of cross-entropy (default 10)"),
    "restart-every": (int, "iterations between restarts, 0 for none (default 30)"),
    "seed": (int, "of everything that is drawn (default 0)"),
    "batch-size": (int, "most prompts in one pass through the model"),
}
SETTINGS = (*(name.replace("-", "_") for name in NUMBERS), "keep_parents", "prepend_bos")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0; 1 with a sentence on stderr; 2 for wrong usage, which argparse raises as SystemExit; 130
        after an interrupt outside a search. What a search found before it failed is on stderr.
    """
    parser = _parser()
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
        _print_found(error)
        return 1
    except Exception as error:
        _print_found(error)
        raise


def _print_found(error: Exception) -> None:
    run = getattr(error, "run", None)
    if run is not None and len(run.history):
        print(f"Found before that:\n{run.frontier}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dreamy-lens",
        description="Find the prompts that drive a feature of a language model while they read as language.",
    )
    parser.add_argument("--version", action="version", version=f"dreamy-lens {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, run: Any, what: str, features: bool = False) -> argparse.ArgumentParser:
        more: dict[str, Any] = {"epilog": FEATURES, "formatter_class": argparse.RawDescriptionHelpFormatter}
        described = {"help": what, "description": f"{what[0].upper()}{what[1:]}."}
        sub = commands.add_parser(name, **described, **(more if features else {}))
        sub.set_defaults(run=run, misused=sub.error)
        return sub

    sub = command("dream", _dream, "search for prompts that drive a feature, and print the frontier", features=True)
    sub.add_argument("feature", metavar="FEATURE", nargs="?", help="what to drive; see below")
    _model(sub)
    sub.add_argument("--out", metavar="DIR", help="save the run in this folder, every half minute and at the end")
    sub.add_argument("--resume", metavar="DIR", help="go on with a saved run; --iterations is then how many more")
    sub.add_argument("--html", metavar="FILE", help="write a self-contained page")
    sub.add_argument("--start", metavar="TEXT", action="append", help="start from this text; may be repeated")
    for name, (kind, what) in NUMBERS.items():
        sub.add_argument(f"--{name}", type=kind, metavar="N" if kind is int else "X", help=what)
    parents = "let parents compete with their children"
    sub.add_argument("--keep-parents", action="store_true", default=None, help=parents)
    sub.add_argument("--fluency-model", metavar="MODEL", help="whose cross-entropy counts as fluency")
    sub.add_argument("--forbid", metavar="TEXT", action="append", help="text that may not occur, in any case")
    sub.add_argument("--round-trip", action="store_true", help="only prompts whose text encodes to the same tokens")
    sub.add_argument("--printable", action="store_true", help="only tokens that print")
    around = "fixed text around the prompt, as in 'User: {dream} Assistant:'"
    sub.add_argument("--template", metavar="TEXT", help=around)
    sub.add_argument("--quiet", action="store_true", help="no progress bar")

    sub = command("attribute", _attribute, "show which tokens of a prompt carry a feature", features=True)
    sub.add_argument("feature", metavar="FEATURE")
    sub.add_argument("prompt", metavar="PROMPT", help="the text")
    _model(sub)
    sub.add_argument("-k", type=int, default=32, metavar="N", help="substitutes tried at each position (default 32)")
    sub.add_argument("--html", metavar="FILE", help="write the coloured strip to a file")

    add_commands(command, _model, _load)

    sub = command("hooks", _hooks, "list a model's hook points with their shapes")
    words = "words that the name must have; or a pattern, as in '*hook_post'"
    sub.add_argument("pattern", nargs="*", metavar="WORD", help=words)
    _model(sub, bos=False)

    sub = command("show", _show, "print a saved run")
    sub.add_argument("path", metavar="RUN", help="the run's folder")
    sub.add_argument("--max-cross-entropy", type=float, metavar="X", help="only the best prompt under this limit")
    sub.add_argument("--html", metavar="FILE", help="write a self-contained page; this loads the model")
    sub.add_argument("--csv", metavar="FILE", help="write the frontier as a table")

    sub = command("doctor", _doctor, "check a model and a feature, and say what is wrong", features=True)
    sub.add_argument("feature", metavar="FEATURE", nargs="?", help="see below; without one, the model alone is checked")
    _model(sub)
    return parser


def _model(parser: argparse.ArgumentParser, bos: bool = True) -> None:
    parser.add_argument(
        "--model", metavar="MODEL", help="a Hugging Face id or a local folder; default: the embedded one"
    )
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, ...; default: the first GPU if any")
    parser.add_argument("--dtype", metavar="DTYPE", help="float32 (default), bfloat16 or float16")
    if bos:
        group = parser.add_mutually_exclusive_group()
        what = "put a BOS before the prompt"
        group.add_argument("--bos", dest="prepend_bos", action="store_true", default=None, help=what)
        what = "put none; default: the model's convention"
        group.add_argument("--no-bos", dest="prepend_bos", action="store_false", help=what)


def _load(options: argparse.Namespace) -> Any:
    from dreamy_lens.models.load import as_hooked

    return as_hooked(options.model, device=options.device, dtype=options.dtype)


def _dream(options: argparse.Namespace) -> None:
    import dreamy_lens as dl

    progress = False if options.quiet else None
    if options.resume is not None:
        run = _saved(options)
        run.resume(options.iterations, progress=progress, save_to=options.out or options.resume)
    else:
        if options.feature is None:
            options.misused("name a feature, as in `dreamy-lens dream L2.N17`")
        rules: list[Any] = [dl.constraints.forbid_text(text) for text in options.forbid or ()]
        rules += [dl.constraints.round_trip()] * options.round_trip + [dl.constraints.printable()] * options.printable
        rules += [dl.constraints.template(options.template)] if options.template is not None else []
        run = dl.dream(
            options.feature,
            _load(options),
            start=options.start,
            constraints=rules,
            fluency_model=options.fluency_model,
            save_to=options.out,
            progress=progress,
            **{name: getattr(options, name) for name in SETTINGS if getattr(options, name) is not None},
        )
    print(run)
    _write_page(run, options.html)


def _saved(options: argparse.Namespace) -> Any:
    """The run to go on with; nothing that would change it may be asked for."""
    import dreamy_lens as dl

    changing = (*SETTINGS, "start", "forbid", "round_trip", "printable", "template", "fluency_model")
    values = {name: getattr(options, name) for name in changing if name not in ("iterations", "prepend_bos")}
    extra = ["the feature"] * (options.feature is not None)
    extra += [f"--{n.replace('_', '-')}" for n, value in values.items() if value is not None and value is not False]
    extra += ["--bos" if options.prepend_bos else "--no-bos"] * (options.prepend_bos is not None)
    if extra:
        options.misused(f"--resume goes on with the run's own settings; leave out {', '.join(extra)}")
    run = dl.load_run(options.resume)
    if options.model or options.device or options.dtype:
        # What is not asked for is as the run was made.
        device, dtype = run.made_in
        options.model = options.model or run.provenance.model
        options.device, options.dtype = options.device or device, options.dtype or dtype
        run = dl.load_run(options.resume, _load(options))
    return run


def _attribute(options: argparse.Namespace) -> None:
    import dreamy_lens as dl

    found = dl.attribution(options.feature, options.prompt, _load(options), options.k, prepend_bos=options.prepend_bos)
    print(found)
    if options.html:
        found.to_html(options.html)
        print(f"Written: {options.html}")


def _hooks(options: argparse.Namespace) -> int:
    from dreamy_lens.models.hook_points import hook_points
    from dreamy_lens.models.names import nearest

    model = _load(options)
    pattern = " ".join(options.pattern)
    points = hook_points(model, pattern)
    if not points:
        near = ", ".join(nearest(pattern, model.hook_names()))
        print(f"dreamy-lens: no hook point of {model.name} matches {pattern!r}; nearest: {near}.", file=sys.stderr)
        return 1
    width = max(len(point.name) for point in points)
    for point in points:
        shape = "never reached" if point.shape is None else "[" + ", ".join(map(str, point.shape)) + "]"
        print(f"{point.name:<{width}}  {shape}")
    return 0


def _show(options: argparse.Namespace) -> None:
    import dreamy_lens as dl

    run = dl.load_run(options.path)
    if options.max_cross_entropy is None:
        print(run)
        print(f"\n{run.history!r}, {run.iteration} of {run.config.iterations} iterations, seed {run.config.seed}")
    else:
        best = run.frontier.best(max_cross_entropy=options.max_cross_entropy)
        print(f"{best.text!r}\nvalue {best.value:.4g}, cross-entropy {best.cross_entropy:.2f}, ids {list(best.ids)}")
    if options.csv:
        run.frontier.to_pandas().to_csv(options.csv, index=False)
        print(f"Written: {options.csv}")
    _write_page(run, options.html)


def _doctor(options: argparse.Namespace) -> int:
    from dreamy_lens.analysis.doctor import Finding, examine

    failed = False
    try:
        model = _load(options)
    except DreamyLensError as error:
        print(Finding(False, "the model loads", str(error)))
        return 1
    for finding in examine(options.feature, model, prepend_bos=options.prepend_bos):
        print(finding, flush=True)
        failed |= finding.passed is False
    return int(failed)


def _write_page(run: Any, path: str | None) -> None:
    if path:
        run.to_html(path)
        print(f"Written: {Path(path).resolve()}")


if __name__ == "__main__":
    sys.exit(main())

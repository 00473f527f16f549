"""Commands `dreamy-lens steer`, `dreamy-lens ablate` and `dreamy-lens patch`."""

from __future__ import annotations

import argparse
from typing import Any

import dreamy_lens as dl
from dreamy_lens.cli.commands import Commands
from dreamy_lens.cli.options import add_model, add_page, add_quiet, announce, load_selected_model, report_file
from dreamy_lens.cli.output import add_output, print_result
from dreamy_lens.results.ablation import KINDS
from dreamy_lens.results.export import check_format
from dreamy_lens.results.patching import COMPONENTS
from dreamy_lens.results.steering import MODES, STRENGTHS, UNITS

_FORMATS = "write the figure as .svg, .pdf or .png, the table as .csv, or everything as .json"


def add_steer(commands: Commands) -> None:
    """Add the command `steer`."""
    parser = commands.add("steer", _steer, features=True)
    parser.add_argument("feature", metavar="FEATURE", help="neuron, direction or latent to change; see below")
    parser.add_argument("prompt", metavar="PROMPT", help="text of the prompt")
    add_model(parser)
    strengths = "strengths, in standard deviations of the feature unless --units raw (default 4 16 64)"
    parser.add_argument("--strengths", type=float, nargs="+", metavar="X", default=[*STRENGTHS], help=strengths)
    parser.add_argument("--mode", choices=MODES, default="add", help="way to change the feature (default add)")
    parser.add_argument("--units", choices=UNITS, default="sd", help="unit of the strengths (default sd)")
    _add_positions(parser)
    _add_tokens(parser)
    parser.add_argument(
        "--read", metavar="FEATURE", action="append", default=[], help="other feature to read; may be given again"
    )
    parser.add_argument(
        "--n-tokens", type=int, default=20, metavar="N", help="number of tokens to write; 0 for none (default 20)"
    )
    _add_rest(parser, 4, "write the effects as a self-contained page", "all strengths and placebos")


def add_ablate(commands: Commands) -> None:
    """Add the command `ablate`."""
    parser = commands.add("ablate", _ablate, features=True)
    parts = "L2.H3 (a head), L1.MLP, L1.attn, embedding, position, or a feature; see below"
    parser.add_argument("parts", metavar="PART", nargs="+", help=parts)
    parser.add_argument("--prompt", metavar="TEXT", action="append", required=True, help="prompt; may be given again")
    add_model(parser)
    kinds = "what stands in the place of the part: zero, its mean, or its activations on reference prompts"
    parser.add_argument("--kind", choices=tuple(KINDS), default="mean", help=f"{kinds} (default mean)")
    parser.add_argument(
        "--of", metavar="FEATURE", action="append", default=[], help="feature to read; may be given again"
    )
    _add_positions(parser)
    _add_tokens(parser)
    _add_rest(parser, 8, "write the effects as a self-contained page", "all effects")


def add_patch(commands: Commands) -> None:
    """Add the command `patch`."""
    parser = commands.add("patch", _patch, features=True)
    parser.add_argument("feature", metavar="FEATURE", help="feature to read; see below")
    parser.add_argument("prompt", metavar="PROMPT", help="text of the prompt, such as a dream")
    neutral = "prompt of equal length; default: a text that the model writes"
    parser.add_argument("--neutral", metavar="TEXT", help=neutral)
    add_model(parser)
    parser.add_argument(
        "--component", choices=tuple(COMPONENTS), default="resid_pre", help="what is patched (default resid_pre)"
    )
    _add_rest(parser, 4, "write the heat maps as a self-contained page", "all layers and positions")


def _add_positions(parser: argparse.ArgumentParser) -> None:
    text = "where: all (every token except the BOS), last, bos, or positions such as 0,1,-1 (default all)"
    parser.add_argument("--positions", type=_positions, metavar="WHERE", default="all", help=text)


def _positions(text: str) -> Any:
    """Return positions as :func:`dreamy_lens.steer` takes them."""
    if text in ("all", "last", "bos"):
        return text
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is none of all, last, bos, and no list such as 0,1,-1") from None


def _add_tokens(parser: argparse.ArgumentParser) -> None:
    text = "token whose logit is read, with its leading space; may be given again"
    parser.add_argument("--token", metavar="TOKEN", action="append", default=[], help=text)


def _add_rest(parser: argparse.ArgumentParser, placebos: int, page: str, table: str) -> None:
    parser.add_argument(
        "--placebos", type=int, default=placebos, metavar="N", help=f"number of placebos (default {placebos})"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of what is drawn (default 0)")
    add_page(parser, page)
    add_output(parser, table)
    parser.add_argument("--out", metavar="FILE", help=_FORMATS)
    add_quiet(parser, "do not say what is being done")


def _steer(options: argparse.Namespace) -> None:
    def work(model: Any) -> Any:
        names = ("strengths", "mode", "units", "positions", "n_tokens", "placebos", "seed", "prepend_bos")
        settings = {name: getattr(options, name) for name in names}
        read = {"tokens": options.token, "features": options.read}
        return dl.steer(options.feature, options.prompt, model, **settings, **read)

    _run(options, f"Steering {options.feature}", work)


def _ablate(options: argparse.Namespace) -> None:
    def work(model: Any) -> Any:
        settings = {name: getattr(options, name) for name in ("kind", "of", "positions", "placebos", "seed")}
        read = {"tokens": options.token, "prepend_bos": options.prepend_bos}
        return dl.ablate(options.parts, options.prompt, model, **settings, **read)

    _run(options, f"Ablating {', '.join(options.parts)}", work)


def _patch(options: argparse.Namespace) -> None:
    def work(model: Any) -> Any:
        settings = {name: getattr(options, name) for name in ("component", "placebos", "seed", "prepend_bos")}
        return dl.patch(options.feature, options.prompt, options.neutral, model, **settings)

    _run(options, f"Patching {options.feature}", work)


def _run(options: argparse.Namespace, what: str, work: Any) -> None:
    """Check the files, load the model, do the work, print the result, and write the files."""
    if options.out:
        check_format(options.out, drawn=True)
    model = load_selected_model(options)
    announce(what, options)
    result = work(model)
    print_result(result, options, lambda: print(result))
    if options.out:
        report_file(result.save(options.out), options)

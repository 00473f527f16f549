"""Commands for models and features: `dreamy-lens attribute`, `hooks` and `doctor`."""

from __future__ import annotations

import argparse
import sys

import dreamy_lens as dl
from dreamy_lens.cli.commands import Commands
from dreamy_lens.cli.options import add_model, add_page, add_quiet, announce, load_selected_model
from dreamy_lens.errors import DreamyLensError, quoted
from dreamy_lens.results.export import check_format


def add_attribute(commands: Commands) -> None:
    """Add the command `attribute`."""
    parser = commands.add("attribute", _attribute, features=True)
    parser.add_argument("feature", metavar="FEATURE", help="feature to attribute; see below")
    parser.add_argument("prompt", metavar="PROMPT", help="text of the prompt")
    add_model(parser)
    substitutes = "number of substitutes to try at each position (default 32)"
    parser.add_argument("-k", type=int, default=32, metavar="N", help=substitutes)
    add_page(parser, "write the coloured tokens as a self-contained page")
    formats = "write the tokens with their substitutes as .svg, .pdf or .png, the table as .csv, or everything as .json"
    parser.add_argument("--out", metavar="FILE", help=formats)
    add_quiet(parser, "do not say what is being done")


def _attribute(options: argparse.Namespace) -> None:
    if options.out:
        check_format(options.out, drawn=True)
    model = load_selected_model(options)
    announce(f"Attributing {options.feature} to the tokens of the prompt", options)
    attribution = dl.attribution(options.feature, options.prompt, model, options.k, prepend_bos=options.prepend_bos)
    print(attribution)
    if options.html:
        attribution.to_html(options.html)
        print(f"Written: {options.html}")
    if options.out:
        print(f"Written: {attribution.save(options.out)}")


def add_hooks(commands: Commands) -> None:
    """Add the command `hooks`."""
    parser = commands.add("hooks", _hooks)
    words = "words that the name must contain; or a pattern, as in '*hook_post'"
    parser.add_argument("pattern", nargs="*", metavar="WORD", help=words)
    add_model(parser, bos=False)


def _hooks(options: argparse.Namespace) -> int:
    from dreamy_lens.models.hook_points import hook_points
    from dreamy_lens.models.hooked_model import nearest

    model = load_selected_model(options)
    pattern = " ".join(options.pattern)
    points = hook_points(model, pattern)
    if not points:
        near = nearest(pattern, model.hook_names())
        advice = f"nearest: {', '.join(near)}" if near else "`dreamy-lens hooks` without a word lists all"
        print(f"dreamy-lens: no hook point of {model.name} matches {quoted(pattern)}; {advice}.", file=sys.stderr)
        return 1
    width = max(len(point.name) for point in points)
    for point in points:
        shape = "never reached" if point.shape is None else "[" + ", ".join(map(str, point.shape)) + "]"
        print(f"{point.name:<{width}}  {shape}")
    return 0


def add_doctor(commands: Commands) -> None:
    """Add the command `doctor`."""
    parser = commands.add("doctor", _doctor, features=True)
    feature = "feature to check, see below; without it, only the model is checked"
    parser.add_argument("feature", metavar="FEATURE", nargs="?", help=feature)
    add_model(parser)


def _doctor(options: argparse.Namespace) -> int:
    from dreamy_lens.analysis.doctor import Finding, examine

    failed = False
    try:
        model = load_selected_model(options)
    except DreamyLensError as error:
        print(Finding(False, "the model loads", str(error)))
        return 1
    for finding in examine(options.feature, model, prepend_bos=options.prepend_bos):
        print(finding, flush=True)
        failed |= finding.passed is False
    return int(failed)

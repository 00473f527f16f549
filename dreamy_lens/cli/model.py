"""Commands for models and features: `dreamy-lens attribute`, `generate`, `hooks` and `doctor`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import dreamy_lens as dl
from dreamy_lens._files import cached_json
from dreamy_lens._host import versions
from dreamy_lens.cli.commands import Commands
from dreamy_lens.cli.constraint_options import add_around, given_around
from dreamy_lens.cli.options import add_model, add_page, add_quiet, announce, load_selected_model, report_file
from dreamy_lens.cli.output import add_output, print_json, print_result
from dreamy_lens.cli.strip import print_strip
from dreamy_lens.cli.wording import in_options
from dreamy_lens.errors import DreamyLensError, quoted
from dreamy_lens.results.export import check_format

HookPoints = tuple[str, list[str], list[tuple[str, Any]]]


def add_attribute(commands: Commands) -> None:
    """Add the command `attribute`."""
    parser = commands.add("attribute", _attribute, features=True)
    parser.add_argument("feature", metavar="FEATURE", help="feature to attribute; see below")
    parser.add_argument("prompt", metavar="PROMPT", help="text of the prompt")
    add_model(parser)
    substitutes = "number of substitutes to try at each position (default 32)"
    parser.add_argument("-k", type=int, default=32, metavar="N", help=substitutes)
    add_page(parser, "write the coloured tokens as a self-contained page")
    add_output(parser, "all substitutes")
    formats = "write the tokens with their substitutes as .svg, .pdf or .png, the table as .csv, or everything as .json"
    parser.add_argument("--out", metavar="FILE", help=formats)
    add_quiet(parser, "do not say what is being done")


def _attribute(options: argparse.Namespace) -> None:
    if options.out:
        check_format(options.out, drawn=True)
    model = load_selected_model(options)
    announce(f"Attributing {options.feature} to the tokens of the prompt", options)
    attribution = dl.attribution(options.feature, options.prompt, model, options.k, prepend_bos=options.prepend_bos)

    def as_text() -> None:
        print_strip(attribution)
        print(attribution)

    print_result(attribution, options, as_text)
    if options.out:
        report_file(attribution.save(options.out), options)


def add_generate(commands: Commands) -> None:
    """Add the command `generate`."""
    parser = commands.add("generate", _generate)
    parser.add_argument("prompt", metavar="PROMPT", help="text of the prompt")
    add_model(parser)
    parser.add_argument("--tokens", type=int, default=20, metavar="N", help="number of tokens to write (default 20)")
    temperature = "temperature of the sampling; default: 0, the most probable token at each step"
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help=temperature)
    parser.add_argument("--top-k", type=int, metavar="N", help="number of most probable tokens to sample from")
    top_p = "smallest sum of probabilities of the most probable tokens to sample from"
    parser.add_argument("--top-p", type=float, metavar="P", help=top_p)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the sampling (default 0)")
    add_around(parser)
    add_output(parser, "the written tokens")
    add_quiet(parser, "do not say what is being done")


def _generate(options: argparse.Namespace) -> None:
    model = load_selected_model(options)
    settings = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "seed", "prepend_bos")}
    around = given_around(options)
    if len(around) > 1:
        options.misused("--template and --chat are both given; keep one")
    settings["contexts"] = around[0] if around else None
    continuation = dl.generate(options.prompt, model, options.tokens, **settings)
    document = {"kind": "Continuation", **continuation.to_dict()}
    print_result(continuation, options, lambda: print(f"{continuation.prompt}{continuation.text}"), document)


def add_hooks(commands: Commands) -> None:
    """Add the command `hooks`."""
    parser = commands.add("hooks", _hooks)
    words = "words that the name must contain; or a pattern, as in '*hook_post'"
    parser.add_argument("pattern", nargs="*", metavar="WORD", help=words)
    add_model(parser, bos=False)
    add_output(parser, "the hook points")


def _hooks(options: argparse.Namespace) -> int:
    from dreamy_lens.models.names import matches, nearest

    name, names, every = _hook_points(options)
    pattern = " ".join(options.pattern)
    points = [(point, shape) for point, shape in every if matches(point, pattern)]
    if not points:
        near = nearest(pattern, names)
        advice = f"nearest: {', '.join(near)}" if near else "`dreamy-lens hooks` without a word lists all"
        print(f"dreamy-lens: no hook point of {name} matches {quoted(pattern)}; {advice}.", file=sys.stderr)
        return 1
    width = max(len(point) for point, _ in points)

    def as_text() -> None:
        for point, shape in points:
            print(f"{point:<{width}}  {_shape_text(shape)}")

    def table() -> Any:
        import pandas as pd

        return pd.DataFrame({"name": [p for p, _ in points], "shape": [_shape_text(shape) for _, shape in points]})

    rows = [{"name": point, "shape": shape} for point, shape in points]
    print_result(None, options, as_text, {"kind": "HookPoints", "model": name, "table": rows}, table)
    return 0


def _shape_text(shape: Any) -> str:
    """Return the shape of a hook point in words."""
    return "never reached" if shape is None else "[" + ", ".join(map(str, shape)) + "]"


def _hook_points(options: argparse.Namespace) -> HookPoints:
    """Return the name of the model, the names of its hook points, and its hook points with their shapes.

    Those of a folder are kept in the cache until one of its files or a library changes, so that a second call needs no
    model. The Hub may have another version of a model at any time, so that a model with an id is loaded every time.
    """
    from dreamy_lens.models.embedded import EMBEDDED_NAME, FOLDER

    def compute() -> HookPoints:
        from dreamy_lens.models.hook_points import hook_points

        model = load_selected_model(options)
        points = [(point.name, None if point.shape is None else list(point.shape)) for point in hook_points(model)]
        return model.name, list(model.hook_names()), points

    embedded = options.model in (None, EMBEDDED_NAME)
    folder = FOLDER if embedded else Path(options.model).expanduser()
    try:
        files = sorted(file for file in folder.iterdir() if file.is_file())
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    except (OSError, ValueError, RuntimeError):
        states = []
    if not states:
        return compute()
    libraries = versions("dreamy-lens", "torch", "transformers", "transformer-lens")
    key = [options.model, str(folder.resolve()), states, options.device, options.dtype, libraries]
    name, names, points = cached_json("hook-points", key, compute)
    return name, names, points


def add_doctor(commands: Commands) -> None:
    """Add the command `doctor`."""
    parser = commands.add("doctor", _doctor, features=True)
    feature = "feature to check, see below; without it, only the model is checked"
    parser.add_argument("feature", metavar="FEATURE", nargs="?", help=feature)
    add_model(parser)
    add_output(parser)


def _doctor(options: argparse.Namespace) -> int:
    from dreamy_lens.analysis.doctor import Finding, examine

    findings = []

    def note(finding: Finding) -> None:
        findings.append(finding)
        if not options.json:
            print(in_options(str(finding), options), flush=True)

    try:
        model = load_selected_model(options)
    except DreamyLensError as error:
        note(Finding(False, "the model loads", str(error)))
    else:
        for finding in examine(options.feature, model, prepend_bos=options.prepend_bos):
            note(finding)
    if options.json:
        print_json({"kind": "Findings", "feature": options.feature, "findings": findings})
    return int(any(finding.passed is False for finding in findings))

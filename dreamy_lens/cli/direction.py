"""Command that computes a direction from two files of texts: `dreamy-lens direction`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import dreamy_lens as dl
from dreamy_lens.cli.commands import Commands
from dreamy_lens.cli.options import add_model, add_quiet, announce, load_selected_model, report_file
from dreamy_lens.cli.output import add_output, print_json
from dreamy_lens.errors import FeatureError
from dreamy_lens.features.directions import checked_file


def add_direction(commands: Commands) -> None:
    """Add the command `direction`."""
    parser = commands.add("direction", _direction)
    texts = "one on each line; in a .jsonl file, a line is a text in quotes, or a chat as a list of messages"
    parser.add_argument("positive", metavar="POSITIVE", help=f"file of the texts that it points to: {texts}")
    parser.add_argument("negative", metavar="NEGATIVE", help="file of the texts that it points away from")
    hook = "hook point, or an expression that leaves its units, such as 'blocks.1.attn.hook_z[-1, 3]'"
    parser.add_argument("--hook", metavar="NAME", required=True, help=hook)
    parser.add_argument("--out", metavar="FILE", required=True, help="write the direction to this .safetensors file")
    methods = "mean (default): difference of the means; whitened: by the covariance within the sides; probe: logistic"
    parser.add_argument("--method", metavar="NAME", default="mean", help=methods)
    position = "position that is read: 0, 1, -1, ..., bos, or mean for all but the BOS; default: the last token"
    parser.add_argument("--position", metavar="N", help=position)
    parser.add_argument("--name", metavar="NAME", help="name for titles and tables")
    add_model(parser)
    add_output(parser)
    add_quiet(parser, "do not say what is being done")


def _direction(options: argparse.Namespace) -> None:
    checked_file(options.out)
    positive, negative = (_texts(Path(path).expanduser()) for path in (options.positive, options.negative))
    model = load_selected_model(options)
    announce(f"Reading {options.hook} on {len(positive)} and {len(negative)} texts", options)
    position = options.position
    if position is not None and position.lstrip("-").isdigit():
        position = int(position)
    direction = dl.direction.difference(
        positive,
        negative,
        options.hook,
        model,
        method=options.method,
        position=position,
        prepend_bos=options.prepend_bos,
        name=options.name,
    )
    file = direction.save(options.out)
    length = float(np.linalg.norm(direction.values))
    if options.json:
        stated = {"name": direction.name, "origin": direction.origin, "file": str(file.resolve())}
        print_json({"kind": "Direction", **stated, "entries": len(direction), "length": length})
    else:
        print(f"{direction.described}: {len(direction)} entries, length {length:.4g}")
    report_file(file, options)


def _texts(path: Path) -> list[Any]:
    """Return the texts of a file: its lines, or the JSON values on the lines of a .jsonl file."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise FeatureError(f"The texts of {path} cannot be read: {error}.") from error
    if path.suffix != ".jsonl":
        return lines
    values = []
    for number, line in enumerate(lines, 1):
        try:
            values.append(json.loads(line))
        except ValueError as error:
            raise FeatureError(f"Line {number} of {path} is not JSON: {error}.") from error
    return values

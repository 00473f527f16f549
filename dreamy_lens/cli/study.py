"""Command `dreamy-lens study`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from dreamy_lens.cli.commands import Commands
from dreamy_lens.cli.options import add_model, add_page, add_quiet, add_ray, model_keywords, progress_of, ray_keywords
from dreamy_lens.cli.output import add_output, print_json, print_result
from dreamy_lens.studies.catalogue import STUDIES, study_function

_OWN = {name: f"--{name}" for name in ("model", "device", "dtype", "also", "quick", "out", "ray")} | {
    "progress": "--quiet"
}
"""Keywords of a study that are options of the command, and not settings, with these options."""


def add_study(commands: Commands) -> None:
    """Add the command `study`."""
    parser = commands.add("study", _study)
    parser.add_argument("name", metavar="NAME", nargs="?", help="name of the study; without it, all are listed")
    add_model(parser, bos=False)
    more = "further model of the study `scaling`; may be repeated"
    parser.add_argument("--also", metavar="MODEL", action="append", help=more)
    quick = "make the quick version, which two processor cores finish in about ten minutes or less"
    parser.add_argument("--quick", action="store_true", help=quick)
    folder = "folder of the study; if it holds an unfinished one, that continues"
    parser.add_argument("--out", metavar="DIR", help=folder)
    setting = 'setting of the study, as a text or in JSON, such as seeds=4 or features=["L2.N812"]; may be repeated'
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help=setting)
    add_ray(parser)
    add_page(parser, "write claims, figure and tables as a self-contained page")
    add_output(parser, "what was found")
    add_quiet(parser)


def _study(options: argparse.Namespace) -> None:
    if options.name is None:
        _list(options)
        return
    function = study_function(options.name)
    settings = dict(_setting(text, options) for text in options.set)
    keywords = model_keywords(options)
    if options.also:
        if options.name != "scaling":
            options.misused("--also names further models of the study scaling")
        keywords["model"] = [keywords["model"], *options.also]
    study = function(
        out=options.out,
        quick=options.quick,
        progress=progress_of(options),
        **{name: value for name, value in keywords.items() if value is not None},
        **{name: value for name, value in ray_keywords(options).items() if value is not None},
        **settings,
    )
    print_result(study, options, lambda: print(study))


def _list(options: argparse.Namespace) -> None:
    """Print the studies."""
    if options.json:
        rows = [{"name": name, "help": entry.help, "paper": entry.paper or None} for name, entry in STUDIES.items()]
        print_json({"kind": "Studies", "table": rows})
        return
    width = max(map(len, STUDIES))
    for name, entry in STUDIES.items():
        print(f"{name:{width}}  {entry.help} ({entry.paper or 'not in the paper'})")


def _setting(text: str, options: argparse.Namespace) -> tuple[str, Any]:
    """Return the name and the value of a setting that is given as NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        options.misused(f"--set {text}: write NAME=VALUE, such as seeds=4")
    name = name.replace("-", "_")
    if name in _OWN:
        options.misused(f"--set {text}: {name} is not a setting; give the option {_OWN[name]}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value

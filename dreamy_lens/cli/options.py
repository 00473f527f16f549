"""Options that several commands share: the model, the settings of the search, Ray."""

from __future__ import annotations

import argparse
import sys
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import dreamy_lens as dl
from dreamy_lens._files import expanded
from dreamy_lens.cluster.ray_cluster import RayConfig
from dreamy_lens.models.load import as_hooked
from dreamy_lens.search.optimizers import default_search, searches, settings_of_searches
from dreamy_lens.search.settings import SettingField

# The model.


def add_model(parser: argparse.ArgumentParser, bos: bool = True) -> None:
    """Add the options that choose a model.

    Args:
        parser: Parser that gets the options.
        bos: Whether to add the options `--bos` and `--no-bos`.
    """
    parser.add_argument(
        "--model", metavar="MODEL", help="Hugging Face id or local folder of a model; default: the embedded model"
    )
    parser.add_argument(
        "--device", metavar="DEVICE", help="cpu, cuda, cuda:1, ...; default: the first GPU, or else cpu"
    )
    parser.add_argument("--dtype", metavar="DTYPE", help="float32 (default), bfloat16 or float16")
    if bos:
        group = parser.add_mutually_exclusive_group()
        yes = "put a BOS (beginning-of-sequence token) before the prompt"
        no = "put no BOS before the prompt; default: the model's convention"
        group.add_argument("--bos", dest="prepend_bos", action="store_true", default=None, help=yes)
        group.add_argument("--no-bos", dest="prepend_bos", action="store_false", help=no)


def load_selected_model(options: argparse.Namespace) -> Any:
    """Load the model that the options of :func:`add_model` choose."""
    if options.model is not None and "quiet" in options:
        announce(f"Loading the model {options.model}", options)
    return as_hooked(options.model, device=options.device, dtype=options.dtype)


def model_keywords(options: argparse.Namespace) -> dict[str, Any]:
    """Return the keywords `model` and `dtype` of a function that may load the model on workers.

    The model is given by name, since a model in memory would be sent to the workers; only if the options name a device
    is it loaded here.
    """
    if options.device is not None:
        return {"model": dl.load_model(options.model, device=options.device, dtype=options.dtype)}
    return {"model": options.model, "dtype": options.dtype}


# Settings of the search.


def add_settings(parser: argparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """Add `--search`, and an option for every setting of every search, grouped by the searches that have it.

    Args:
        parser: Parser that gets the options. The setting `prepend_bos` has the options of :func:`add_model` instead.
        without: Names of settings that get no option.
    """
    names = tuple(searches())
    group = parser.add_argument_group("settings of every search")
    help = (
        f"kind of search: {', '.join(names)}; default: {default_search().name}, or the one that has the given settings"
    )
    group.add_argument("--search", metavar="NAME", choices=names, help=help)
    groups = {frozenset(names): group}
    for variants in _settings_by_name().values():
        owners = [name for name in names if any(name in some for _, some in variants)]
        if variants[0][0].name in ("prepend_bos", *without):
            continue
        if frozenset(owners) not in groups:
            groups[frozenset(owners)] = parser.add_argument_group(f"settings of --search {' and '.join(owners)}")
        _add_setting(groups[frozenset(owners)], variants)


def _settings_by_name() -> dict[str, list[tuple[SettingField, tuple[str, ...]]]]:
    """Return the settings of all searches by name: each description, with the names of the searches that have it."""
    by_name: dict[str, list[tuple[SettingField, tuple[str, ...]]]] = {}
    for setting, owners in settings_of_searches():
        by_name.setdefault(setting.name, []).append((setting, owners))
    return by_name


def _add_setting(group: Any, variants: list[tuple[SettingField, tuple[str, ...]]]) -> None:
    """Add the option of a setting, which several searches may describe differently."""
    setting = variants[0][0]
    keywords: dict[str, Any]
    if setting.type is not bool:
        keywords = {"type": setting.type, "metavar": "N" if setting.type is int else "X"}
    elif setting.default is False:
        keywords = {"action": "store_true"}
    else:
        keywords = {"action": argparse.BooleanOptionalAction}
    by_help: dict[str, list[tuple[SettingField, tuple[str, ...]]]] = {}
    for variant in variants:
        by_help.setdefault(variant[0].help, []).append(variant)
    texts = []
    for help, same in by_help.items():
        owners = ", ".join(name for _, some in same for name in some)
        texts.append(f"{owners}: {help}{_default(same)}" if len(by_help) > 1 else f"{help}{_default(same)}")
    help = "; ".join(texts).replace("λ", "lambda").replace("%", "%%")  # not every terminal can print a λ
    group.add_argument(flag_of(setting.name), default=None, help=help, **keywords)


def _default(variants: list[tuple[SettingField, tuple[str, ...]]]) -> str:
    """Return the default of a setting in words, and the other defaults with the searches that have them."""
    (first, _), *others = variants
    if first.default is None:
        return f" (leave it out {first.when_none})"
    if first.type is bool:
        return ""
    rest = "".join(f"; {', '.join(owners)}: {setting.default:g}" for setting, owners in others)
    return f" (default: {first.default:g}{rest})"


def given_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that were given as options of :func:`add_settings` and :func:`add_model`.

    The kind of search is among them, as the keyword `search`.
    """
    values = {name: getattr(options, name, None) for name in _settings_by_name()}
    name = getattr(options, "search", None)
    values["search"] = None if name is None else searches()[name]()
    return {name: value for name, value in values.items() if value is not None}


def checked_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return :func:`given_settings` after a check, so that a wrong option is reported before a model is loaded.

    Raises:
        SettingsError: A setting is outside its range.
    """
    values, named = given_settings(options), options.search
    own = {name: value for name, value in values.items() if name != "search"}
    chosen = named or default_search(own).name
    for name, variants in _settings_by_name().items():
        owners = [owner for owner in searches() if any(owner in some for _, some in variants)]
        if name in own and chosen not in owners:
            add = "" if options.search else f"; add --search {owners[0]}"
            options.misused(f"{flag_of(name)} is for --search {' or '.join(owners)}, and not for {chosen}{add}")
    searches()[chosen].from_settings(None, own)
    return values


def add_start(parser: argparse.ArgumentParser) -> None:
    """Add the options for the initial prompts of a search and for the model that measures fluency."""
    parser.add_argument("--start", metavar="TEXT", action="append", help="initial prompt; may be repeated")
    parser.add_argument(
        "--fluency-model", metavar="MODEL", help="model whose cross-entropy measures fluency; default: the model itself"
    )


# Ray.


def add_ray(parser: argparse.ArgumentParser) -> None:
    """Add `--ray`, and an option for every other field of :class:`~dreamy_lens.cluster.ray_cluster.RayConfig`."""
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        nargs="?",
        const=True,
        help="run on the Ray cluster at ADDRESS; without ADDRESS, on the cluster that RAY_ADDRESS names, or on a new "
        "one",
    )
    for field in _worker_fields():
        kind, help = field.metadata["type"], field.metadata["help"]
        default = "" if field.default is None else f" (default {field.default:g})"
        metavar = "N" if kind is int else "X"
        parser.add_argument(flag_of(field.name), type=kind, metavar=metavar, help=f"with --ray, {help}{default}")


def ray_keywords(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of :func:`add_ray` as the keyword `ray`."""
    names = [field.name for field in _worker_fields()]
    worker_options = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.ray is None:
        if worker_options:
            flags = " and ".join(map(flag_of, worker_options))
            options.misused(f"{flags} {'is' if len(worker_options) == 1 else 'are'} for workers on Ray; add --ray")
        return {"ray": None}
    return {"ray": RayConfig(address=options.ray if isinstance(options.ray, str) else None, **worker_options)}


def _worker_fields() -> list[Field[Any]]:
    return [field for field in fields(RayConfig) if field.name != "address"]  # --ray takes the address


# Every command.


def add_quiet(parser: argparse.ArgumentParser, help: str = "show no progress bar") -> None:
    """Add the option `--quiet`, which hides progress bars."""
    parser.add_argument("--quiet", action="store_true", help=help)


def announce(what: str, options: argparse.Namespace) -> None:
    """Write a line to stderr when work begins, unless `--quiet` is given; terminals have progress bars instead.

    Args:
        what: What begins, as in "Dreaming of L2.N17".
        options: Options of the command.
    """
    if not options.quiet and not sys.stderr.isatty():
        print(f"{what} ...", file=sys.stderr, flush=True)


def progress_of(options: argparse.Namespace) -> bool | None:
    """Return the keyword `progress` for the option of :func:`add_quiet`."""
    return False if options.quiet else None


def add_page(
    parser: argparse.ArgumentParser,
    help: str = "write a self-contained page",
    required: bool = False,
    folders: bool = False,
) -> None:
    """Add the option `--html`, which names a file for a page.

    Args:
        parser: Parser that gets the option.
        help: Help text of the option.
        required: Whether the option must be given.
        folders: Whether the option may also name a folder, for the index of a scan.
    """
    parser.add_argument("--html", metavar="PATH" if folders else "FILE", required=required, help=help)
    parser.set_defaults(html_folders=folders)


def write_page(result: Any, options: argparse.Namespace) -> None:
    """Write the page of a result, if the options have `--html`, and print its path."""
    if options.html:
        result.to_html(options.html)
        report_file(options.html, options)


def report_file(path: str | Path, options: argparse.Namespace) -> None:
    """Print the path of a file that was written; beside a JSON document on stdout, print it on stderr."""
    print(f"Written: {expanded(path).resolve()}", file=sys.stderr if getattr(options, "json", False) else sys.stdout)


def flag_of(name: str) -> str:
    """Return the command-line option of a keyword.

    >>> flag_of("top_k")
    '--top-k'
    """
    return f"--{name.replace('_', '-')}"

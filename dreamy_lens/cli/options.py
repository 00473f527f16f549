"""Options that several commands share: the model, the search's settings, Ray."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import dreamy_lens as dl
from dreamy_lens.cluster.ray_cluster import RayConfig
from dreamy_lens.models.load import as_hooked
from dreamy_lens.search.settings import SettingField, setting_fields

FEATURES = """features:
  L2.N17                                             an MLP neuron, after its nonlinearity, at the last token
  blocks.2.mlp.hook_pre[-1, 17]                      the same before it; `dreamy-lens hooks` lists hook points
  blocks.2.mlp.hook_post[..., 17].max()              anywhere in the prompt
  blocks.4.hook_resid_post[-1].standardised() @ "v.safetensors"
  blocks.3.attn.hook_pattern[0, -1, 2]               head 0's attention from the last token to the third
  'logit(" the") - logit.runner_up(" the")'          a prediction, as in Eq. 3
  'sae_latent("folder", 123, pre_activation=true)'   a latent of a sparse autoencoder
"""
"""What every command that takes a feature says about how to write one."""


class Commands:
    """The commands of a parser.

    Args:
        parser: parser that gets them.
    """

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parsers = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(
        self, name: str, run: Callable[[argparse.Namespace], int | None], help: str, features: bool = False
    ) -> argparse.ArgumentParser:
        """Add a command, and return its parser.

        Args:
            name: word that calls the command.
            run: function that carries out the command; it returns the exit status, and None is 0.
            help: what the command does, in the imperative.
            features: whether the command takes a feature, so that its help ends with how to write one.
        """
        more: dict[str, Any] = {"epilog": FEATURES, "formatter_class": argparse.RawDescriptionHelpFormatter}
        description = f"{help[0].upper()}{help[1:]}."
        parser = self._parsers.add_parser(name, help=help, description=description, **(more if features else {}))
        parser.set_defaults(run=run, misused=parser.error)
        return parser


# The model.


def add_model(parser: argparse.ArgumentParser, bos: bool = True) -> None:
    """Add the options that choose a model.

    Args:
        parser: parser that gets them.
        bos: whether the command has prompts, before which a BOS may stand.
    """
    parser.add_argument(
        "--model", metavar="MODEL", help="a Hugging Face id or a local folder; default: the embedded one"
    )
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, ...; default: the first GPU if any")
    parser.add_argument("--dtype", metavar="DTYPE", help="float32 (default), bfloat16 or float16")
    if bos:
        group = parser.add_mutually_exclusive_group()
        yes, no = "put a BOS before the prompt", "put none; default: the model's convention"
        group.add_argument("--bos", dest="prepend_bos", action="store_true", default=None, help=yes)
        group.add_argument("--no-bos", dest="prepend_bos", action="store_false", help=no)


def load_model(options: argparse.Namespace) -> Any:
    """Load the model that the options of :func:`add_model` choose."""
    return as_hooked(options.model, device=options.device, dtype=options.dtype)


def model_keywords(options: argparse.Namespace) -> dict[str, Any]:
    """Return the model as keywords of a function that may load it on workers.

    That is the model's name, since a model in memory would be sent to the workers; or the loaded model, if the options
    name a device.
    """
    if options.device is not None:
        return {"model": dl.load_model(options.model, device=options.device, dtype=options.dtype)}
    return {"model": options.model, "dtype": options.dtype}


# Settings of the search.


def add_settings(parser: argparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """Add an option for every setting of :class:`dreamy_lens.EPOConfig`.

    Args:
        parser: parser that gets the options of :func:`add_model` too, which has `--bos` for `prepend_bos`.
        without: settings that the command has no option for.
    """
    for setting in setting_fields(dl.EPOConfig):
        if setting.name not in ("prepend_bos", *without):
            _add_setting(parser, setting)


def _add_setting(parser: argparse.ArgumentParser, setting: SettingField) -> None:
    help = setting.help
    rest: dict[str, Any]
    if setting.type is not bool:
        rest = {"type": setting.type, "metavar": "N" if setting.type is int else "X"}
    elif setting.default is False:
        rest = {"action": "store_true"}
    else:
        rest = {"action": argparse.BooleanOptionalAction}
    if setting.default is None:
        help += f" (leave it out {setting.when_none})"
    elif setting.type is not bool:
        help += f" (default: {setting.default:g})"
    help = help.replace("λ", "lambda").replace("%", "%%")  # not every terminal can print a λ
    parser.add_argument(flag_of(setting.name), default=None, help=help, **rest)


def given_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the options of :func:`add_settings` and :func:`add_model` change."""
    values = {setting.name: getattr(options, setting.name, None) for setting in setting_fields(dl.EPOConfig)}
    return {name: value for name, value in values.items() if value is not None}


def add_start(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where a search starts and which model measures fluency."""
    parser.add_argument("--start", metavar="TEXT", action="append", help="start from this text; may be repeated")
    parser.add_argument("--fluency-model", metavar="MODEL", help="whose cross-entropy counts as fluency")


# Ray.


def add_ray(parser: argparse.ArgumentParser) -> None:
    """Add `--ray`, and an option for every other field of :class:`~dreamy_lens.cluster.ray_cluster.RayConfig`."""
    parser.add_argument("--ray", metavar="ADDRESS", nargs="?", const=True, help="on Ray: here, or on this cluster")
    for field in _worker_fields():
        kind, help = field.metadata["type"], field.metadata["help"]
        default = "" if field.default is None else f" (default {field.default:g})"
        metavar = "N" if kind is int else "X"
        parser.add_argument(flag_of(field.name), type=kind, metavar=metavar, help=f"with --ray, {help}{default}")


def ray_keywords(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of :func:`add_ray` as the keyword `ray`."""
    names = [field.name for field in _worker_fields()]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.ray is None:
        if given:
            flags = " and ".join(map(flag_of, given))
            options.misused(f"{flags} {'is' if len(given) == 1 else 'are'} for workers on Ray: add --ray")
        return {"ray": None}
    return {"ray": RayConfig(address=options.ray if isinstance(options.ray, str) else None, **given)}


def _worker_fields() -> list[Field[Any]]:
    return [field for field in fields(RayConfig) if field.name != "address"]  # which is what --ray takes


# Every command.


def add_quiet(parser: argparse.ArgumentParser, help: str = "no progress bar") -> None:
    """Add the option that shows no progress."""
    parser.add_argument("--quiet", action="store_true", help=help)


def progress_of(options: argparse.Namespace) -> bool | None:
    """Return the keyword `progress` that the option of :func:`add_quiet` stands for."""
    return False if options.quiet else None


def add_page(
    parser: argparse.ArgumentParser, help: str = "write a self-contained page", required: bool = False
) -> None:
    """Add the option that names a page to write."""
    parser.add_argument("--html", metavar="FILE", required=required, help=help)


def write_page(result: Any, options: argparse.Namespace) -> None:
    """Write a result's page, if the option of :func:`add_page` names one, and print where it is."""
    if options.html:
        result.to_html(options.html)
        print(f"Written: {Path(options.html).resolve()}")


def flag_of(name: str) -> str:
    """Return the option of a keyword.

    >>> flag_of("top_k")
    '--top-k'
    """
    return f"--{name.replace('_', '-')}"

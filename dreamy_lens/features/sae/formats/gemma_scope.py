"""Gemma Scope: `params.npz` (Gemma 2) and `params.safetensors` (Gemma 3), autoencoders and transcoders with JumpReLU.

The files hold the tensors `W_enc`, `W_dec`, `b_enc`, `b_dec` and `threshold`, and no conditions: the path states them.
The name of the release, as in `gemma-scope-2b-pt-res`, states the model and the place, and with them what its report
says of all dictionaries of the release: a BOS stood before each text, and rows had 1,024 tokens. A folder such as
`layer_20` states the layer. Without the name of a release nothing of this is known, and `hook=` names the place. The
releases for Gemma 3 also have a `config.json`, which names the modules that are read and written.

Autoencoders of the embedding were trained on rows that Gemma had not yet multiplied by the square root of their width;
`hook_embed` has them multiplied, so the encoder is divided by it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamy_lens.errors import SAEError, quoted
from dreamy_lens.features.sae.conditions import UNPROCESSED, typed, unknown_keys
from dreamy_lens.features.sae.formats.encoder import Encoder, Opened, check_tensors
from dreamy_lens.features.sae.formats.files import Stored, arranged, check_numbers, json_settings, open_tensors
from dreamy_lens.features.sae.formats.modules import hook_of_module

WEIGHTS = ("params.npz", "params.safetensors")
CONFIG = "config.json"

_RELEASE = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att|transcoders)")
_RELEASE_3 = re.compile(r"gemma-scope-2-([0-9]+[bm])-(pt|it)")
_SITES = {
    "res": ("blocks.{}.hook_resid_post", None),
    "mlp": ("blocks.{}.hook_mlp_out", None),
    "att": ("blocks.{}.attn.hook_z", None),
    "transcoders": ("blocks.{}.ln2.hook_normalized", "blocks.{}.hook_mlp_out"),
}
_SITES_3 = {
    "resid_post": _SITES["res"],
    "mlp_out": _SITES["mlp"],
    "attn_out": _SITES["att"],
    "transcoder": ("blocks.{}.ln2.hook_out", "blocks.{}.hook_mlp_out"),
}
_TENSORS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold", "scaling_factor")
USED = frozenset("architecture hf_hook_point_in hf_hook_point_out model_name".split())
IRRELEVANT = frozenset("affine_connection l0 layer type width dtype d_in d_sae".split())
"""Keys of `config.json` for Gemma 3; the affine connection leads past the latents."""


def open_gemma_scope(folder: Path, whose: str) -> Opened:
    """Return the dictionary of a folder.

    Raises:
        SAEError: The file is damaged, or has other tensors.
    """
    path = next(folder / name for name in WEIGHTS if (folder / name).is_file())
    file = open_tensors(path)
    names = {name.lower(): name for name in file.shapes}
    present = {name: names[name.lower()] for name in _TENSORS if name.lower() in names}
    check_numbers(file, tuple(present.values()))
    config = json_settings(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    stated = _stated(config, folder.absolute().as_posix(), whose)
    hook = stated.pop("hook_name", None)
    is_embedding = hook == "hook_embed"
    stored = {name: Stored(own) for name, own in present.items()}
    shape = file.shapes.get(present.get("W_enc", ""), ())
    if is_embedding and shape:
        stored["W_enc"] = Stored(present["W_enc"], factor=shape[0] ** -0.5)
        if "W_dec" in present:
            stored["W_dec"] = Stored(present["W_dec"], factor=shape[0] ** 0.5)
    shapes, read = arranged({name: (file, place) for name, place in stored.items()})
    d_in, d_sae = check_tensors("jumprelu", shapes, whose, subtracts=False, config=path.name)
    encoder = Encoder(
        "jumprelu",
        d_in,
        d_sae,
        hook,
        joins_heads=str(hook).endswith("attn.hook_z"),
        subtracts_b_dec=False,
        output_hook=stated.pop("hook_name_out", None),
        decoder_scale="scaling_factor" if "scaling_factor" in present else None,
    )
    return Opened(encoder, read, stated, path.name, unknown_keys(config, USED | IRRELEVANT))


def _stated(config: Mapping[str, Any], path: str, whose: str) -> dict[str, Any]:
    """Return what the configuration, the name of the release and the names of the folders state."""
    layers = re.findall(r"layer_([0-9]{1,4})(?![0-9])", path)
    layer = layers[-1] if layers else None
    release, release_3 = _RELEASE.search(path), _RELEASE_3.search(path)
    stated: dict[str, Any] = {}
    sites: tuple[str, str | None] | None = None
    if release:
        size, kind, site = release.groups()
        stated = {"model_name": f"gemma-2-{size}{'-it' if kind == 'it' else ''}"}
        sites = ("hook_embed", None) if "/embedding/" in f"{path}/" else _SITES[site]
    elif release_3:
        size, kind = release_3.groups()
        stated = {"model_name": f"google/gemma-3-{size}-{kind}".replace("270m-pt", "270m")}
        sites = next((sites for name, sites in _SITES_3.items() if re.search(rf"/{name}(_all)?/", path)), None)
    if stated:
        stated |= {"prepend_bos": True, "context_size": 1024}
    for key, place in zip(("hook_name", "hook_name_out"), sites or (), strict=False):
        if place is not None and (layer is not None or "{}" not in place):
            stated[key] = place.format(layer)
    architecture = typed(config, "architecture", str, whose)
    if architecture not in (None, "jump_relu", "jumprelu"):
        raise SAEError(
            f"{whose} has the architecture {quoted(architecture)} in {CONFIG}; dictionaries of Gemma Scope are "
            "jump_relu. Wrap it instead: any object with encode(x) can be given in its place."
        )
    for key, own in (("hook_name", "hf_hook_point_in"), ("hook_name_out", "hf_hook_point_out")):
        module = typed(config, own, str, whose)
        place = _place(module) if module else None
        if place is not None:
            stated |= {key: place, **UNPROCESSED}
    name = typed(config, "model_name", str, whose)
    return stated | ({"model_name": name.replace("gemma-v3", "gemma-3")} if name else {})


def _place(module: str) -> str | None:
    """Return the hook point of a place such as `model.layers.12.output`."""
    name, _, side = module.rpartition(".")
    return hook_of_module(name, side == "output") if side in ("input", "output") else None

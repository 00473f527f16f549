"""Sparsify, the library of EleutherAI: `cfg.json` and `sae.safetensors` in a folder that is named after a module.

The encoder is `encoder.weight [d_sae, d_in]` and `encoder.bias`, the decoder `W_dec [d_sae, d_out]`; the k strongest
latents of a row stay active, or with "groupmax" the strongest of each of k groups. An autoencoder reads the output of
its module, and `b_dec` is subtracted first; a transcoder reads the input of the module, writes its output, and
subtracts nothing. `W_skip` leads past the latents.

The folder above holds the `config.json` of the training: the model, its revision, the length of the rows and the tokens
that were left out. Whether a BOS stood before the rows is stated nowhere, so it is not checked. The library hooks
modules of a plain Hugging Face model, so weights are known to be unprocessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamy_lens.errors import SAEError, quoted
from dreamy_lens.features.sae.conditions import UNPROCESSED, typed, unknown_keys
from dreamy_lens.features.sae.formats.encoder import Encoder, Opened, check_tensors, checked_k
from dreamy_lens.features.sae.formats.files import Stored, arranged, check_numbers, json_settings, open_tensors
from dreamy_lens.features.sae.formats.modules import hook_of_module

CONFIG, WEIGHTS, TRAINING = "cfg.json", "sae.safetensors", "config.json"

USED = frozenset("activation d_in expansion_factor k num_latents signed skip_connection transcode".split())
IRRELEVANT = frozenset("multi_topk normalize_decoder".split())
"""Keys of `cfg.json`; the norm of the decoder is as the weights are."""

TRAINING_USED = frozenset("ctx_len exclude_tokens load_in_8bit model revision".split())
"""Keys of the training's `config.json` that are conditions; the others decided the weights, which are there."""

_NAMES = {
    "W_enc": (("encoder.weight", True), ("W_enc", False)),
    "b_enc": (("encoder.bias", False), ("b_enc", False)),
    "W_dec": (("W_dec", False), ("decoder.weight", True)),
    "b_dec": (("b_dec", False), ("decoder.bias", False)),
}
"""Names in files of all versions, and whether the tensor has its axes the other way round."""


def open_sparsify(folder: Path, whose: str) -> Opened:
    """Return the dictionary of a folder.

    Raises:
        SAEError: A file is missing or damaged, or what it states cannot be computed.
    """
    config, file = json_settings(folder / CONFIG), open_tensors(folder / WEIGHTS)
    stored = {
        name: Stored(own, transposed)
        for name, places in _NAMES.items()
        for own, transposed in places
        if own in file.shapes and not (name == "W_dec" and own == "decoder.weight" and "W_dec" in file.shapes)
    }
    check_numbers(file, tuple(place.name for place in stored.values()))
    shapes, read = arranged({name: (file, place) for name, place in stored.items()})
    activation = typed(config, "activation", str, whose) or "topk"
    if activation not in ("topk", "groupmax") or config.get("signed"):
        what = "signed latents (signed)" if config.get("signed") else f"the activation function {quoted(activation)}"
        raise SAEError(
            f"{whose} has {what}; dreamy_lens computes topk, groupmax. Wrap it instead: any object with encode(x) can "
            "be given in its place."
        )
    transcodes = bool(typed(config, "transcode", bool, whose) or typed(config, "skip_connection", bool, whose))
    latents = typed(config, "num_latents", int, whose) or None
    stated = [("d_in", typed(config, "d_in", int, whose)), ("d_sae", latents)]
    d_in, d_sae = check_tensors(
        activation, shapes, whose, subtracts=not transcodes, stated=stated, config=CONFIG, remedy="Save it again"
    )
    k = checked_k(typed(config, "k", int, whose), d_sae, whose, CONFIG, activation)
    module = folder.parent if folder.name.startswith("seed") else folder
    encoder = Encoder(
        activation,
        d_in,
        d_sae,
        hook_of_module(module.name, output=not transcodes),
        k=k,
        subtracts_b_dec=not transcodes,
        output_hook=hook_of_module(module.name, output=True) if transcodes else None,
    )
    training = module.parent / TRAINING
    conditions = _conditions(json_settings(training), f"{training}") if training.is_file() else dict(UNPROCESSED)
    return Opened(encoder, read, conditions, "The name", unknown_keys(config, USED | IRRELEVANT))


def _conditions(training: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """Return the conditions of a training's configuration, under the keys of SAELens."""
    loading = dict(UNPROCESSED["model_from_pretrained_kwargs"])
    loading |= {key: training[key] for key in ("revision", "load_in_8bit") if training.get(key) is not None}
    return {
        "model_name": typed(training, "model", str, whose),
        "context_size": typed(training, "ctx_len", int, whose),
        "exclude_special_tokens": bool(training.get("exclude_tokens")),
        "model_from_pretrained_kwargs": loading,
    }

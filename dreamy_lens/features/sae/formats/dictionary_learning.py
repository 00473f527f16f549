"""dictionary_learning: `config.json` and `ae.pt` in a folder.

`config.json` states in `trainer` the class of the dictionary, the model, the layer and the submodule, and in `buffer`
the length of the rows and whether the input or the output of the submodule was read. `ae.pt` holds the tensors; a file
that holds anything else is refused. Latents are those of the library's own classes after `from_pretrained`:

    AutoEncoder                           relu, times the norm of the latent's decoder column
    AutoEncoderNew                        relu, without the decoder's bias at the input
    GatedAutoEncoder                      gated
    AutoEncoderTopK                       the k strongest of a row
    BatchTopKSAE, MatryoshkaBatchTopKSAE  relu above one threshold, which the training measured
    JumpReluAutoEncoder                   relu above a threshold per latent, without the decoder's bias at the input

Whether a BOS stood before the rows is stated nowhere, so it is not checked. The library hooks modules of a plain
Hugging Face model, so weights are known to be unprocessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamy_lens.errors import SAEError, quoted
from dreamy_lens.features.sae.conditions import UNPROCESSED, typed, unknown_keys
from dreamy_lens.features.sae.formats.encoder import Encoder, Opened, check_tensors, checked_k
from dreamy_lens.features.sae.formats.files import Stored, arranged, check_numbers, json_settings, open_tensors
from dreamy_lens.features.sae.formats.modules import hook_of_module

CONFIG, WEIGHTS = "config.json", "ae.pt"

CLASSES = {
    "AutoEncoder": "standard",
    "AutoEncoderNew": "standard",
    "GatedAutoEncoder": "gated",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "jumprelu",
    "MatryoshkaBatchTopKSAE": "jumprelu",
    "JumpReluAutoEncoder": "jumprelu",
}
"""Architecture of each class of dictionaries."""

USED = frozenset("activation_dim dict_class dict_size k layer lm_name submodule_name ctx_len io".split())
"""Keys of `trainer` and `buffer` that are used or checked; the others decided the weights, which are there."""

_NAMES = {
    "W_enc": (("encoder.weight", True), ("W_enc", False)),
    "W_dec": (("decoder.weight", True), ("W_dec", False)),
    "b_enc": (("encoder.bias", False), ("b_enc", False)),
    "b_dec": (("b_dec", False), ("bias", False), ("decoder_bias", False)),
    "b_gate": (("gate_bias", False),),
    "b_mag": (("mag_bias", False),),
    "r_mag": (("r_mag", False),),
    "threshold": (("threshold", False),),
}
_SITES = {
    "resid_post": "blocks.{}.hook_resid_post",
    "resid_pre": "blocks.{}.hook_resid_pre",
    "mlp_out": "blocks.{}.mlp.hook_out",
    "attn_out": "blocks.{}.attn.hook_out",
    "attention_out": "blocks.{}.attn.hook_out",
}
"""Places that names of submodules contain, as in `resid_post_layer_3`."""


def open_dictionary_learning(folder: Path, whose: str) -> Opened:
    """Return the dictionary of a folder.

    Raises:
        SAEError: A file is missing or damaged, or what it states cannot be computed.
    """
    config, file = json_settings(folder / CONFIG), open_tensors(folder / WEIGHTS)
    trainer = typed(config, "trainer", Mapping, whose) or {}
    buffer = typed(config, "buffer", Mapping, whose) or {}
    kind = typed(trainer, "dict_class", str, whose)
    if kind not in CLASSES:
        raise SAEError(
            f"{whose} has the dict_class {quoted(kind)}; dreamy_lens computes {', '.join(CLASSES)}. Wrap it instead: "
            "any object with encode(x) can be given in its place."
        )
    architecture = CLASSES[kind]
    stored = {
        name: Stored(own, transposed)
        for name, places in _NAMES.items()
        for own, transposed in places
        if own in file.shapes and (name != "threshold" or architecture == "jumprelu")
    }
    check_numbers(file, tuple(place.name for place in stored.values()))
    shapes, read = arranged({name: (file, place) for name, place in stored.items()})
    subtracts = kind not in ("AutoEncoderNew", "JumpReluAutoEncoder")
    scales = kind == "AutoEncoder"
    d_in, d_sae = check_tensors(
        architecture,
        shapes,
        whose,
        subtracts=subtracts,
        scales=scales,
        stated=[
            ("d_in", typed(trainer, "activation_dim", int, whose)),
            ("d_sae", typed(trainer, "dict_size", int, whose)),
        ],
        config=CONFIG,
        remedy="Save it again",
    )
    reads_input = buffer.get("io") in ("in", "in_and_out")
    hook = _place(trainer, whose, output=not reads_input)
    encoder = Encoder(
        architecture,
        d_in,
        d_sae,
        hook,
        k=checked_k(typed(trainer, "k", int, whose), d_sae, whose, CONFIG) if architecture == "topk" else None,
        subtracts_b_dec=subtracts,
        scales_by_decoder_norm=scales,
        output_hook=_place(trainer, whose, output=True) if buffer.get("io") == "in_and_out" else None,
    )
    stated = {
        "model_name": typed(trainer, "lm_name", str, whose),
        "context_size": typed(buffer, "ctx_len", int, whose),
        **UNPROCESSED,
    }
    return Opened(encoder, read, stated, CONFIG, unknown_keys(config, ("trainer", "buffer")))


def _place(trainer: Mapping[str, Any], whose: str, output: bool) -> str | None:
    """Return the hook point of the submodule, or None if its name, which is free, says nothing."""
    name, layer = typed(trainer, "submodule_name", str, whose), typed(trainer, "layer", int, whose)
    if name is None:
        return None
    place = hook_of_module(name, output)
    site = next((site for part, site in _SITES.items() if part in name), None)
    if place is None and site is not None and layer is not None and output:
        place = site.format(layer)
    numbers = re.findall(r"[0-9]+", name)
    if numbers and layer is not None and str(layer) not in numbers:
        raise SAEError(
            f"{whose} contradicts itself: its submodule is {quoted(name)}, and its layer is {layer}. Correct {CONFIG}."
        )
    return place

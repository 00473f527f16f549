"""circuit-tracer: transcoders of all layers of a model beside one `config.yaml`, one file or two for each layer.

A transcoder of layer 5 is `layer_5.safetensors`. The part of a cross-layer transcoder that reads layer 5 is
`W_enc_5.safetensors` and `W_dec_5.safetensors`, whose decoder `[d_sae, layers, d_out]` writes to layer 5 and to all
layers after it. `config.yaml` states the model, and the hook points of the input and the output in every block. The
layer is named by its file, or by its number in place of a file: `folder/5`.

Latents are relu(x @ W_enc + b_enc), or JumpReLU where the file has a threshold; nothing is subtracted from x. The norms
of the model are not folded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamy_lens.features.sae.conditions import typed, unknown_keys
from dreamy_lens.features.sae.formats.encoder import Encoder, Opened, check_tensors
from dreamy_lens.features.sae.formats.files import Stored, arranged, check_numbers, open_tensors, yaml_settings

CONFIG = "config.yaml"

USED = frozenset("feature_input_hook feature_output_hook model_name".split())
IRRELEVANT = frozenset("model_kind scan transcoders repo_id".split())
"""Keys of `config.yaml`."""

_FILE = re.compile(r"(?:layer_|W_enc_)?([0-9]{1,4})(?:\.safetensors)?")


def layer_of(place: Path) -> int | None:
    """Return the layer whose transcoder a path names, or None if the path is not in this format."""
    found = _FILE.fullmatch(place.name)
    if found is None:
        return None
    return int(found[1]) if _files(place.parent, int(found[1])) else None


def _files(folder: Path, layer: int) -> list[Path]:
    """Return the files of a layer: one for a transcoder, two for a part of a cross-layer transcoder."""
    alone = folder / f"layer_{layer}.safetensors"
    both = [folder / f"W_{side}_{layer}.safetensors" for side in ("enc", "dec")]
    return [alone] if alone.is_file() else [path for path in both if path.is_file()]


def open_circuit_tracer(folder: Path, layer: int, whose: str) -> Opened:
    """Return the transcoder of one layer.

    Raises:
        SAEError: A file is damaged, or what it states cannot be computed.
    """
    config = yaml_settings(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    tensors = {}
    for file in map(open_tensors, _files(folder, layer)):
        for own in file.shapes:
            name = own.removesuffix(f"_{layer}").rpartition(".")[2]
            if name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"):
                check_numbers(file, (own,))
                tensors[name] = file, Stored(own, transposed=name == "W_enc")
    shapes, read = arranged(tensors)
    across = len(shapes.get("W_dec", ())) == 3
    architecture = "jumprelu" if "threshold" in shapes else "standard"
    d_in, d_sae = check_tensors(architecture, shapes, whose, subtracts=False, config=CONFIG, remedy="Save it again")
    inner, outer = (typed(config, f"feature_{side}_hook", str, whose) for side in ("input", "output"))
    written = shapes["W_dec"][1] if across else 1
    outputs = tuple(f"blocks.{layer + later}.{outer}" for later in range(written)) if outer else ()
    encoder = Encoder(
        architecture,
        d_in,
        d_sae,
        f"blocks.{layer}.{inner}" if inner else None,
        subtracts_b_dec=False,
        output_hook=outputs[0] if outputs else None,
        output_hooks=outputs if across else (),
    )
    return Opened(encoder, read, _conditions(config, whose), CONFIG, unknown_keys(config, USED | IRRELEVANT))


def _conditions(config: Mapping[str, Any], whose: str) -> dict[str, Any]:
    return {
        "model_name": typed(config, "model_name", str, whose),
        "model_from_pretrained_kwargs": {"fold_ln": False},
    }

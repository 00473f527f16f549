"""Single files of tensors whose settings only their release knows: what the registry of SAELens means by its formats.

Each file holds the tensors of one dictionary and no configuration, or one that names the place alone. The release
states the rest: the model, the layer in the name of the file, the number k in the name of the repository.

    connor_rob_hook_z   attention autoencoders of GPT-2, a file and `NAME_cfg.json`
    deepseek_r1         one autoencoder of DeepSeek-R1-Distill-Llama-8B
    goodfire            autoencoders of Llama 3.1 8B and 3.3 70B
    qwen_scope          TopK autoencoders of Qwen 3 and 3.5
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamy_lens.errors import SAEError, quoted
from dreamy_lens.features.sae.conditions import typed
from dreamy_lens.features.sae.formats.files import json_settings

_LINEAR = {"W_enc": "encoder.weight.T", "b_enc": "encoder.bias", "W_dec": "decoder.weight.T", "b_dec": "decoder.bias"}
_POST = "blocks.{}.hook_resid_post"


@dataclass(frozen=True)
class SingleFile:
    """How a single file of tensors becomes a dictionary.

    Attributes:
        tensors: Name in the file for each name of SAELens, as in `load_sae(tensors=...)`.
        settings: Function of the repository's name and the file that returns settings under the keys of SAELens.
        beside: Function of the file's path in the repository that returns the path of its configuration. None if it has
            none.
    """

    tensors: Mapping[str, str]
    settings: Callable[[str, Path], Mapping[str, Any]]
    beside: Callable[[str], str] | None = None


def _layer(file: Path, pattern: str) -> str:
    found = re.search(pattern, file.name)
    if found is None:
        raise SAEError(
            f"The name of {file} does not say which layer it encodes. Give the file with tensors={{...}} and hook=..."
        )
    return found[1]


def _deepseek(_: str, file: Path) -> Mapping[str, Any]:
    return {
        "architecture": "standard",
        "hook_name": _POST.format(_layer(file, r"l(\d+)(?!.*l\d)")),
        "apply_b_dec_to_input": False,
        "prepend_bos": True,
        "context_size": 1024,
    }


def _goodfire(_: str, file: Path) -> Mapping[str, Any]:
    layer = _layer(file, r"-l(\d+)\.")
    return {"architecture": "standard", "hook_name": _POST.format(layer), "apply_b_dec_to_input": False}


def _qwen(repository: str, file: Path) -> Mapping[str, Any]:
    k = re.search(r"-L0_(\d+)$", repository)
    if k is None:
        raise SAEError(
            f"The repository {quoted(repository)} does not say how many latents stay active, as in -L0_50. Give the "
            'file with tensors={...} and config={"architecture": "topk", "k": 50}.'
        )
    return {
        "architecture": "topk",
        "k": int(k[1]),
        "hook_name": _POST.format(_layer(file, r"layer(\d+)\.")),
        "apply_b_dec_to_input": False,
        "prepend_bos": True,
        "context_size": 1024,
    }


def _beside(path: str) -> str:
    return f"{path.partition('.pt')[0]}_cfg.json"


def _attention(_: str, file: Path) -> Mapping[str, Any]:
    path = file.with_name(_beside(file.name))
    if not path.is_file():
        raise SAEError(f"The configuration {path.name} of {file} is missing. Download it again.")
    config = json_settings(path)
    return {
        "architecture": "standard",
        "d_in": typed(config, "act_size", int, str(path)),
        "d_sae": typed(config, "dict_size", int, str(path)),
        "hook_name": typed(config, "act_name", str, str(path)),
        "reshape_activations": "hook_z",
        "apply_b_dec_to_input": True,
        "prepend_bos": True,
        "context_size": 128,
    }


CHECKPOINTS: Mapping[str, SingleFile] = {
    "connor_rob_hook_z": SingleFile({n: n for n in ("W_enc", "b_enc", "W_dec", "b_dec")}, _attention, _beside),
    "deepseek_r1": SingleFile(_LINEAR, _deepseek),
    "goodfire": SingleFile({n: own.replace("coder.", "coder_linear.") for n, own in _LINEAR.items()}, _goodfire),
    "qwen_scope": SingleFile({"W_enc": "W_enc.T", "b_enc": "b_enc", "W_dec": "W_dec.T", "b_dec": "b_dec"}, _qwen),
}
"""Formats of the registry that are single files, by the registry's names of them."""

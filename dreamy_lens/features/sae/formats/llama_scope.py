"""Llama Scope: `hyperparams.json` and `checkpoints/final.safetensors`; `config.json` and `sae_weights.safetensors`.

Both forms hold JumpReLU dictionaries whose decoder's bias is not subtracted, and whose activations were scaled by one
number, the square root of their width divided by their mean length. The first form states that length. Its threshold
is one number for all latents, in units of the activation before it was scaled. The second form has a threshold per
latent, as a logarithm, and the registry of SAELens has the number of the scale.

Latents are those of SAELens, which reads both forms; the files themselves come from the library Language-Model-SAEs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamy_lens.errors import SAEError, quoted
from dreamy_lens.features.sae.conditions import typed, unknown_keys
from dreamy_lens.features.sae.formats.encoder import Encoder, Opened, check_tensors
from dreamy_lens.features.sae.formats.files import Stored, arranged, check_numbers, json_settings, open_tensors

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
LATER = "config.json", "sae_weights.safetensors"

_TENSORS = {
    "W_enc": Stored("encoder.weight", transposed=True),
    "b_enc": Stored("encoder.bias"),
    "W_dec": Stored("decoder.weight", transposed=True),
    "b_dec": Stored("decoder.bias"),
    "threshold": Stored("log_jumprelu_threshold"),
}
USED = frozenset(
    "act_fn apply_decoder_bias_to_pre_encoder d_model d_sae dataset_average_activation_norm expansion_factor "
    "hook_point_in hook_point_out jump_relu_threshold norm_activation use_glu_encoder".split()
)
IRRELEVANT = frozenset(
    "bias_init_method ddp_size decoder_exactly_fixed_norm device dtype init_decoder_norm init_encoder_norm "
    "init_encoder_with_decoder_transpose jumprelu_threshold_window k_warmup_steps l1_coefficient "
    "l1_coefficient_warmup_steps lp sae_pretrained_name_or_path sae_type seed sparsity_include_decoder_norm "
    "strict_loading top_k tp_size use_batch_norm_mse use_decoder_bias use_ghost_grads".split()
)
"""Keys that decided the weights, which are there. SAELens does not use `sparsity_include_decoder_norm` either."""
_CONDITIONS = {"prepend_bos": True, "context_size": 1024}
"""What the releases say of all their dictionaries."""


def open_llama_scope(folder: Path, whose: str) -> Opened:
    """Return the dictionary of a folder.

    Raises:
        SAEError: A file is missing or damaged, or what it states cannot be computed.
    """
    later = not (folder / CONFIG).is_file()
    name, weights = LATER if later else (CONFIG, WEIGHTS)
    if not (folder / weights).is_file():
        raise SAEError(f"The SAE folder {folder} has no {weights}. Download it again.")
    config, file = json_settings(folder / name), open_tensors(folder / weights)
    _check_kind(config, whose, name)
    stored = {key: place for key, place in _TENSORS.items() if place.name in file.shapes}
    check_numbers(file, tuple(place.name for place in stored.values()))
    shapes, read = arranged({key: (file, place) for key, place in stored.items()})
    threshold, scale = None, 1.0
    if not later:
        scale = _scale(config, whose, name)
        threshold = scale * _number(config, "jump_relu_threshold", whose, name)
        shapes["threshold"] = ()

    def tensor(key: str, latent: int | None) -> torch.Tensor:
        import torch

        if key != "threshold":
            return read(key, latent)
        return torch.tensor(threshold) if threshold is not None else read(key, latent).float().exp()

    width = typed(config, "d_model", int, whose)
    latents = typed(config, "d_sae", int, whose)
    factor = typed(config, "expansion_factor", int, whose)
    if latents is None and width is not None and factor is not None:
        latents = width * factor
    sizes = [("d_in", width), ("d_sae", latents)]
    d_in, d_sae = check_tensors("jumprelu", shapes, whose, subtracts=False, stated=sizes, config=name)
    read_at, written_at = (typed(config, f"hook_point_{side}", str, whose) for side in ("in", "out"))
    encoder = Encoder(
        "jumprelu",
        d_in,
        d_sae,
        read_at,
        normalisation="expected_average_only_in" if later else "none",
        input_scale=scale,
        subtracts_b_dec=False,
        output_hook=written_at if written_at != read_at else None,
    )
    return Opened(encoder, tensor, dict(_CONDITIONS), name, unknown_keys(config, USED | IRRELEVANT))


def _check_kind(config: Mapping[str, Any], whose: str, name: str) -> None:
    """Raise SAEError for a dictionary of the library that computes something else."""
    kind = typed(config, "act_fn", str, whose)
    if kind not in (None, "jumprelu"):
        raise SAEError(
            f"{whose} has act_fn = {quoted(kind)} in {name}; Llama Scope's dictionaries are jumprelu. Wrap it instead: "
            "any object with encode(x) can be given in its place."
        )
    scaling = typed(config, "norm_activation", str, whose)
    if scaling not in (None, "dataset-wise", "inference"):
        raise SAEError(
            f"{whose} has norm_activation = {quoted(scaling)} in {name}; dreamy_lens computes dataset-wise, where one "
            "number scales all activations. Wrap it instead: any object with encode(x) can be given in its place."
        )
    for key in ("use_glu_encoder", "apply_decoder_bias_to_pre_encoder"):
        if typed(config, key, bool, whose):
            raise SAEError(
                f"{whose} has {key} in {name}, which dreamy_lens does not compute. Wrap it instead: any object with "
                "encode(x) can be given in its place."
            )


def _scale(config: Mapping[str, Any], whose: str, name: str) -> float:
    """Return the number by which activations are multiplied."""
    lengths = typed(config, "dataset_average_activation_norm", Mapping, whose) or {}
    return _number(config, "d_model", whose, name) ** 0.5 / _number(lengths, "in", whose, name)


def _number(config: Mapping[str, Any], key: str, whose: str, name: str) -> float:
    value = typed(config, key, (int, float), whose)
    if value is None or not 0 < value < float("inf"):
        raise SAEError(
            f"{whose} has {key} = {quoted(value)} in {name}, where a positive number is needed. Download it again."
        )
    return float(value)

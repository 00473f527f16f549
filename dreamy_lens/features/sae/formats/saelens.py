"""SAELens folder format: `cfg.json` and `sae_weights.safetensors`, as versions 1 to 6 of SAELens write them.

Configurations differ between the versions: the hook point is `hook_point`, `hook_name`, or `metadata.hook_name`; a TopK
autoencoder has `architecture` with `k`, or `activation_fn`/`activation_fn_str` with `activation_fn_kwargs.k`;
normalisation may be a boolean. The tensors are the same in all: `W_enc [d_in, d_sae]`, `W_dec [d_sae, d_in]`,
`b_dec [d_in]`, and one number per latent in `b_enc`, `threshold` (jumprelu), `b_gate`, `b_mag`, `r_mag` (gated). A
`scaling_factor`, if present, applies only to the decoder. A transcoder has the encoder of a standard or a JumpReLU
autoencoder without `b_dec`, and a decoder of another width.

Nothing of the size of a tensor is read before it was compared with the file's own size and with the other tensors.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamy_lens._files import replacing
from dreamy_lens.errors import SAEError, quoted, shorten
from dreamy_lens.features.sae.conditions import CHECKED, IRRELEVANT, USED, typed, unknown_keys
from dreamy_lens.features.sae.formats.encoder import (
    ARCHITECTURES,
    LATENT_AXIS,
    SCALES,
    WHITENING,
    Encoder,
    Opened,
    Read,
    Shapes,
    check_tensors,
    checked_k,
    stated_sizes,
)
from dreamy_lens.features.sae.formats.files import Stored, arranged, check_numbers, json_settings, open_tensors
from dreamy_lens.features.sae.formats.modules import hook_of_module

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
SCALER, WHITENER = "activation_scaler.json", "activation_whitening.safetensors"
"""Files of a checkpoint of a training with what activations were normalised by; its end folds that into the weights."""
ACTIVATIONS = ("relu", "tanh-relu", "topk")
RESHAPES = ("none", "hook_z")
NORMALISATIONS = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm", "covariance_whitening")
MEASURED = {"expected_average_only_in": SCALER, "covariance_whitening": WHITENER}
"""Normalisations by what was measured on activations, each with the file of a checkpoint that holds it."""

_TRANSCODERS = {
    "transcoder": "standard",
    "skip_transcoder": "standard",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
_IN_TRAINING = ("batchtopk", "matryoshka_batchtopk")
"""Architectures of checkpoints of a training; what SAELens saves at its end is a JumpReLU autoencoder."""

_TENSORS = (*LATENT_AXIS, "b_dec", "topk_threshold")


SETTINGS = USED | CHECKED | IRRELEVANT
"""Keys of a configuration."""


def unknown_settings(config: Mapping[str, Any]) -> list[str]:
    """Return the keys that no configuration of SAELens has."""
    return [str(key) for key in config if key not in SETTINGS]


def open_saelens(
    folder: Path, whose: str, defaults: Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None
) -> Opened:
    """Return the dictionary of a folder.

    Args:
        folder: Folder.
        whose: Subject of the error messages, as in "The SAE folder x".
        defaults: Settings that hold where the configuration states nothing.
        overrides: Settings that hold whatever the configuration states.

    Raises:
        SAEError: A file is missing or damaged, or what it states cannot be computed.
    """
    config, file = json_settings(folder / CONFIG), open_tensors(folder / WEIGHTS)
    check_numbers(file, _TENSORS)
    named = {name: (file, Stored(name)) for name in file.shapes if name in _TENSORS}
    if "topk_threshold" in named:
        named.setdefault("threshold", named.pop("topk_threshold"))
    measured = MEASURED.get(str(fields_of(config, whose).get("normalize_activations")), "")
    if measured == WHITENER and (folder / WHITENER).is_file():
        whitener = open_tensors(folder / WHITENER)
        check_numbers(whitener, tuple(WHITENING.values()))
        named |= {name: (whitener, Stored(own)) for name, own in WHITENING.items() if own in whitener.shapes}
    if measured == SCALER and (folder / SCALER).is_file():
        scale = json_settings(folder / SCALER).get("scaling_factor")
        defaults = {**({} if scale is None else {"norm_scaling_factor": scale}), **(defaults or {})}
    shapes, read = arranged(named)
    rest = {name: shape for name, shape in file.shapes.items() if name not in named}
    if defaults or overrides:
        stated = {key: value for key, value in fields_of(config, whose).items() if value is not None}
        config = {**(defaults or {}), **stated, **(overrides or {})}
        config["metadata"] = None
    return from_config(config, {**rest, **shapes}, read, whose)


def measured_in(config: Path) -> str | None:
    """Return the file beside a configuration that may hold what activations were normalised by; None for none."""
    settings = json_settings(config)
    metadata = settings.get("metadata")
    inner = metadata.get("normalize_activations") if isinstance(metadata, Mapping) else None
    return MEASURED.get(str(settings.get("normalize_activations") or inner))


def from_config(config: Mapping[str, Any], shapes: Shapes, read: Read, whose: str, name: str = CONFIG) -> Opened:
    """Return a dictionary whose configuration has the keys of SAELens.

    Args:
        config: Contents of `cfg.json`.
        shapes: Shapes of the tensors.
        read: Function that reads the tensors.
        whose: Subject of the error messages, as in "The SAE folder x".
        name: Name of the configuration, for messages.
    """
    fields = fields_of(config, whose)
    return Opened(read_config(config, shapes, whose, name), read, fields, name, unknown_keys(fields))


def write_saelens(folder: Path, hook: str, opened: Opened, output_hook: str) -> None:
    """Write a dictionary of any format as a new folder. What scales its latents is folded into the weights.

    Args:
        folder: Folder to make; there must be none, or an empty one.
        hook: Hook point that is read.
        opened: Dictionary.
        output_hook: Hook point that its decoder writes to.

    Raises:
        SAEError: The dictionary reads or writes a single attention head.
        OSError: The folder cannot be written.
    """
    from safetensors.torch import save

    encoder, tensors = opened.encoder, {}
    if encoder.head is not None or encoder.output_head is not None:
        raise SAEError("An autoencoder of a single attention head cannot be written; use its own folder.")
    for name in (*LATENT_AXIS, "b_dec"):
        with contextlib.suppress(KeyError, AttributeError):
            tensors[name] = opened.read(name, None).detach().float().cpu()
    scale = encoder.input_scale
    if encoder.decoder_scale is not None:
        tensors["W_dec"] = tensors["W_dec"] * tensors[encoder.decoder_scale][:, None]
    tensors = {name: tensor for name, tensor in tensors.items() if name not in SCALES}
    if tensors.get("W_dec") is not None and tensors["W_dec"].ndim == 3:
        tensors["W_dec"] = tensors["W_dec"].sum(1)
    if encoder.scales_by_decoder_norm:
        norms = tensors["W_dec"].norm(dim=1)
        tensors |= {"W_enc": tensors["W_enc"] * norms, "b_enc": tensors["b_enc"] * norms}
        tensors["W_dec"] = tensors["W_dec"] / norms.clamp_min(1e-30)[:, None]
    if encoder.whitened:
        _fold_whitening(tensors, {name: opened.read(name, None).detach().float().cpu() for name in WHITENING}, encoder)
    if scale != 1.0:
        tensors["W_enc"] = tensors["W_enc"] * scale
        tensors |= {name: tensors[name] / scale for name in ("b_dec", "W_dec") if name in tensors}
    if "threshold" in tensors:
        tensors["threshold"] = tensors["threshold"].expand(encoder.d_sae)
    config: dict[str, Any] = {
        key: value for key, value in opened.stated.items() if key in CHECKED and value is not None
    }
    config |= {"architecture": encoder.architecture, "d_in": encoder.d_in, "d_sae": encoder.d_sae, "k": encoder.k}
    config |= {"hook_name": hook, "normalize_activations": encoder.normalisation}
    config |= {"hook_name_out": output_hook} if output_hook != hook else {}
    config |= {"apply_b_dec_to_input": encoder.subtracts_b_dec, "activation_fn": encoder.activation}
    config["reshape_activations"] = "hook_z" if encoder.joins_heads else "none"
    for key in ("hook_layer", "hook_point_layer"):
        config.pop(key, None)
    content = {name: tensor.contiguous() for name, tensor in tensors.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        (temporary / WEIGHTS).write_bytes(save(content))


def _fold_whitening(tensors: dict[str, torch.Tensor], by: Mapping[str, torch.Tensor], encoder: Encoder) -> None:
    """Fold the whitening of activations into the weights, so that these read activations as they are."""
    mean, matrix, inverse = (by[name] for name in WHITENING)
    tensors["W_enc"] = matrix @ tensors["W_enc"]
    if not encoder.subtracts_b_dec:
        shift = mean @ tensors["W_enc"]
        for name in ("b_enc", "b_gate", "b_mag"):
            if name in tensors:
                factor = tensors["r_mag"].exp() if name == "b_mag" else 1.0
                tensors[name] = tensors[name] - shift * factor
    if "W_dec" in tensors:
        tensors["W_dec"] = tensors["W_dec"] @ inverse
    if "b_dec" in tensors:
        tensors["b_dec"] = tensors["b_dec"] @ inverse + mean


def reader_of(thing: Any) -> tuple[dict[str, tuple[int, ...]], Read]:
    """Return the tensor shapes and the reading function, for an object with tensor attributes."""
    names = (*LATENT_AXIS, "b_dec")
    shapes = {name: tuple(getattr(thing, name).shape) for name in names if hasattr(getattr(thing, name, None), "shape")}

    def read(name: str, latent: int | None) -> torch.Tensor:
        tensor = getattr(thing, name)
        return tensor if latent is None else tensor.select(LATENT_AXIS[name], latent)

    return shapes, read


def fields_of(config: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """Return the keys of a configuration and of its metadata, where version 6 keeps some of them, in one mapping.

    Raises:
        SAEError: The metadata are no object, or state a key differently.
    """
    metadata = typed(config, "metadata", Mapping, whose) or {}
    compared = (USED | CHECKED) - {"sae_lens_version", "sae_lens_training_version"}
    both = [key for key in compared & metadata.keys() if metadata[key] is not None]
    both = sorted(key for key in both if config.get(key) not in (None, metadata[key]))
    if both:
        raise SAEError(
            f"{whose} contradicts itself: {shorten(both[0])} is {quoted(config[both[0]])} in {CONFIG}, and "
            f"{quoted(metadata[both[0]])} in its metadata. Correct the configuration."
        )
    given = {key: value for key, value in config.items() if value is not None or key not in metadata}
    return {**metadata, **given}


def read_config(config: Mapping[str, Any], shapes: Shapes, whose: str, name: str = CONFIG) -> Encoder:
    """Return the settings that a configuration of any version states, checked against the available tensors.

    Args:
        config: Contents of `cfg.json`.
        shapes: Shapes of the tensors, by tensor name.
        whose: Subject of the error messages, as in "The SAE folder x".
        name: Name of the configuration, for messages.

    Raises:
        SAEError: A setting is unsupported or of the wrong type, a tensor is missing, or shapes contradict each other.
    """
    fields = fields_of(config, whose)

    def first(kind: Any, *names: str) -> Any:
        return next((value for name in names if (value := typed(fields, name, kind, whose)) is not None), None)

    architecture = first(str, "architecture") or "standard"
    is_transcoder = architecture in _TRANSCODERS
    in_training = architecture in _IN_TRAINING
    architecture = "jumprelu" if in_training else _TRANSCODERS.get(architecture, architecture)
    activation = first(str, "activation_fn_str", "activation_fn") or "relu"
    options = dict(first(Mapping, "activation_fn_kwargs") or {})
    k = options.pop("k", None)
    k = k if fields.get("k") is None else fields["k"]
    if architecture == "standard" and activation == "topk":
        architecture = "topk"
    _one_of(architecture, ARCHITECTURES, whose, "architecture", (*_IN_TRAINING, *_TRANSCODERS))
    _one_of(activation, ACTIVATIONS, whose, "activation function")
    scales = bool(first(bool, "rescale_acts_by_decoder_norm"))
    subtracts = first(bool, "apply_b_dec_to_input") is not False and not is_transcoder
    wrong_activation = activation == "topk" if architecture != "topk" else activation == "tanh-relu"
    wrong_scales = scales and architecture != "topk" and not in_training
    if wrong_activation or any(value is not None for value in options.values()) or wrong_scales:
        more = [activation, *(f"{shorten(str(key))} = {shorten(str(value))}" for key, value in options.items())]
        more += ["rescale_acts_by_decoder_norm"] * scales
        raise SAEError(
            f"{whose} is a {architecture} autoencoder with {', '.join(more)}, and dreamy_lens does not compute these "
            "together. Wrap it instead: any object with encode(x) can be given in its place."
        )

    d_in, d_sae = check_tensors(
        architecture,
        shapes,
        whose,
        subtracts=subtracts,
        scales=scales,
        stated=stated_sizes(fields, whose),
        config=name,
    )
    k = checked_k(k, d_sae, whose, name, architecture) if architecture in ("topk", "groupmax") else None
    hook, head = _hook_of(first, whose)
    reshape = first(str, "reshape_activations")
    _one_of(reshape or "none", RESHAPES, whose, "reshaping of activations")
    joins = reshape == "hook_z" if reshape is not None else head is None and "hook_z" in str(hook)
    scale = next((name for name in SCALES if name in shapes), None)
    normalisation = _normalisation(fields.get("normalize_activations"), whose)
    scaling = first((int, float), "norm_scaling_factor")
    if scaling is not None and not 0 < scaling < float("inf"):
        raise SAEError(f"{whose} has norm_scaling_factor = {quoted(scaling)}, where a positive number is needed.")
    folded = scaling is not None and normalisation == "expected_average_only_in"
    whitened = normalisation == "covariance_whitening" and all(name in shapes for name in WHITENING)
    wrong = [] if not whitened else [name for name in WHITENING if set(shapes[name]) != {d_in}]
    if wrong:
        raise SAEError(
            f"{whose} has {WHITENING[wrong[0]]} of shape {list(shapes[wrong[0]])} in {WHITENER}, and it reads "
            f"activations of width {d_in}. Copy the checkpoint again."
        )
    return Encoder(
        architecture=architecture,
        d_in=d_in,
        d_sae=d_sae,
        hook_name=hook,
        head=head,
        joins_heads=joins and head is None,
        k=k,
        activation="tanh-relu" if activation == "tanh-relu" else "relu",
        normalisation="none" if folded or whitened else normalisation,
        input_scale=float(scaling or 1.0) if folded else 1.0,
        whitened=whitened,
        subtracts_b_dec=subtracts,
        scales_by_decoder_norm=scales,
        output_hook=_known_name(first(str, "hook_name_out"), output=True),
        output_head=first(int, "hook_head_index_out"),
        decoder_scale=scale if first(bool, "finetuning_scaling_factor") else None,
    )


def _hook_of(first: Callable[..., Any], whose: str) -> tuple[str | None, int | None]:
    """Return the hook point and the head that a configuration names, after a comparison with the layer it names."""
    hook, head = first(str, "hook_name", "hook_point") or None, first(int, "hook_head_index", "hook_point_head_index")
    layer = first((int, list), "hook_layer", "hook_point_layer")
    if hook is not None and "{layer}" in hook and isinstance(layer, int):  # version 1 wrote a pattern
        hook = hook.replace("{layer}", str(layer))
    named = re.match(r"blocks\.([0-9]{1,6})\.", hook or "")
    if named and isinstance(layer, int) and int(named[1]) != layer:
        raise SAEError(
            f"{whose} contradicts itself: its hook point is {shorten(str(hook))}, and its layer is "
            f"{quoted(layer)}. Correct {CONFIG}."
        )
    if head is not None and not 0 <= head < 2**31:
        raise SAEError(f"{whose} has the head index {quoted(head)}; heads are counted from 0. Correct {CONFIG}.")
    return _known_name(hook), head


def _known_name(name: str | None, output: bool = True) -> str | None:
    """Return a hook point's name; names of modules of a Hugging Face model are those of their output."""
    return (hook_of_module(name, output) or name) if name else None


def _one_of(value: Any, known: tuple[str, ...], whose: str, what: str, also: Iterable[str] = ()) -> None:
    if value not in known:
        raise SAEError(
            f"{whose} has the {what} {quoted(value)}; dreamy_lens computes {', '.join([*known, *also])}. Wrap it "
            "instead: any object with encode(x) can be given in its place."
        )


def _normalisation(setting: Any, whose: str) -> str:
    if setting is None or isinstance(setting, bool):  # versions 1 and 2 had a boolean
        setting = "expected_average_only_in" if setting else "none"
    name = setting
    _one_of(name, NORMALISATIONS, whose, "normalisation of activations")
    return str(name)

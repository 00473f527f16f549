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

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamy_lens.errors import SAEError, quoted, shorten, warn
from dreamy_lens.features.sae_conditions import CHECKED, USED, typed

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
ARCHITECTURES = ("standard", "topk", "jumprelu", "gated")
ACTIVATIONS = ("relu", "tanh-relu", "topk")
RESHAPES = ("none", "hook_z")
NORMALISATIONS = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm")

_TRANSCODERS = {"transcoder": "standard", "skip_transcoder": "standard", "jumprelu_transcoder": "jumprelu"}
_SCALES = ("scaling_factor", "finetuning_scaling_factor")
_LATENT_AXIS = {
    "W_enc": 1,
    "W_dec": 0,
    **dict.fromkeys(("b_enc", "threshold", "b_gate", "b_mag", "r_mag", *_SCALES), 0),
}
_LONGEST_CONFIG = 16 * 2**20  # bytes; configurations have a few thousand

Read = Callable[[str, "int | None"], "torch.Tensor"]
"""Function that reads tensors: `read(name, None)` returns a whole tensor, `read(name, i)` its part for latent i."""


@dataclass(frozen=True)
class Encoder:
    """Settings of the computation of latents from an activation, as a configuration states them.

    Attributes:
        architecture: One of `ARCHITECTURES`.
        d_in: Width of the activation.
        d_sae: Number of latents.
        hook_name: Hook point named by the configuration. None if the configuration names none.
        head: Attention head whose part of the activation is encoded. None for the whole activation.
        joins_heads: True if the heads of an activation `[..., heads, d_head]` are concatenated before encoding.
        k: Number of latents that a TopK autoencoder keeps.
        activation: Activation function: "relu", or "tanh-relu" for tanh(relu(x)).
        normalisation: One of `NORMALISATIONS`.
        subtracts_b_dec: True if the decoder bias is subtracted from the activation before encoding.
        scales_by_decoder_norm: True if each pre-activation is multiplied by the norm of the latent's decoder row.
        output_hook: Hook point that the decoder writes to, if it is not `hook_name`.
        output_head: Attention head that the decoder writes to. None for the whole of the hook point.
        decoder_scale: Name of the tensor `[d_sae]` that scales the rows of the decoder. None if there is none.
    """

    architecture: str
    d_in: int
    d_sae: int
    hook_name: str | None = None
    head: int | None = None
    joins_heads: bool = False
    k: int | None = None
    activation: str = "relu"
    normalisation: str = "none"
    subtracts_b_dec: bool = True
    scales_by_decoder_norm: bool = False
    output_hook: str | None = None
    output_head: int | None = None
    decoder_scale: str | None = None


def open_folder(folder: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]], Read]:
    """Return the configuration of a folder, the shapes of its tensors, and a function that reads the tensors.

    Raises:
        SAEError: The folder or one of its two files is missing or damaged.
    """
    if not folder.is_dir():
        raise SAEError(
            f"There is no SAE folder {str(folder)!r} (working folder: {Path.cwd()}). Give a folder that holds {CONFIG} "
            f"and {WEIGHTS}; one on the Hugging Face Hub has to be downloaded first."
        )
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise SAEError(f"The SAE folder {folder} has no {name}; {_what_is_there(folder)}")
    config = _read_json(folder / CONFIG)

    from safetensors import safe_open

    path = folder / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}
            shapes = {name: tuple(part.get_shape()) for name, part in parts.items()}
            kinds = {name: str(part.get_dtype()) for name, part in parts.items() if name in (*_LATENT_AXIS, "b_dec")}
    except Exception as error:
        # An incomplete download, or the pointer that Git LFS leaves in place of a large file, ends here.
        raise SAEError(
            f"{path} cannot be read as safetensors: {error} ({path.stat().st_size} bytes). Download it again."
        ) from error

    odd = [f"{name} ({kind})" for name, kind in kinds.items() if kind not in ("F64", "F32", "F16", "BF16")]
    if odd:
        raise SAEError(
            f"{path} has {', '.join(odd)}, where numbers in float64, float32, float16 or bfloat16 are needed. Convert "
            "the autoencoder to one of these."
        )

    def read(name: str, latent: int | None) -> torch.Tensor:
        with safe_open(path, framework="pt") as file:
            if latent is None:
                return file.get_tensor(name)
            part = file.get_slice(name)
            return part[:, latent] if _LATENT_AXIS[name] == 1 else part[latent]

    return config, shapes, read


def _read_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LONGEST_CONFIG:
        raise SAEError(f"{path} has {path.stat().st_size} bytes, so it is not a configuration. Download it again.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise SAEError(f"{path} is not JSON ({what}). Download or save the autoencoder again.") from None
    if not isinstance(config, dict):
        raise SAEError(f"{path} holds {type(config).__name__} where an object with settings is needed.")
    return config


def reader_of(thing: Any) -> tuple[dict[str, tuple[int, ...]], Read]:
    """Return the tensor shapes and the reading function, as in `open_folder`, for an object with tensor attributes."""
    names = (*_LATENT_AXIS, "b_dec")
    shapes = {name: tuple(getattr(thing, name).shape) for name in names if hasattr(getattr(thing, name, None), "shape")}

    def read(name: str, latent: int | None) -> torch.Tensor:
        tensor = getattr(thing, name)
        return tensor if latent is None else tensor.select(_LATENT_AXIS[name], latent)

    return shapes, read


def _what_is_there(folder: Path) -> str:
    found = (path for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{CONFIG}"))  # not the whole of a disk
    below = sorted(path.parent.relative_to(folder).as_posix() for path in islice(found, 20))
    if below:
        return f"but folders below it do: {', '.join(below[:5])}{', …' if len(below) > 5 else ''}. Give one of those."
    here = sorted(path.name for path in folder.iterdir())
    listed = f"it has {', '.join(here[:8])}{', …' if len(here) > 8 else ''}" if here else "it is empty"
    return f"{listed}. An autoencoder in SAELens format is the two files {CONFIG} and {WEIGHTS}."


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


def read_config(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], whose: str) -> Encoder:
    """Return the settings that a configuration of any version states, checked against the available tensors.

    Args:
        config: Contents of `cfg.json`.
        shapes: Shapes of the tensors, by tensor name.
        whose: Subject of the error messages, as in "The SAE folder x".

    Raises:
        SAEError: A setting is unsupported or of the wrong type, a tensor is missing, or shapes contradict each other.
    """
    fields = fields_of(config, whose)

    def first(kind: Any, *names: str) -> Any:
        return next((value for name in names if (value := typed(fields, name, kind, whose)) is not None), None)

    architecture = first(str, "architecture") or "standard"
    is_transcoder = architecture in _TRANSCODERS
    architecture = _TRANSCODERS.get(architecture, architecture)
    activation = first(str, "activation_fn_str", "activation_fn") or "relu"
    options = dict(first(Mapping, "activation_fn_kwargs") or {})
    k = options.pop("k", None)
    k = k if fields.get("k") is None else fields["k"]
    if architecture == "standard" and activation == "topk":
        architecture = "topk"
    _one_of(architecture, ARCHITECTURES, whose, "architecture", _TRANSCODERS)
    _one_of(activation, ACTIVATIONS, whose, "activation function")
    scales = bool(first(bool, "rescale_acts_by_decoder_norm"))
    subtracts = first(bool, "apply_b_dec_to_input") is not False and not is_transcoder
    wrong_activation = activation == "topk" if architecture != "topk" else activation == "tanh-relu"
    if wrong_activation or any(value is not None for value in options.values()) or (scales and architecture != "topk"):
        more = [activation, *(f"{shorten(str(key))} = {shorten(str(value))}" for key, value in options.items())]
        more += ["rescale_acts_by_decoder_norm"] * scales
        raise SAEError(
            f"{whose} is a {architecture} autoencoder with {', '.join(more)}, and dreamy_lens does not compute these "
            "together. Wrap it instead: any object with encode(x) can be given in its place."
        )

    d_in, d_sae = _check_shapes(fields, shapes, architecture, subtracts, scales, whose)
    if architecture == "topk" and (not isinstance(k, int) or isinstance(k, bool) or not 0 < k <= d_sae):
        stated = "no k" if k is None else f"k = {quoted(k)}"
        raise SAEError(
            f'{whose} is a TopK autoencoder with {d_sae} latents, but its configuration gives {stated}. Set "k" '
            f"in {CONFIG} to the number of latents that stay active."
        )
    hook, head = _hook_of(first, whose)
    reshape = first(str, "reshape_activations")
    _one_of(reshape or "none", RESHAPES, whose, "reshaping of activations")
    joins = reshape == "hook_z" if reshape is not None else head is None and "hook_z" in str(hook)
    scale = next((name for name in _SCALES if name in shapes), None)
    return Encoder(
        architecture=architecture,
        d_in=d_in,
        d_sae=d_sae,
        hook_name=hook,
        head=head,
        joins_heads=joins and head is None,
        k=k if architecture == "topk" else None,
        activation="tanh-relu" if activation == "tanh-relu" else "relu",
        normalisation=_normalisation(fields.get("normalize_activations"), whose),
        subtracts_b_dec=subtracts,
        scales_by_decoder_norm=scales,
        output_hook=first(str, "hook_name_out") or None,
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
    return hook, head


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
    if name == "expected_average_only_in":
        warn(
            f"{whose} was trained on activations scaled by one number, which its files do not hold. Activations are "
            "used as they are. This is right if that number was folded into the weights when the autoencoder was "
            "saved, as is usual.",
        )
    return str(name)


def _check_shapes(
    fields: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    architecture: str,
    subtracts: bool,
    scales: bool,
    whose: str,
) -> tuple[int, int]:
    per_latent = {"gated": ("b_gate", "b_mag", "r_mag"), "jumprelu": ("b_enc", "threshold")}.get(
        architecture, ("b_enc",)
    )
    needed = ("W_enc", *per_latent, *(["b_dec"] if subtracts else []), *(["W_dec"] if scales else []))
    missing = [name for name in needed if name not in shapes]
    if missing:
        raise SAEError(
            f"{whose} lacks {', '.join(missing)}, which a {architecture} autoencoder needs; it has "
            f"{', '.join(sorted(shapes)) or 'no tensors'}. Convert it to SAELens format, or wrap an object with "
            "encode(x)."
        )
    if len(shapes["W_enc"]) != 2:
        raise SAEError(f"{whose} has W_enc of shape {list(shapes['W_enc'])}, where [d_in, d_sae] is needed.")
    d_in, d_sae = shapes["W_enc"]
    expected = {"b_dec": (d_in,), "W_dec": (d_sae, d_in), **dict.fromkeys(per_latent, (d_sae,))}
    if d_in < 1 or d_sae < 1:
        raise SAEError(f"{whose} has W_enc of shape {[d_in, d_sae]}, so it has no latents. Save the autoencoder again.")
    wrong = [f"{name} {list(shapes[name])}" for name in needed[1:] if shapes[name] != expected[name]]
    for name, size in (("d_in", d_in), ("d_sae", d_sae)):
        stated = typed(fields, name, int, whose)
        if stated not in (None, size):
            wrong.append(f"{name} = {quoted(stated)} in {CONFIG}")
    if wrong:
        raise SAEError(
            f"{whose} contradicts itself: W_enc is {[d_in, d_sae]}, read as [d_in, d_sae], beside {', '.join(wrong)}. "
            "Convert it to SAELens format (W_enc may need transposing)."
        )
    return d_in, d_sae

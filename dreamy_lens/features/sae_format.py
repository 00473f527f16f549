"""SAELens folder format: `cfg.json` and `sae_weights.safetensors`, as versions 1 to 6 of SAELens write them.

Configurations differ between the versions: the hook point is `hook_point`, `hook_name`, or `metadata.hook_name`; a TopK
autoencoder has `architecture` with `k`, or `activation_fn`/`activation_fn_str` with `activation_fn_kwargs.k`;
normalisation may be a boolean. The tensors are the same in all: `W_enc [d_in, d_sae]`, `W_dec [d_sae, d_in]`,
`b_dec [d_in]`, and one number per latent in `b_enc`, `threshold` (jumprelu), `b_gate`, `b_mag`, `r_mag` (gated). A
`scaling_factor`, if present, applies only to the decoder.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamy_lens.errors import SAEError

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
ARCHITECTURES = ("standard", "topk", "jumprelu", "gated")
ACTIVATIONS = ("relu", "tanh-relu", "topk")
NORMALISATIONS = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm")

_LATENT_AXIS = {"W_enc": 1, "W_dec": 0, "b_enc": 0, "threshold": 0, "b_gate": 0, "b_mag": 0, "r_mag": 0}

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
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise SAEError(f"{folder / CONFIG} is not JSON ({error}). Download or save the autoencoder again.") from error
    if not isinstance(config, dict):
        raise SAEError(f"{folder / CONFIG} holds {type(config).__name__} where an object with settings is needed.")

    from safetensors import safe_open

    path = folder / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except Exception as error:
        # An incomplete download, or the pointer that Git LFS leaves in place of a large file, ends here.
        raise SAEError(
            f"{path} cannot be read as safetensors: {error} ({path.stat().st_size} bytes). Download it again."
        ) from error

    def read(name: str, latent: int | None) -> torch.Tensor:
        with safe_open(path, framework="pt") as file:
            if latent is None:
                return file.get_tensor(name)
            part = file.get_slice(name)
            return part[:, latent] if _LATENT_AXIS[name] == 1 else part[latent]

    return config, shapes, finite_only(read, f"The SAE folder {folder}")


def reader_of(thing: Any) -> tuple[dict[str, tuple[int, ...]], Read]:
    """Return the tensor shapes and the reading function, as in `open_folder`, for an object with tensor attributes."""
    names = (*_LATENT_AXIS, "b_dec")
    shapes = {name: tuple(getattr(thing, name).shape) for name in names if hasattr(getattr(thing, name, None), "shape")}

    def read(name: str, latent: int | None) -> torch.Tensor:
        tensor = getattr(thing, name)
        return tensor if latent is None else tensor.select(_LATENT_AXIS[name], latent)

    return shapes, finite_only(read, f"The {type(thing).__name__}")


def finite_only(read: Read, whose: str) -> Read:
    """Return a function that reads tensors, and raises SAEError if one has an entry that is NaN or infinite.

    A tensor of an object is read for every pass, and looked at the first time.

    Args:
        read: Function that reads the tensors.
        whose: Subject of the error message, as in "The SAE folder x".
    """
    looked_at: set[tuple[str, int | None]] = set()

    def read_finite(name: str, latent: int | None) -> torch.Tensor:
        tensor = read(name, latent)
        if (name, latent) not in looked_at:
            check_finite(tensor, name, whose)
            looked_at.add((name, latent))
        return tensor

    return read_finite


def check_finite(tensor: torch.Tensor, name: str, whose: str) -> None:
    """Raise SAEError if a tensor of an autoencoder has an entry that is NaN or infinite."""
    bad = int((~tensor.detach().isfinite()).sum()) if tensor.is_floating_point() else 0
    if bad:
        raise SAEError(
            f"{whose} is damaged: {bad:,} of the {tensor.numel():,} numbers of {name} that are needed are NaN or "
            "infinite. Download or save the autoencoder again."
        )


def _what_is_there(folder: Path) -> str:
    below = sorted(path.parent.relative_to(folder).as_posix() for path in folder.rglob(CONFIG) if path.parent != folder)
    if below:
        return f"but folders below it do: {', '.join(below[:5])}{', …' if len(below) > 5 else ''}. Give one of those."
    here = sorted(path.name for path in folder.iterdir())
    listed = f"it has {', '.join(here[:8])}{', …' if len(here) > 8 else ''}" if here else "it is empty"
    return f"{listed}. An autoencoder in SAELens format is the two files {CONFIG} and {WEIGHTS}."


def read_config(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], whose: str) -> Encoder:
    """Return the settings that a configuration of any version states, checked against the available tensors.

    Args:
        config: Contents of `cfg.json`.
        shapes: Shapes of the tensors, by tensor name.
        whose: Subject of the error messages, as in "The SAE folder x".

    Raises:
        SAEError: A setting is unsupported, a tensor is missing, or shapes contradict each other.
    """
    metadata = config.get("metadata")
    fields = {**metadata, **config} if isinstance(metadata, Mapping) else dict(config)

    def first(*names: str) -> Any:
        return next((fields[name] for name in names if fields.get(name) is not None), None)

    architecture = first("architecture") or "standard"
    activation = first("activation_fn_str", "activation_fn") or "relu"
    k = first("k")
    k = k if k is not None else (first("activation_fn_kwargs") or {}).get("k")
    if architecture == "standard" and activation == "topk":
        architecture = "topk"
    _one_of(architecture, ARCHITECTURES, whose, "architecture")
    _one_of(activation, ACTIVATIONS, whose, "activation function")
    scales = bool(first("rescale_acts_by_decoder_norm"))
    subtracts = True if fields.get("apply_b_dec_to_input") is None else bool(fields["apply_b_dec_to_input"])

    d_in, d_sae = _check_shapes(fields, shapes, architecture, subtracts, scales, whose)
    if architecture == "topk" and (not isinstance(k, int) or not 0 < k <= d_sae):
        raise SAEError(
            f'{whose} is a TopK autoencoder with {d_sae} latents, but its configuration gives k = {k}. Set "k" in '
            f"{CONFIG} to the number of latents that stay active."
        )
    hook = first("hook_name", "hook_point")
    head = first("hook_head_index", "hook_point_head_index")
    reshape = first("reshape_activations")
    joins = reshape == "hook_z" if reshape is not None else head is None and str(hook).endswith("hook_z")
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
    )


def _one_of(value: Any, known: tuple[str, ...], whose: str, what: str) -> None:
    if value not in known:
        raise SAEError(
            f"{whose} has the {what} {value!r}; dreamy_lens computes {', '.join(known)}. Wrap it instead: any object "
            "with encode(x) can be given in its place."
        )


def _normalisation(setting: Any, whose: str) -> str:
    name = "expected_average_only_in" if setting is True else setting or "none"  # versions 1 and 2 had a boolean
    _one_of(name, NORMALISATIONS, whose, "normalisation of activations")
    if name == "expected_average_only_in":
        warnings.warn(
            f"{whose} was trained on activations scaled by one number, which its files do not hold. Activations are "
            "used as they are: right if that number was folded into the weights when it was saved, as is usual.",
            stacklevel=4,
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
    wrong = [f"{name} {list(shapes[name])}" for name in needed[1:] if shapes[name] != expected[name]]
    for name, size in (("d_in", d_in), ("d_sae", d_sae)):
        if fields.get(name) not in (None, size):
            wrong.append(f"{name} = {fields[name]} in {CONFIG}")
    if wrong:
        raise SAEError(
            f"{whose} contradicts itself: W_enc is {[d_in, d_sae]}, read as [d_in, d_sae], beside {', '.join(wrong)}. "
            "Convert it to SAELens format (W_enc may need transposing)."
        )
    return d_in, d_sae

"""What every format comes to: settings of an encoder, a function that reads tensors, and stated conditions.

The tensors have the names and the layout of SAELens, whatever the format: `W_enc [d_in, d_sae]`, `W_dec [d_sae,
d_out]`, `b_dec`, and one number per latent in `b_enc`, `threshold` (jumprelu), `b_gate`, `b_mag`, `r_mag` (gated). A
threshold may also be one number for all latents. The decoder of a cross-layer transcoder is `[d_sae, layers, d_out]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dreamy_lens.errors import SAEError, quoted
from dreamy_lens.features.sae.conditions import typed

if TYPE_CHECKING:
    import torch

ARCHITECTURES = ("standard", "topk", "groupmax", "jumprelu", "gated")
SCALES = ("scaling_factor", "finetuning_scaling_factor")
LATENT_AXIS = {
    "W_enc": 1,
    "W_dec": 0,
    **dict.fromkeys(("b_enc", "threshold", "b_gate", "b_mag", "r_mag", *SCALES), 0),
}
"""Axis of the latents in each tensor that has one."""

WHITENING = {"whitening_mean": "mean", "whitening_matrix": "matrix", "whitening_inverse": "inverse_matrix"}
"""Tensors that whiten an activation, by name, each with its name in the file of SAELens."""

Shapes = Mapping[str, "tuple[int, ...]"]
"""Shapes of tensors, by name."""

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
        k: Number of latents that a TopK autoencoder keeps, or number of groups of which groupmax keeps one latent each.
        activation: Activation function: "relu", or "tanh-relu" for tanh(relu(x)).
        normalisation: Normalisation of the activation, one of `saelens.NORMALISATIONS`.
        input_scale: Number that an activation is multiplied by before encoding.
        whitened: True if an activation is whitened before encoding: `(x - whitening_mean) @ whitening_matrix`.
        subtracts_b_dec: True if the decoder bias is subtracted from the activation before encoding.
        scales_by_decoder_norm: True if each pre-activation is multiplied by the norm of the latent's decoder row.
        output_hook: Hook point that the decoder writes to, if it is not `hook_name`.
        output_hooks: Hook points that the decoders of a cross-layer transcoder write to, if there are several.
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
    input_scale: float = 1.0
    whitened: bool = False
    subtracts_b_dec: bool = True
    scales_by_decoder_norm: bool = False
    output_hook: str | None = None
    output_hooks: tuple[str, ...] = ()
    output_head: int | None = None
    decoder_scale: str | None = None


@dataclass(frozen=True)
class Opened:
    """A dictionary whose configuration was read, and whose tensors can be.

    Attributes:
        encoder: Settings of the computation.
        read: Function that reads the tensors.
        stated: Conditions of the training, under the keys of SAELens.
        config: What states them, for messages: the name of a file.
        unknown: Keys of the configuration that dreamy_lens does not know.
    """

    encoder: Encoder
    read: Read
    stated: Mapping[str, Any] = field(default_factory=dict)
    config: str = "cfg.json"
    unknown: tuple[str, ...] = ()


def check_tensors(
    encoder_of: str,
    shapes: Shapes,
    whose: str,
    *,
    subtracts: bool,
    scales: bool = False,
    stated: Iterable[tuple[str, Any]] = (),
    config: str = "cfg.json",
    remedy: str = "Convert it to SAELens format",
) -> tuple[int, int]:
    """Return the width of the activation and the number of latents, after a comparison of all shapes.

    Args:
        encoder_of: Architecture.
        shapes: Shapes of the tensors, under the names of SAELens.
        whose: Subject of the error messages, as in "The SAE folder x".
        subtracts: True if the decoder's bias is needed.
        scales: True if the decoder is needed.
        stated: Sizes that the configuration states, as pairs of `d_in` or `d_sae` and the value.
        config: Name of the configuration, for messages.
        remedy: What to do if the tensors do not fit.

    Raises:
        SAEError: A tensor is missing, or shapes contradict each other.
    """
    per_latent = {"gated": ("b_gate", "b_mag", "r_mag"), "jumprelu": ("b_enc", "threshold")}.get(encoder_of, ("b_enc",))
    needed = ("W_enc", *per_latent, *(["b_dec"] if subtracts else []), *(["W_dec"] if scales else []))
    missing = [name for name in needed if name not in shapes]
    if missing:
        raise SAEError(
            f"{whose} lacks {', '.join(missing)}, which a {encoder_of} autoencoder needs; it has "
            f"{', '.join(sorted(shapes)) or 'no tensors'}. {remedy}, or wrap an object with encode(x)."
        )
    if len(shapes["W_enc"]) != 2:
        raise SAEError(f"{whose} has W_enc of shape {list(shapes['W_enc'])}, where [d_in, d_sae] is needed.")
    d_in, d_sae = shapes["W_enc"]
    if d_in < 1 or d_sae < 1:
        raise SAEError(f"{whose} has W_enc of shape {[d_in, d_sae]}, so it has no latents. Save the autoencoder again.")
    expected = {"b_dec": [(d_in,)], "W_dec": [(d_sae, d_in)], **{name: [(d_sae,)] for name in per_latent}}
    expected["threshold"] = [(d_sae,), ()]
    wrong = [f"{name} {list(shapes[name])}" for name in needed[1:] if shapes[name] not in expected[name]]
    sizes = {"d_in": d_in, "d_sae": d_sae}
    wrong += [f"{name} = {quoted(value)} in {config}" for name, value in stated if value not in (None, sizes[name])]
    if wrong:
        raise SAEError(
            f"{whose} contradicts itself: W_enc is {[d_in, d_sae]}, read as [d_in, d_sae], beside {', '.join(wrong)}. "
            f"{remedy} (W_enc may need transposing)."
        )
    return d_in, d_sae


def checked_k(k: Any, d_sae: int, whose: str, config: str = "cfg.json", architecture: str = "topk") -> int:
    """Return the number of latents that stay active, or raise SAEError if it cannot be that."""
    if not isinstance(k, int) or isinstance(k, bool) or not 0 < k <= d_sae:
        raise SAEError(
            f"{whose} is a TopK autoencoder with {d_sae} latents, but its configuration gives "
            f'{"no k" if k is None else f"k = {quoted(k)}"}. Set "k" in {config} to the number of latents that stay '
            "active."
        )
    if architecture == "groupmax" and d_sae % k:
        raise SAEError(
            f"{whose} has {d_sae} latents, which cannot be cut into {k} equal groups. Correct k in {config}."
        )
    return k


def stated_sizes(fields: Mapping[str, Any], whose: str) -> list[tuple[str, Any]]:
    """Return the sizes that a configuration in the style of SAELens states."""
    return [(name, typed(fields, name, int, whose)) for name in ("d_in", "d_sae")]

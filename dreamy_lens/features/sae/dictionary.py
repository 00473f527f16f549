"""Latents of sparse autoencoders, read from a folder or from any object with `encode`.

This module promises:

- Importing it imports no torch. `loading.load_sae` reads the configuration of a folder and the *shapes* of its tensors;
  the first request for a latent reads numbers, and then only the columns that it needs.
- One latent costs one column of the encoder. A TopK latent needs all columns, to find the k strongest latents.
- Arithmetic is in float32 (float64 if the activation is), on the activation's device, for every precision of the file;
  :mod:`~dreamy_lens.features.sae.arithmetic` has the formulas.
- An SAE is a value: two SAEs read from the same folder for the same hook point are equal.
- Weights that are not finite numbers raise an error when they are read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from dreamy_lens._files import FAILURES, check_local, expanded, failure_of
from dreamy_lens.errors import FeatureRangeError, FileWriteError, SAEError
from dreamy_lens.features.sae.arithmetic import LatentArithmetic, centred, floats
from dreamy_lens.features.sae.conditions import Conditions
from dreamy_lens.features.sae.formats.encoder import Encoder, Opened, Read
from dreamy_lens.features.sae.names import is_remote

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float


_COMPARED = "compared"
"""Key of a cache that says that latents of an object were compared with those of its weights."""


@dataclass(frozen=True, eq=False)
class SAE:
    """Encoder of a sparse autoencoder at one hook point. `load_sae` makes instances.

    Attributes:
        hook_name: Hook point whose activation is encoded.
        d_in: Width of the activation. None if a wrapped object does not state it.
        d_sae: Number of latents. None if a wrapped object does not state it.
        architecture: One of `formats.encoder.ARCHITECTURES`; "encode" for a wrapped object that does not state it.
        source: Folder or file as given by the caller. None for a wrapped object.
        encoder: Settings of the computation, from the configuration. None for a wrapped object without a configuration.
        conditions: Conditions of the training, from the configuration; `fit.fitted` keeps them for a model.
        centres: True if the mean of the units is subtracted from an activation first, as centred weights would do.
        opened: Encoder, tensors and stated conditions as they were read. None for an object that shows only `encode`.
        mapping: Text of the names of tensors and of the settings that came with them; "" for a known format.
        computed: True if latents of a wrapped object are computed from its tensors, and its `encode` is not called.
    """

    hook_name: str
    d_in: int | None
    d_sae: int | None
    architecture: str
    source: str | None = None
    encoder: Encoder | None = field(default=None, repr=False)
    conditions: Conditions | None = field(default=None, repr=False)
    centres: bool = field(default=False, repr=False)
    opened: Opened | None = field(default=None, repr=False)
    mapping: str = field(default="", repr=False)
    computed: bool = field(default=False, repr=False)
    _read: Read | None = field(default=None, repr=False)
    _object: Any = field(default=None, repr=False)
    _cache: dict[Any, torch.Tensor] = field(default_factory=dict, repr=False)

    @property
    def _identity(self) -> tuple[object, ...]:
        where: object = id(self._object)
        if self.source is not None:
            where = self.source if is_remote(self.source) else str(Path(self.source).expanduser().resolve())
        return where, self.mapping, self.hook_name, self.conditions.ignored if self.conditions else ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SAE) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __str__(self) -> str:
        where = f"{self.source}" if self.source is not None else f"a {type(self._object).__name__}"
        size = f"{self.d_sae} latents" if self.d_sae is not None else "latents"
        return f"SAE {where} ({self.architecture}, {size} at {self.hook_name})"

    @property
    def wrapped(self) -> Any:
        """Return the object whose `encode` computes the latents, or None if they are computed from tensors."""
        return None if self.computed else self._object

    @property
    def reference(self) -> tuple[str, str | None, tuple[str, ...]] | None:
        """Return source, hook point and ignored conditions from which it can be read again; None if there are none.

        The hook point is None if it is that of the configuration.
        """
        if self.source is None or self.mapping:
            return None
        own = self.encoder is not None and self.encoder.hook_name == self.hook_name
        return self.source, None if own else self.hook_name, self.conditions.ignored if self.conditions else ()

    def check_latent(self, i: int) -> None:
        """Raise FeatureRangeError unless latent `i` exists."""
        if i < 0 or (self.d_sae is not None and i >= self.d_sae):
            exist = f"0 to {self.d_sae - 1}" if self.d_sae is not None else "0 upwards"
            raise FeatureRangeError(f"latent {i} is out of range: {self} has latents {exist}. Choose one of those.")

    def check_activation(self, shape: Sequence[int]) -> None:
        """Raise SAEError unless an activation of this shape can be encoded: `[..., d_in]` or `[..., heads, d_head]`."""
        head = self.encoder.head if self.encoder else None
        if head is not None and (len(shape) < 2 or head >= shape[-2]):
            raise SAEError(
                f"{self} encodes attention head {head}, but the activation it was given has shape {list(shape)}, where "
                "[..., heads, d_head] is needed. Name the hook point it was trained at: hook=..."
            )
        joined = self.joins_heads and len(shape) > 1
        width = (shape[-1] if shape else 0) * (shape[-2] if joined else 1)
        if self.d_in is not None and width != self.d_in:
            raise SAEError(
                f"{self} encodes activations of width {self.d_in}, but the activation it was given has shape "
                f"{list(shape)}{f', so width {width} with its heads side by side' if joined else ''}. Use the model it "
                "was trained on, or name the right hook point: hook=..."
            )

    @property
    def origin(self) -> Any:
        """Return what the autoencoder was made from: its folder, or the wrapped object."""
        return self.source if self.source is not None else self._object

    @property
    def joins_heads(self) -> bool:
        """Return True if the heads of an activation `[..., heads, d_head]` are concatenated before encoding."""
        return self.encoder is not None and self.encoder.joins_heads

    @property
    def output_hook(self) -> str:
        """Return the hook point that the decoder writes to: that named by a wrapped object, or `hook_name`."""
        config = attributes_of(getattr(self._object, "cfg", None))
        named = getattr(config, "hook_name_out", None) or (self.encoder.output_hook if self.encoder else None)
        metadata = attributes_of(getattr(config, "metadata", None))
        return named or getattr(metadata, "hook_name_out", None) or self.hook_name

    @property
    def output_hooks(self) -> tuple[str, ...]:
        """Return all hook points that the decoder writes to: several for a cross-layer transcoder."""
        return (self.encoder.output_hooks if self.encoder else ()) or (self.output_hook,)

    def decoder_row(self, i: int) -> Float[torch.Tensor, " d_out"]:
        """Return the decoder row of latent `i`, float32 on the CPU; of a cross-layer transcoder, the sum of its rows.

        Raises:
            FeatureRangeError: Latent `i` does not exist.
            SAEError: No decoder can be read.
        """
        self.check_latent(i)
        if self.encoder is not None and self.encoder.output_head is not None:
            raise SAEError(
                f"{self} writes to the attention head {self.encoder.output_head} (hook_head_index_out), and effects "
                "are computed for whole hook points only."
            )
        try:
            row = self._decoder_row(i)
        except SAEError:
            raise
        except Exception as error:
            raise SAEError(
                f"{self} has no decoder (W_dec, or decode) that can be read, so it is not known what its latents write."
            ) from error
        row = self._checked("W_dec", row.detach().float().cpu())
        return row.sum(0) if row.ndim == 2 and len(self.output_hooks) > 1 else row.flatten()

    def decoder_rows(self, i: int) -> list[tuple[str, Float[torch.Tensor, " d_out"]]]:
        """Return what latent `i` writes at each hook point: one row, or several for a cross-layer transcoder.

        Raises:
            FeatureRangeError: Latent `i` does not exist.
            SAEError: No decoder can be read.
        """
        if len(self.output_hooks) == 1 or self._read is None:
            return [(self.output_hook, self.decoder_row(i))]
        self.check_latent(i)
        rows = self._checked("W_dec", self._decoder_row(i).detach().float().cpu())
        return list(zip(self.output_hooks, rows, strict=True))

    def _decoder_row(self, i: int) -> torch.Tensor:
        if self._read is None and not hasattr(self._object, "W_dec"):
            return self._written_by_object(i)
        if self._read is None:
            return self._own_tensor("W_dec", 0)[i]
        assert self.encoder is not None
        row = self._read("W_dec", i).float()
        if self.encoder.decoder_scale is not None:  # trained after the decoder, and multiplied at its input
            row = row * self._read(self.encoder.decoder_scale, i)
        if self.encoder.scales_by_decoder_norm:  # a latent has this factor already
            row = row / row.norm().clamp_min(1e-30)
        if self.encoder.whitened:
            row = row @ self._read("whitening_inverse", None).float()
        return row / self.encoder.input_scale

    def _own_tensor(self, name: str, axis: int) -> torch.Tensor:
        """Return a tensor of a wrapped object; raise SAEError if its latents are not along an axis."""
        tensor = getattr(self._object, name)
        if self.d_sae is not None and tensor.shape[axis] != self.d_sae:
            layout = "[d_sae, d_out]" if axis == 0 else "[d_in, d_sae]"
            raise SAEError(
                f"{self} has {name} of shape {list(tensor.shape)}, where {layout} is needed. Name its tensors: "
                f'load_sae(..., tensors={{"{name}": "{name}.T", ...}}).'
            )
        return tensor

    def _written_by_object(self, i: int) -> torch.Tensor:
        """Return what `decode` of an object adds for one unit of latent `i`."""
        import torch

        count = self.d_sae
        if count is None:
            example = next(p for p in getattr(self._object, "parameters", list)() if p.is_floating_point())
            width = self.d_in if self.d_in is not None else example.shape[-1]
            count = self._object.encode(example.new_zeros(1, width)).shape[-1]
        own = next((p for p in getattr(self._object, "parameters", list)() if p.is_floating_point()), torch.zeros(()))
        latents = own.detach().new_zeros(3, count)
        latents[1, i], latents[2, i] = 1.0, 2.0
        with torch.no_grad():
            without, once, twice = self._object.decode(latents)
        row = once - without
        if not torch.allclose(twice - once, row, rtol=1e-3, atol=1e-3 * float(row.abs().max())):
            raise SAEError(f"decode() of {self} is not linear, so no single vector is what latent {i} writes.")
        return row

    def save(self, folder: str | os.PathLike[str]) -> str:
        """Write the autoencoder as a new folder in the format of SAELens, and return the folder.

        A dictionary that was named tensor by tensor, or that is an object in memory, thus gets a text form. The
        decoders of a cross-layer transcoder are added up.

        Args:
            folder: Folder to make.

        Raises:
            SAEError: The numbers of the autoencoder are not known, because an object shows only `encode`.
            FileWriteError: The folder cannot be written.
        """
        from dreamy_lens.features.sae.formats.saelens import write_saelens

        if self.opened is None:
            self._check_pre_activations()
            raise AssertionError  # it has no pre-activations either
        check_local(folder)
        place = expanded(folder)
        try:
            write_saelens(place, self.hook_name, self.opened, self.output_hook)
        except FAILURES as error:
            if isinstance(error, SAEError):
                raise
            raise FileWriteError(f"The folder {str(place)!r} cannot be written: {failure_of(error)}") from error
        return str(folder)

    def encoder_column(self, i: int) -> Float[torch.Tensor, " d_in"]:
        """Return the encoder weights of latent `i`, float32 on the CPU: they multiply an activation that is prepared.

        Raises:
            FeatureRangeError: Latent `i` does not exist.
            SAEError: No encoder can be read.
        """
        self.check_latent(i)
        try:
            column = self._read("W_enc", i) if self._read is not None else self._own_tensor("W_enc", 1)[:, i]
        except SAEError:
            raise
        except Exception as error:
            raise SAEError(f"{self} has no encoder (W_enc) that can be read, so it has no direction.") from error
        column = column.detach().float().cpu().flatten()
        if self.encoder is not None and self.encoder.whitened and self._read is not None:
            column = self._read("whitening_matrix", None).float().cpu() @ column
        return self._checked("W_enc", column)

    def check_weights(self) -> None:
        """Raise SAEError if a wrapped object has a weight that is not a finite number.

        All weights are read once, so this is for the start of a run. A folder's weights are checked on reading.
        """
        if self._object is None:
            return
        named: Any = getattr(self._object, "named_parameters", None)
        weights: Any = named() if callable(named) else getattr(self._object, "__dict__", {}).items()
        for name, tensor in weights:
            if hasattr(tensor, "isfinite") and getattr(tensor, "is_floating_point", bool)():
                self._checked(str(name), tensor.detach())

    def encode(
        self, x: Float[torch.Tensor, "*row d_in"], pre_activation: bool = False
    ) -> Float[torch.Tensor, "*row latent"]:
        """Compute all latents, or their pre-activations.

        Args:
            x: Activation `[..., d_in]`, or `[..., heads, d_head]` for an autoencoder trained on heads.
            pre_activation: Return the pre-activations, as in :meth:`latent`.

        Returns:
            Latents `[..., d_sae]`, float32 (float64 if x is).

        Raises:
            SAEError: x has another width, or a wrapped object does not expose its pre-activations.
        """
        if self.wrapped is not None and not pre_activation:
            return self._encode_by_object(x)
        if pre_activation:
            self._check_pre_activations()
            self._check_own_encode(x)
        return self._compute(x, None, pre_activation)

    def latent(
        self, x: Float[torch.Tensor, "*row d_in"], i: int, pre_activation: bool = False
    ) -> Float[torch.Tensor, "*row"]:
        """Compute one latent, or its pre-activation.

        Args:
            x: Activation `[..., d_in]`, or `[..., heads, d_head]` for an autoencoder trained on heads.
            i: Index of the latent, from 0.
            pre_activation: Return the pre-activation, which has a gradient even where the latent is inactive. For a
                gated autoencoder this is the pre-activation of the magnitude.

        Returns:
            Latent `[...]`, float32 (float64 if x is): equal to `encode(x)[..., i]` unless `pre_activation`.

        Raises:
            FeatureRangeError: Latent `i` does not exist.
            SAEError: x has another width, or a wrapped object does not expose its pre-activations.
        """
        self.check_latent(i)
        if self.wrapped is not None and not pre_activation:
            latents = self._encode_by_object(x)
            if i >= latents.shape[-1]:
                raise FeatureRangeError(
                    f"latent {i} is out of range: {self} has latents 0 to {latents.shape[-1] - 1}. Choose one of those."
                )
            return latents[..., i]
        self._check_pre_activations()
        self._check_own_encode(x)
        return self._compute(x, i, pre_activation)

    @property
    def has_pre_activations(self) -> bool:
        """Return whether pre-activations can be computed: an object may show only `encode`."""
        return self._read is not None

    def _check_pre_activations(self) -> None:
        if self._read is None:
            raise SAEError(
                f"{self} gives no pre-activations: it has an encode() but not both W_enc and a SAELens configuration. "
                'Name its tensors, load_sae(..., tensors={"W_enc": "encoder.weight.T", ...}), or use the latent itself.'
            )

    def _check_own_encode(self, x: torch.Tensor) -> None:
        """Raise SAEError if the latents of a wrapped object are not those that its weights give; it is asked once.

        The weights have the names of SAELens, and its configuration says how SAELens would use them; the object may use
        them otherwise.
        """
        import torch

        if self.wrapped is None or _COMPARED in self._cache:
            return
        with torch.no_grad():
            own = self._encode_by_object(x.detach())
            computed = self._compute(x.detach(), None, False).to(own.device)
        size = max(float(own.norm()), float(computed.norm()))
        # In low precision, a latent near the threshold may be on in one and off in the other.
        if own.shape != computed.shape or float((own - computed).norm()) > 0.1 * size:
            raise SAEError(
                f"{self} gives no pre-activations: its encode() does not return what W_enc and the other weights give "
                "by its configuration, read as one of SAELens. Say how they are used: load_sae(..., "
                'tensors={"W_enc": "W_enc", ...}, config={"apply_b_dec_to_input": False}).'
            )
        self._cache[_COMPARED] = torch.ones(())

    # Everything below computes.

    def _encode_by_object(self, x: torch.Tensor) -> torch.Tensor:
        self.check_activation(x.shape)
        # The object may live in another precision or on another device than the model.
        own = next((p for p in getattr(self._object, "parameters", list)() if p.is_floating_point()), None)
        if self.centres:
            x = centred(floats(x))
        x_own = self._one_head(floats(x) if own is None else x.to(own))
        latents = self._object.encode(x_own)
        rows = list(x_own.shape[: -2 if self.joins_heads else -1])
        if list(getattr(latents, "shape", ()))[:-1] != rows or not hasattr(latents, "is_sparse"):
            returned = f"shape {list(latents.shape)}" if hasattr(latents, "shape") else f"a {type(latents).__name__}"
            raise SAEError(
                f"encode() of {self} was given shape {list(x_own.shape)} and returned {returned}, where a tensor "
                f"[{', '.join(map(str, [*rows, 'latents']))}] is needed. Wrap it in an object whose encode does that."
            )
        return floats(latents.to_dense() if latents.is_sparse else latents).to(x.device)

    def _one_head(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.encoder is None or self.encoder.head is None else x[..., self.encoder.head, :]

    def _weight(self, name: str, i: int | None, like: torch.Tensor) -> torch.Tensor:
        assert self._read is not None
        if self._object is not None:  # the object may be in training: never cache its numbers
            return self._read(name, i).detach().to(like)
        key = name, i, like.device, like.dtype
        if key not in self._cache:
            self._cache[key] = self._checked(name, self._read(name, i).to(like))
        return self._cache[key]

    def _checked(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        bad = int((~weight.isfinite()).sum())
        if bad:
            raise SAEError(
                f"{self} is damaged: {bad:,} of the {weight.numel():,} numbers of {name} that are needed are NaN or "
                "infinite. Download or save the autoencoder again."
            )
        return weight

    def _compute(self, x: torch.Tensor, i: int | None, pre_activation: bool) -> torch.Tensor:
        """Compute latent `i`, or all if it is None, or pre-activations, from the tensors."""
        assert self.encoder is not None
        self.check_activation(x.shape)
        x = floats(x)
        x = self._one_head(centred(x) if self.centres else x)
        arithmetic = LatentArithmetic(self.encoder, self.architecture, self._weight)
        x = arithmetic.prepare(x)
        return arithmetic.pre_activation(x, i)[0] if pre_activation else arithmetic.latent(x, i)


def attributes_of(settings: Any) -> Any:
    """Return the configuration of an object, with the keys of a dictionary as attributes."""
    if not isinstance(settings, Mapping):
        return settings
    return SimpleNamespace(**{str(key): value for key, value in settings.items()})

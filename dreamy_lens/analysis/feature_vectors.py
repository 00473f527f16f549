"""Vectors that stand for features: a neuron's unit, a direction in the residual stream, a latent's decoder row.

The logit effect follows a vector to the logits; steering and ablation add it to an activation. What a feature's vector
multiplies is its coordinate: the neuron's activation, the projection of the activation on the direction, the latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dreamy_lens.analysis.direct_path import NoPathError
from dreamy_lens.errors import SAEError
from dreamy_lens.features import expressions as ex
from dreamy_lens.features.sae.dictionary import SAE
from dreamy_lens.features.shapes import Axes, ShapeProbe
from dreamy_lens.models.hooked_model import HookedModel


@dataclass(frozen=True)
class FeatureVector:
    """Vector that stands for a feature, and the coordinate that it multiplies.

    Attributes:
        kind: "unit", "direction" or "latent".
        label: Text of the unit or of the latent, for messages.
        reads: Hook point at which the coordinate is read.
        writes: Hook points at which the vector is added: one, or several for a cross-layer transcoder.
        rows: Vector at each of `writes`, float32, with the axes of the activation there except batch and position.
        axes: Axes of the activation at `reads`, without the batch.
        sign: -1 if the feature falls where the coordinate rises, else 1.
        scaled: Whether the feature divides the coordinate by a length that depends on the activation.
        sae: Autoencoder of a latent; None for others.
        latent: Index of the latent in `sae`.
        pre_activation: Whether the coordinate of a latent is its pre-activation.
    """

    kind: str
    label: str
    reads: str
    writes: tuple[str, ...]
    rows: tuple[Float[Tensor, ...], ...]
    axes: Axes
    sign: float = 1.0
    scaled: bool = False
    sae: SAE | None = None
    latent: int = 0
    pre_activation: bool = False

    @property
    def gain(self) -> float:
        """Change of the coordinate if the vector is added once: its squared length, and 1 for a latent."""
        return 1.0 if self.kind == "latent" else float(sum(row.double().pow(2).sum() for row in self.rows))

    def coordinate(self, activation: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch pos"]:
        """Return the coordinate at every position from the activation at `reads`, float32 or float64."""
        if self.sae is not None:
            return self.sign * self.sae.latent(activation, self.latent, pre_activation=self.pre_activation)
        row = self.rows[0].to(activation.device)
        x = positions_first(activation, self.axes).float()
        return self.sign * (x * row).flatten(2).sum(-1)


def positions_first(activation: Tensor, axes: Axes) -> Tensor:
    """Return a view of an activation `[batch, ...]` with its only axis of positions after the batch."""
    return activation.movedim(1 + [axis.name for axis in axes].index("position"), 1)


def locate_vector(f: ex.Feature, model: HookedModel, bos: bool | None) -> FeatureVector:
    """Find the vector that stands for a feature.

    Raises:
        NoPathError: No single vector stands for the feature; the message is a sentence that gives the reason.
    """
    match f:
        case ex.Scaled():
            found = locate_vector(f.of, model, bos)
            return found if f.factor > 0 else replace(found, sign=-found.sign)
        case ex.Clipped() | ex.Reduced():
            return locate_vector(f.of, model, bos)
        case ex.Sum(terms=(term, ex.Constant())):
            return locate_vector(term, model, bos)
        case ex.Latent():
            return _latent(f, model, bos)
        case ex.Hook():
            return _at_hook(f, None, model, bos)
        case ex.Projected() | ex.Cosine():
            divided = isinstance(f, ex.Cosine) or isinstance(f.of, ex.Standardised)
            operand = f.of.of if isinstance(f.of, ex.Standardised) else f.of
            if isinstance(operand, ex.Hook):
                found = _at_hook(operand, torch.tensor(f.direction.values), model, bos)
                return replace(found, scaled=divided)
        case ex.Logit(kind="logit"):
            raise NoPathError("The feature is a logit itself: its only effect is on that logit.")
        case ex.Logit() | ex.MeanCrossEntropy():
            raise NoPathError("The feature is computed from the logits, so it has no effect on them.")
        case ex.OnModel():
            raise NoPathError("The feature is read from another model, and has no effect on the logits of this one.")
        case ex.Custom():
            raise NoPathError("The feature is a function of your own, and the vector that stands for it is not known.")
        case ex.ExpertNeuron() | ex.RouterLogit():
            raise NoPathError(
                "The feature is computed from what a mixture of experts reads, and no hook point holds it, so no "
                "vector stands for it."
            )
        case ex.Norm():
            raise NoPathError("The feature is the length of a vector, whose direction depends on the prompt.")
    if all(isinstance(node, (ex.Logit, ex.Scaled, ex.Constant, ex.Sum, ex.Product)) for node in f.walk()):
        raise NoPathError("The feature is made of logits, so it has no effect on them.")
    raise NoPathError(
        "The feature is made of several features, and no single vector stands for it: ask for the effect of one "
        "feature at a time."
    )


def _at_hook(hook: ex.Hook, direction: Tensor | None, model: HookedModel, bos: bool | None) -> FeatureVector:
    """Find the vector of one unit of a hook point, or of a direction there."""
    probe = ShapeProbe(model, hook, bos)
    axes = probe.axes[hook.name]
    pairs = [(axis, element) for axis, element in zip(axes, probe.spread(hook), strict=True) if axis.name != "position"]
    vector = torch.zeros([axis.size or 0 for axis, _ in pairs])
    place = tuple(element.slice() if isinstance(element, ex.Span) else element for _, element in pairs)
    vector[place] = 1.0 if direction is None else direction.view(vector[place].shape)
    kind = "unit" if direction is None else "direction"
    unit = f"unit {place[-1]} of {hook.name}"
    return FeatureVector(kind, unit, hook.name, (hook.name,), (vector,), axes)


def _latent(f: ex.Latent, model: HookedModel, bos: bool | None) -> FeatureVector:
    """Find the vector of a latent: its row of the decoder."""
    probe = ShapeProbe(model, f, bos)
    sae: SAE = probe.sae(f)
    try:
        rows = sae.decoder_rows(f.latent)
    except SAEError as error:
        raise NoPathError(str(error)) from error
    axes = probe.axes[sae.hook_name]
    vectors = tuple(row for _, row in rows)
    head = sae.encoder.head if sae.encoder else None
    if head is not None and len(rows) == 1:
        by_head = torch.zeros([axis.size or 0 for axis in axes if axis.name != "position"])
        by_head[head] = vectors[0]
        vectors = (by_head,)
    if len(rows) > 1:
        model.check_hook(sae.output_hooks[-1])
    names = tuple(name for name, _ in rows)
    label = f"latent {f.latent} of {sae}"
    return FeatureVector(
        "latent", label, sae.hook_name, names, vectors, axes, 1.0, False, sae, f.latent, f.pre_activation
    )


def placebo_rows(
    vector: FeatureVector, count: int, generator: np.random.Generator, besides: Sequence[FeatureVector] = ()
) -> list[tuple[Tensor, ...]]:
    """Return vectors of the same length: other units for a unit, and random directions for directions and latents.

    Args:
        vector: Vector of a feature.
        count: Number of vectors; fewer units are returned if there are fewer.
        generator: Source of the random choices.
        besides: Vectors of other features, whose units are no placebos.
    """
    if vector.kind == "unit":
        row = vector.rows[0]
        alike = [other for other in besides if other.kind == "unit" and other.reads == vector.reads]
        units = {int(each.rows[0].abs().flatten().argmax()) for each in (vector, *alike)}
        others = np.delete(np.arange(row.numel()), sorted(units))
        found = []
        for i in generator.permutation(others)[:count]:
            other = torch.zeros(row.numel())
            other[int(i)] = 1.0
            found.append((other.view(row.shape),))
        return found
    drawn = []
    for _ in range(count):
        rows = []
        for row in vector.rows:
            noise = torch.from_numpy(generator.standard_normal(tuple(row.shape)).astype(np.float32))
            noise = torch.where(row.abs().sum(-1, keepdim=True) > 0, noise, 0.0) if row.ndim > 1 else noise
            rows.append(noise * (row.norm() / noise.norm().clamp_min(1e-30)))
        drawn.append(tuple(rows))
    return drawn

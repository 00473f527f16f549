"""Features whose norms and choices keep the values that they have on some prompts, so that they are linear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from dreamy_lens.errors import FeatureError
from dreamy_lens.features import expressions as ex
from dreamy_lens.features.binding import BoundFeature, bind_derived
from dreamy_lens.features.compile import Compiler, Compute, compiles
from dreamy_lens.features.directions import Direction
from dreamy_lens.features.forward_pass import Readings
from dreamy_lens.features.shapes import Axes, ShapeProbe


@dataclass(frozen=True)
class HeldFeature:
    """Feature with what was held.

    Attributes:
        bound: Changed feature; it is for a batch of the prompts on which it was held, in their order, or for a batch of
            any size if it was held on one prompt.
        linear: Whether it is linear in the activations that it reads, once its choices are made.
        quantity: What it is of the feature: "value", "pre" or "unclipped".
        notes: Sentences that say what was held or left out.
    """

    bound: BoundFeature
    linear: bool
    quantity: str
    notes: tuple[str, ...]


# Nodes whose numbers belong to the prompts of one batch.


@dataclass(frozen=True, repr=False, eq=False)
class _HeldScale(ex.Unary):
    """Feature times a number of each prompt."""

    factors: Float64[np.ndarray, " batch"]

    def write(self, writer: Any) -> str:
        return self.of.write(writer)


@dataclass(frozen=True, repr=False, eq=False)
class _HeldPlace(ex.Unary):
    """Feature at one of the positions that it leaves, which each prompt has chosen."""

    places: Int64[np.ndarray, " batch"]

    def write(self, writer: Any) -> str:
        return self.of.write(writer)


@dataclass(frozen=True, repr=False)
class _Deviation(ex.Unary):
    """Population standard deviation over the units."""

    def write(self, writer: Any) -> str:
        return self.of.write(writer)


@dataclass(frozen=True, repr=False)
class _Largest(ex.Unary):
    """Number of the position at which a feature is largest: the first of equal ones, or the last one."""

    last: bool

    def write(self, writer: Any) -> str:
        return self.of.write(writer)


def _of_rows(numbers: np.ndarray, x: Tensor) -> Tensor:
    """Return the number of each row of a batch."""
    if len(numbers) not in (1, len(x)):
        raise ValueError(f"The feature was held on {len(numbers)} prompts, and is evaluated on {len(x)}.")
    return torch.as_tensor(numbers, device=x.device).expand(len(x))


@compiles(_HeldScale)
def _held_scale(compiler: Compiler, f: _HeldScale) -> tuple[Axes, Compute]:
    axes, operand = compiler.build(f.of)

    def compute(r: Readings) -> Tensor:
        x = operand(r).float()
        return x * _of_rows(f.factors, x).to(x.dtype).view(-1, *[1] * (x.ndim - 1))

    return axes, compute


@compiles(_HeldPlace)
def _held_place(compiler: Compiler, f: _HeldPlace) -> tuple[Axes, Compute]:
    rest, operand = _positions_last(compiler, f.of)

    def compute(r: Readings) -> Tensor:
        x = operand(r)
        place = _of_rows(f.places, x)
        return x[torch.arange(len(x), device=x.device), ..., place]

    return rest, compute


@compiles(_Largest)
def _largest(compiler: Compiler, f: _Largest) -> tuple[Axes, Compute]:
    rest, operand = _positions_last(compiler, f.of)

    def compute(r: Readings) -> Tensor:
        x = operand(r)
        return (x.shape[-1] - 1 - x.flip(-1).argmax(-1) if f.last else x.argmax(-1)).float()

    return rest, compute


@compiles(_Deviation)
def _deviation(compiler: Compiler, f: _Deviation) -> tuple[Axes, Compute]:
    axes, operand, dim = compiler.units(f, "standardised()")
    rest = tuple(axis for axis in axes if axis.name != "unit")
    return rest, lambda r: operand(r).double().std(dim, correction=0)


def _positions_last(compiler: Compiler, f: ex.Feature) -> tuple[Axes, Compute]:
    """Compile a feature with its axes of positions joined to one, the last; the axes that are returned lack them."""
    axes, operand = compiler.build(f)
    dims = [i + 1 for i, axis in enumerate(axes) if axis.name == "position"]
    if not dims:
        raise FeatureError(f"{f.label} leaves no positions.")
    return (
        tuple(axis for axis in axes if axis.name != "position"),
        lambda r: operand(r).movedim(dims, list(range(-len(dims), 0))).flatten(-len(dims)),
    )


_LINEAR = (ex.Hook, ex.Projected, ex.Scaled, ex.Sum, ex.Constant, ex.Reduced, _HeldScale, _HeldPlace)


def linearised(
    bound: BoundFeature,
    prepend_bos: bool,
    evaluate: Callable[[BoundFeature], Float64[np.ndarray, " batch"]],
    quantity: str | None,
) -> HeldFeature:
    """Return a feature with its norms held and its limits left out.

    A maximum is that of the position that each prompt chooses, by the value and not by the pre-activation; the
    runner-up among logits is linear once the token is chosen. A standardisation and a cosine are, once their lengths
    are held. The activation of a latent is replaced by its pre-activation, if the autoencoder shows it.

    Args:
        bound: Feature to change.
        prepend_bos: Whether a BOS stands before the prompt.
        evaluate: Function that returns the value of a feature on each prompt.
        quantity: Quantity that is asked for; "value" changes nothing.
    """
    feature = bound.feature
    if quantity == "value":
        return HeldFeature(bound, _is_linear(feature), "value", ())
    work = _Holding(bound, prepend_bos, evaluate, quantity == "pre")
    changed = feature.transform(work.attempt)
    if changed != feature:
        bound = bind_derived(changed, bound.model, prepend_bos)
    of = next((each for each in ("pre", "unclipped") if each in work.quantities), "value")
    return HeldFeature(bound, _is_linear(changed), of, tuple(work.notes))


class _Holding:
    """Changes of the nodes of one feature.

    Args:
        bound: Feature to change.
        bos: Whether a BOS stands before the prompt.
        evaluate: Function that returns the value of a feature on each prompt.
        pre: Whether pre-activations are asked for, so that an autoencoder without them is an error.
    """

    def __init__(
        self, bound: BoundFeature, bos: bool, evaluate: Callable[[BoundFeature], np.ndarray], pre: bool
    ) -> None:
        self.model, self.bos, self.evaluate, self.pre = bound.model, bos, evaluate, pre
        self.notes: list[str] = []
        self.quantities: set[str] = set()
        self.places: list[np.ndarray] = []  # of the maxima around the node

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def value_of(self, part: ex.Feature) -> Float64[np.ndarray, " batch"]:
        """Return the value of a part on each prompt, at the position that the maximum around it has chosen."""
        for places in reversed(self.places):
            part = _HeldPlace(part, places)
        return np.asarray(self.evaluate(bind_derived(part, self.model, self.bos)), dtype=np.float64)

    def attempt(self, node: ex.Feature) -> ex.Feature | None:
        """Return the replacement of a node, or None to go on with its children."""
        try:
            return self.change(node)
        except FeatureError:  # a vector at several positions has several lengths
            if isinstance(node, ex.Latent):
                raise
            return None

    def change(self, node: ex.Feature) -> ex.Feature | None:
        if isinstance(node, ex.Clipped):
            self.note("The limits of clip() are left out.")
            self.quantities.add("unclipped")
            return node.of.transform(self.attempt)
        if isinstance(node, ex.Latent) and not node.pre_activation:
            if not self.pre and not ShapeProbe(self.model, node, self.bos).sae(node).has_pre_activations:
                self.note("The autoencoder shows no pre-activations: the latent itself is divided.")
                return None
            self.note("The latent's pre-activation is decomposed, before its activation function.")
            self.quantities.add("pre")
            return replace(node, pre_activation=True)
        if isinstance(node, ex.Reduced) and node.how == "max":
            return self._at_maximum(node)
        if isinstance(node, ex.Projected) and isinstance(node.of, ex.Standardised):
            vector = np.asarray(node.direction.values, dtype=np.float64)
            deviation = self.value_of(_Deviation(node.of.of))
            centred = vector - vector.mean()
            if (deviation > 0).all() and centred.any():
                self.note("The standard deviation of the units is held at its value on the prompt.")
                return _HeldScale(ex.Projected(node.of.of, Direction(centred.astype(np.float32))), 1.0 / deviation)
        if isinstance(node, ex.Cosine):
            vector = np.asarray(node.direction.values, dtype=np.float64)
            length = self.value_of(ex.Norm(node.of)) * float(np.linalg.norm(vector))
            if (length > 0).all():
                self.note("The length of the vector is held at its value on the prompt.")
                return _HeldScale(ex.Projected(node.of, node.direction), 1.0 / length)
        return None

    def _at_maximum(self, node: ex.Reduced) -> ex.Feature:
        of = node.of.transform(_unclipped)
        first, last = (self.value_of(_Largest(of, last)).astype(np.int64) for last in (False, True))
        if (first != last).any():
            self.note("The maximum is reached at several positions; the first of them is decomposed.")
        self.places.append(first)
        try:
            return _HeldPlace(node.of.transform(self.attempt), first)
        finally:
            self.places.pop()


def _unclipped(node: ex.Feature) -> ex.Feature | None:
    return node.of.transform(_unclipped) if isinstance(node, ex.Clipped) else None


def _is_linear(feature: ex.Feature) -> bool:
    """Return whether a feature is linear in the activations that it reads, once its choices are made."""
    return all(
        isinstance(node, _LINEAR)
        or (isinstance(node, ex.Logit) and node.kind in ("logit", "runner_up", "logit_difference"))
        or (isinstance(node, ex.Latent) and node.pre_activation)
        for node in feature.walk()
    )

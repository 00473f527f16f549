"""Parts of a model that are ablated: components by their names, and features by their vectors."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dreamy_lens.analysis.direct_path import NoPathError
from dreamy_lens.analysis.feature_vectors import FeatureVector, locate_vector, positions_first
from dreamy_lens.analysis.interventions import Intervention, Positions, Replacement, Shift
from dreamy_lens.errors import FeatureError, FeatureRangeError, quoted
from dreamy_lens.features import expressions as ex
from dreamy_lens.features.parser import feature_names, parse
from dreamy_lens.features.shapes import Axes, ShapeProbe
from dreamy_lens.models.editable_hooks import check_editable
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.results.upstream import ModelComponent, NeuronContribution

_NAME = re.compile(r"[Ll](\d{1,5})\.(?:[Hh](\d{1,5})|(MLP|mlp|Mlp)|(attn|attention|Attn))")


@dataclass(frozen=True)
class Part:
    """Part of a model that can be ablated.

    Attributes:
        name: Short name.
        component: Component, or None for a feature.
        hook: Hook point of a component's output, or at which a feature's coordinate is read.
        axes: Axes of the activation there.
        head: Index of the head; None for others.
        vector: Vector of a feature; None for a component.
    """

    name: str
    component: ModelComponent | None
    hook: str
    axes: Axes
    head: int | None = None
    vector: FeatureVector | None = None

    def read(self, activation: Tensor) -> Tensor:
        """Return what is ablated from an activation at `hook`: the part, or the coordinate; positions come second."""
        if self.vector is not None:
            return self.vector.coordinate(activation).float()
        x = positions_first(activation, self.axes)
        return x if self.head is None else x[:, :, self.head]

    def replaced(
        self, value: Tensor | None, positions: Positions, rows: tuple[Tensor, ...] | None = None
    ) -> Intervention:
        """Return the intervention that puts a value in the place of the part.

        Args:
            value: Value for every position `[...]`, or for each `[pos, ...]`; None is zero.
            positions: Positions at which it is replaced.
            rows: Vectors of a placebo of a feature, which are added in place of its own; None are its own.
        """
        if self.vector is None:
            return Replacement(self.hook, self.axes, self.head, value, positions)
        return Shift(self.vector, _moved_to(value, self.vector.gain), positions, True, rows)


def _moved_to(value: Tensor | None, gain: float) -> Callable[[Tensor], Tensor]:
    def amount(coordinate: Tensor) -> Tensor:
        target = torch.zeros_like(coordinate) if value is None else value.to(coordinate)
        if target.ndim == 1:
            target = target[: coordinate.shape[1]]
        return (target - coordinate) / gain

    return amount


def find_part(given: Any, model: HookedModel, bos: bool | None) -> Part:
    """Return the part that a user names, after checking that it can be changed.

    Args:
        given: Component such as "L2.H3", "L1.MLP", "L1.attn", "embedding" or "position"; a component or a neuron of an
            upstream result; or a feature that a vector stands for.
        model: Model with the part.
        bos: Whether a BOS stands before every prompt.

    Raises:
        FeatureError: There is no such part, or it cannot be changed; the error may be of a subclass.
    """
    given = getattr(given, "component", given)  # of a contribution
    if isinstance(given, NeuronContribution):
        given = ex.Hook(f"blocks.{given.layer}.mlp.hook_post", (-1, given.index))
    if isinstance(given, str):
        given = _component(given) or given
    if isinstance(given, ModelComponent):
        return _of_component(given, model, bos)
    feature = given if isinstance(given, ex.Feature) else parse(given)
    vector = editable_vector(feature, model, bos, "ablated")
    short, _ = feature_names(str(feature)) if feature.has_text_form else (feature.label, "")
    return Part(short, None, vector.reads, vector.axes, None, vector)


def _component(name: str) -> ModelComponent | None:
    """Return the component of a short name, as :class:`ModelComponent` names them; None for other texts."""
    if name in ("embedding", "position"):
        return ModelComponent(name, name)
    match = _NAME.fullmatch(name.strip())
    if match is None:
        return None
    layer = int(match[1])
    if match[2] is not None:
        return ModelComponent(f"L{layer}.H{int(match[2])}", "head", layer, int(match[2]))
    kind = "mlp" if match[3] else "attention"
    return ModelComponent(f"L{layer}.{'MLP' if match[3] else 'attn'}", kind, layer)


def _of_component(component: ModelComponent, model: HookedModel, bos: bool | None) -> Part:
    kind, layer = component.kind, component.layer
    hooks = {
        "head": (f"blocks.{layer}.attn.hook_z",),
        "attention": (f"blocks.{layer}.hook_attn_out",),
        "mlp": (f"blocks.{layer}.hook_mlp_out",),
        "embedding": ("hook_embed", "embed.hook_out"),
        "position": ("hook_pos_embed", "pos_embed.hook_out"),
    }
    if kind not in hooks:
        raise FeatureError(
            f"{component.name} cannot be ablated: it is of the kind {quoted(kind)}. Heads, attentions, MLPs and the "
            "embeddings of tokens and positions can."
        )
    if layer is not None and layer >= model.n_layers:
        raise FeatureRangeError(
            f"{component.name}: there is no layer {layer}; {model.name} has layers 0 to {model.n_layers - 1}."
        )
    names = model.hook_names()
    hook = next((name for name in hooks[kind] if name in names), hooks[kind][-1])
    axes = _axes(model, hook, bos)
    check_editable(model, hook)
    if component.head is not None:
        count = axes[1].size or 0
        if component.head >= count:
            raise FeatureRangeError(
                f"{component.name}: there is no head {component.head}; {model.name} has {count} heads there, 0 to "
                f"{count - 1}."
            )
    return Part(component.name, component, hook, axes, component.head)


def _axes(model: HookedModel, hook: str, bos: bool | None) -> Axes:
    """Return the axes of an activation that has one axis of positions."""
    axes = ShapeProbe(model, ex.Hook(hook), bos).axes[hook]
    if [axis.name for axis in axes].count("position") != 1:
        raise FeatureError(
            f"The activation at {hook} of {model.name} has axes {', '.join(map(str, axes))}; one axis of positions is "
            "needed."
        )
    return axes


def editable_vector(feature: ex.Feature, model: HookedModel, bos: bool | None, done: str) -> FeatureVector:
    """Return the vector of a feature, after checking that an activation can be moved along it.

    Args:
        feature: Feature.
        model: Model that is changed.
        bos: Whether a BOS stands before every prompt.
        done: What is done to the feature, as a participle, for messages.

    Raises:
        FeatureError: No vector stands for the feature, or the activation cannot be changed.
    """
    try:
        vector = locate_vector(feature, model, bos)
    except NoPathError as error:
        raise FeatureError(f"{feature.label} cannot be {done}: {error}") from error
    if [axis.name for axis in vector.axes].count("position") != 1:
        raise FeatureError(
            f"{feature.label} cannot be {done}: its activation has axes {', '.join(map(str, vector.axes))}, as an "
            "attention pattern has, and no single vector at each position stands for it. Use the head's output, "
            "such as L2.H3, or a direction in blocks.2.attn.hook_z."
        )
    if vector.kind == "unit" and float(vector.rows[0].abs().sum()) != 1.0:
        raise FeatureError(
            f"{feature.label} cannot be {done}: it is made of several units of {vector.reads}. Name one unit, or a "
            "direction."
        )
    for name in vector.writes:
        model.check_hook(name)
        check_editable(model, name)
    return vector

"""Bypass of a bridge's components: run the wrapped Hugging Face modules where no hook point is read.

A bridge replaces every module of a Hugging Face model by a component with hook points, and computes norms and attention
in many separate operations so that each step can be hooked. On a small model this costs more than the arithmetic.
Inside :meth:`Bypass.bare` only the components that contain a requested hook point stay; the wrapped modules replace the
other components. The caller must check that both compute the same results: in compatibility mode some do not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dreamy_lens.models.bridge_passes import gate_of


@dataclass(frozen=True)
class Component:
    """Component that a bridge inserted into its Hugging Face model.

    Attributes:
        parent: Module that the component was inserted into.
        name: Attribute name of the component in `parent`.
        component: Inserted component, which replaces its `original_component`.
        points: `id` of each hook point in the component.
        around: `id` of each hook point in the enclosing components, except blocks, which may depend on this component.
    """

    parent: Any
    name: str
    component: Any
    points: frozenset[int]
    around: frozenset[int] = frozenset()


class Bypass:
    """Components of a bridge that can be skipped.

    Args:
        bridge: `TransformerBridge`; if it wraps no Hugging Face model, no component can be skipped.
        besides: Components that are never skipped.
    """

    def __init__(self, bridge: Any, besides: Sequence[Any] = ()) -> None:
        self._bridge = bridge
        kept = {id(m) for m in besides}
        kept |= {id(getattr(bridge, name, None)) for name in ("embed", "pos_embed", "unembed")}
        blocks = {id(block) for block in getattr(bridge, "blocks", ())}
        self._parts: list[Component] = []
        self._chosen: dict[tuple[str, ...], list[Component]] = {}

        def collect(parent: Any, around: frozenset[int]) -> None:
            for name, child in parent._modules.items():
                original = getattr(child, "original_component", None)
                if not isinstance(original, torch.nn.Module):
                    if child is not None:
                        collect(child, around)
                    continue
                points = frozenset(id(m) for m in child.modules() if hasattr(m, "fwd_hooks"))
                if id(child) not in kept:
                    self._parts.append(Component(parent, name, child, points, around))
                collect(original, around if id(child) in blocks else around | points)

        collect(getattr(bridge, "original_model", torch.nn.Module()), frozenset())

    def is_bare(self, component: Any, names: Sequence[str]) -> bool:
        """Return whether a component is skipped when these hook points are read."""
        return any(part.component is component for part in self._skipped(names))

    @contextlib.contextmanager
    def bare(self, names: Sequence[str]) -> Iterator[None]:
        """Skip, within the context, all components except those that contain one of the hook points."""
        skipped = self._skipped(names)
        try:
            for part in skipped:
                part.parent._modules[part.name] = part.component.original_component
            yield
        finally:
            for part in skipped:
                part.parent._modules[part.name] = part.component

    def _skipped(self, names: Sequence[str]) -> list[Component]:
        """Return the components to skip; computed once for each choice of hook points."""
        key = tuple(names)
        if key not in self._chosen:
            self._chosen[key] = self._choose(key)
        return self._chosen[key]

    def _choose(self, names: tuple[str, ...]) -> list[Component]:
        points = self._bridge.hook_dict if names else {}
        wanted = {id(points.get(name)) for name in names}  # not every model has a hook point for its embeddings
        # Hook points computed on request depend on components throughout their block, and TransformerLens warns if the
        # attention of another block is not one of its components when they are switched on.
        layers = [name.split(".")[1] for name in names if gate_of(name) is not None and name.startswith("blocks.")]
        for layer in layers:
            wanted |= {id(m) for m in self._bridge.blocks[int(layer)].modules()}
        if layers:
            attention = (getattr(block, "attn", None) for block in self._bridge.blocks)
            wanted |= {id(m) for part in attention if part is not None for m in part.modules()}
        return [part for part in self._parts if not part.points & wanted and not part.around & wanted]

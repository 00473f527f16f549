"""The Hugging Face modules that a bridge wraps, in the bridge's place where nobody looks.

A bridge puts a component with hook points in the place of every module of a Hugging Face model, and writes out norms
and attention in many operations so that there is something to hook. On a small model that costs more than the
arithmetic. Inside :meth:`Bypass.bare` only the components that hold a wanted hook point are left, and what they wrap
stands for the others. Whether the two compute the same is for the caller to make sure of: in compatibility mode some do
not.
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
    """A component that a bridge put into its Hugging Face model.

    Attributes:
        parent: the module that it was put into.
        name: its name there.
        component: what was put there, in place of its `original_component`.
        points: the hook points in it, by `id`.
        around: those of the components it is in, blocks aside, which may count on it.
    """

    parent: Any
    name: str
    component: Any
    points: frozenset[int]
    around: frozenset[int] = frozenset()


class Bypass:
    """The components of a bridge that can be left out.

    Args:
        bridge: a `TransformerBridge`; one that wraps no Hugging Face model has none.
        besides: components to leave alone.
    """

    def __init__(self, bridge: Any, besides: Sequence[Any] = ()) -> None:
        self._bridge = bridge
        kept = {id(m) for m in besides}
        kept |= {id(getattr(bridge, name, None)) for name in ("embed", "pos_embed", "unembed")}
        blocks = {id(block) for block in getattr(bridge, "blocks", ())}
        self._parts: list[Component] = []
        self._found: dict[tuple[str, ...], list[Component]] = {}

        def look(parent: Any, around: frozenset[int]) -> None:
            for name, child in parent._modules.items():
                original = getattr(child, "original_component", None)
                if not isinstance(original, torch.nn.Module):
                    if child is not None:
                        look(child, around)
                    continue
                points = frozenset(id(m) for m in child.modules() if hasattr(m, "fwd_hooks"))
                if id(child) not in kept:
                    self._parts.append(Component(parent, name, child, points, around))
                look(original, around if id(child) in blocks else around | points)

        look(getattr(bridge, "original_model", torch.nn.Module()), frozenset())

    def is_bare(self, component: Any, names: Sequence[str]) -> bool:
        """Whether a component is left out where these hook points are wanted."""
        return any(part.component is component for part in self._out(names))

    @contextlib.contextmanager
    def bare(self, names: Sequence[str]) -> Iterator[None]:
        """Leave out all components but those that hold one of these hook points."""
        out = self._out(names)
        try:
            for part in out:
                part.parent._modules[part.name] = part.component.original_component
            yield
        finally:
            for part in out:
                part.parent._modules[part.name] = part.component

    def _out(self, names: Sequence[str]) -> list[Component]:
        """The components to leave out; found once for each choice of hook points."""
        key = tuple(names)
        if key not in self._found:
            self._found[key] = self._choose(key)
        return self._found[key]

    def _choose(self, names: tuple[str, ...]) -> list[Component]:
        points = self._bridge.hook_dict if names else {}
        wanted = {id(points[name]) for name in names}
        # What is computed on request is made by components that watch each other all over a block.
        asked = [name.split(".")[1] for name in names if gate_of(name) is not None and name.startswith("blocks.")]
        for layer in asked:
            wanted |= {id(m) for m in self._bridge.blocks[int(layer)].modules()}
        return [part for part in self._parts if not part.points & wanted and not part.around & wanted]

"""Hook points of a model, and the shapes of their activations."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch

from dreamy_lens.errors import HookNotFiredError
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.names import matches


@dataclass(frozen=True)
class HookPoint:
    """Hook point of a model.

    Attributes:
        name: Name of the hook point.
        shape: Shape of one prompt's activation, with "position" for axes that grow with the prompt, as in
            ``("position", 896)``; None if the hook point does not fire in a forward pass.
    """

    name: str
    shape: tuple[int | str, ...] | None

    def __str__(self) -> str:
        return f"{self.name}  {'never reached' if self.shape is None else '[' + ', '.join(map(str, self.shape)) + ']'}"


def hook_points(model: HookedModel, pattern: str = "") -> list[HookPoint]:
    """List the hook points whose name matches a pattern, with shapes, in the order of the forward pass.

    Hook points that are computed only on request follow the others; hook points that never fire come last.

    Args:
        model: Model whose hook points are listed.
        pattern: Words that all occur in the name, or a pattern with ``*``; an empty pattern lists all hook points.
    """
    names = [name for name in model.hook_names() if matches(name, pattern)]
    # Each kind of request gets a separate pass, because a request can silence other hook points.
    gates = {model.gate_of(name) for name in names} | {None}
    groups = [[n for n in names if model.gate_of(n) == gate] for gate in sorted(gates, key=lambda g: g or "")]
    shapes: list[dict[str, tuple[int, ...]]] = [{}, {}]
    for group in groups:
        for known, length in zip(shapes, (5, 6), strict=True):
            known |= {n: s for n, s in _shapes(model, group, length).items() if n not in known}
    points = []
    for name in shapes[1]:
        short, long = shapes[0][name], shapes[1][name]
        shape = tuple("position" if a != b else b for a, b in zip(short, long, strict=True))
        points.append(HookPoint(name, shape))
    return points + [HookPoint(name, None) for name in names if name not in shapes[1]]


@torch.no_grad()
def _shapes(model: HookedModel, names: list[str], length: int) -> dict[str, tuple[int, ...]]:
    """Return activation shapes without the batch axis, by hook point, in the order in which they fired."""
    shapes: dict[str, tuple[int, ...]] = {}

    def shape_reader(name: str) -> Any:
        def read(activation: Any, hook: Any = None) -> None:
            tensor = activation[0] if isinstance(activation, tuple) else activation
            if isinstance(tensor, torch.Tensor):
                shapes[name] = tuple(tensor.shape[1:])

        return read

    allowed = model.vocabulary.allowed.nonzero()[0][: length - 1].tolist()
    ids = torch.tensor([(model.bos(None) or allowed[:1]) + allowed[: length - 1]], device=model.device)
    with contextlib.suppress(HookNotFiredError):  # the architecture may not support the request
        model.observe(ids, {name: shape_reader(name) for name in names})
    return shapes

"""Which hook points a model has, and what an activation there looks like."""

from __future__ import annotations

import contextlib
import fnmatch
from dataclasses import dataclass
from typing import Any

import torch

from dreamy_lens.errors import HookNotFiredError
from dreamy_lens.models.hooked_model import HookedModel


@dataclass(frozen=True)
class HookPoint:
    """A hook point of a model.

    Attributes:
        name: by which it is asked for.
        shape: of one prompt's activation, with "position" for axes that grow with the prompt, as in
            ``("position", 896)``; None if a forward pass does not go through it.
    """

    name: str
    shape: tuple[int | str, ...] | None

    def __str__(self) -> str:
        return f"{self.name}  {'never reached' if self.shape is None else '[' + ', '.join(map(str, self.shape)) + ']'}"


def hook_points(model: HookedModel, pattern: str = "") -> list[HookPoint]:
    """The hook points whose name matches, with shapes, in the order of the forward pass.

    Those that are computed on request only come after the others, and those never reached come last.

    Args:
        model: to list.
        pattern: words that all occur in the name, or a pattern with ``*``; empty lists everything.
    """
    names = [name for name in model.hook_names() if matches(name, pattern)]
    # Those computed on request are asked for in passes of their own: a request changes what else is computed.
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


def matches(name: str, pattern: str) -> bool:
    """Whether a name has every word of a pattern, in any case; with ``*`` or ``?`` the whole name must fit."""
    name, pattern = name.lower(), pattern.lower().strip()
    if any(c in pattern for c in "*?"):
        return fnmatch.fnmatchcase(name, pattern)
    return all(word in name for word in pattern.split())


@torch.no_grad()
def _shapes(model: HookedModel, names: list[str], length: int) -> dict[str, tuple[int, ...]]:
    """Shapes without the batch, by name in the order in which they fired."""
    found: dict[str, tuple[int, ...]] = {}

    def look(name: str) -> Any:
        def read(activation: Any, hook: Any = None) -> None:
            tensor = activation[0] if isinstance(activation, tuple) else activation
            if isinstance(tensor, torch.Tensor):
                found[name] = tuple(tensor.shape[1:])

        return read

    allowed = model.vocabulary.allowed.nonzero()[0][: length - 1].tolist()
    ids = torch.tensor([(model.bos(None) or allowed[:1]) + allowed[: length - 1]], device=model.device)
    with contextlib.suppress(HookNotFiredError):  # of a request that the architecture has no way to grant
        model.observe(ids, {name: look(name) for name in names})
    return found

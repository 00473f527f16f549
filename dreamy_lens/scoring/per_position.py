"""Values of features at every position of a prompt, and helpers for the computation of many features at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from dreamy_lens.features import expressions as ex
from dreamy_lens.features.forward_pass import Readings
from dreamy_lens.features.shapes import Axes
from dreamy_lens.models.transfer import to_device

Many = Callable[[Readings], Tensor]
"""Function that returns values `[batch, F]`, or `[batch, positions, F]` if an axis of positions is left."""


class DeviceCache:
    """Copies of a tensor by device: a model may be moved, and its layers may be on several devices."""

    def __init__(self, tensor: Tensor) -> None:
        self._there = {torch.device("cpu"): tensor}

    def on(self, device: torch.device) -> Tensor:
        """Return the tensor on one device."""
        if device not in self._there:
            self._there[device] = to_device(self._there[torch.device("cpu")], device)
        return self._there[device]


def inner(fs: list[ex.Feature]) -> list[ex.Feature]:
    """Return the operands of features that are all of one kind."""
    return [f.of for f in fs]  # pyright: ignore[reportAttributeAccessIssue]


def units_last(axes: Axes) -> tuple[bool, Callable[[Tensor], Tensor]]:
    """Return whether positions are left, and a function `[batch, *axes] -> [batch, positions..., units]`."""
    at = [i + 1 for i, axis in enumerate(axes) if axis.name == "position"]
    rest = [i + 1 for i, axis in enumerate(axes) if axis.name != "position"]
    order = [0, *at, *rest]
    in_order = order == sorted(order)

    def flat(x: Tensor) -> Tensor:
        x = x if in_order else x.permute(order)
        return x.flatten(1 + len(at)) if rest else x[..., None]

    return bool(at), flat


def at_every_position(f: ex.Feature) -> ex.Feature | None:
    """Return the feature read at every position, or None if its value there is not the value of the prompt cut there.

    In a causal model the two agree if the feature reads the last position only, or if it takes the maximum or mean over
    all positions.
    """
    reduced = next((node for node in f.walk() if isinstance(node, ex.Reduced)), None)
    found = f.at_every_position(-1 if reduced is None else ex.Span())
    chain = list(itertools.takewhile(lambda n: isinstance(n, (ex.Scaled, ex.Clipped)), f.walk()))
    return found if reduced is None or f is reduced or reduced is list(f.walk())[len(chain)] else None


def running_values(f: ex.Feature, build: Callable[[list[ex.Feature]], Many], fs: list[ex.Feature]) -> Many:
    """Compile features read at every position to values there; reductions run from the prompt's first token."""
    match f:
        case ex.Scaled():
            of = running_values(f.of, build, inner(fs))
            return lambda r: of(r) * f.factor
        case ex.Clipped():
            of = running_values(f.of, build, inner(fs))
            return lambda r: of(r).clamp(f.low, f.high)
        case ex.Reduced():
            of = build(inner(fs))
            if f.how == "max":
                return lambda r: of(r).cummax(1).values
            return lambda r: (x := of(r)).cumsum(1) / torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
    return build(fs)

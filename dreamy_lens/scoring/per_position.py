"""From features at one position to their values at all of them, and what else computing many at once needs."""

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
"""Values `[batch, F]`, or `[batch, positions, F]` where positions are left."""


class DeviceCache:
    """A tensor on any device: models may be moved, and have layers on several devices."""

    def __init__(self, tensor: Tensor) -> None:
        self._there = {torch.device("cpu"): tensor}

    def on(self, device: torch.device) -> Tensor:
        """The tensor on one device."""
        if device not in self._there:
            self._there[device] = to_device(self._there[torch.device("cpu")], device)
        return self._there[device]


def inner(fs: list[ex.Feature]) -> list[ex.Feature]:
    """Operands of features that are all of one kind."""
    return [f.of for f in fs]  # pyright: ignore[reportAttributeAccessIssue]


def units_last(axes: Axes) -> tuple[bool, Callable[[Tensor], Tensor]]:
    """Whether positions are left, and what brings `[batch, *axes]` to `[batch, positions..., units of all kinds]`."""
    at = [i + 1 for i, axis in enumerate(axes) if axis.name == "position"]
    rest = [i + 1 for i, axis in enumerate(axes) if axis.name != "position"]
    order = [0, *at, *rest]
    in_order = order == sorted(order)

    def flat(x: Tensor) -> Tensor:
        x = x if in_order else x.permute(order)
        return x.flatten(1 + len(at)) if rest else x[..., None]

    return bool(at), flat


def at_every_position(f: ex.Feature) -> ex.Feature | None:
    """The same feature read at every position, if at position p it is what the prompt's first p tokens would give.

    So it is in a causal model where one position, the last, is read; or all of them, for a running maximum or mean.
    """
    reduced = next((node for node in f.walk() if isinstance(node, ex.Reduced)), None)
    found = f.at_every_position(-1 if reduced is None else ex.Span())
    chain = list(itertools.takewhile(lambda n: isinstance(n, (ex.Scaled, ex.Clipped)), f.walk()))
    return found if reduced is None or f is reduced or reduced is list(f.walk())[len(chain)] else None


def running_values(f: ex.Feature, build: Callable[[list[ex.Feature]], Many], fs: list[ex.Feature]) -> Many:
    """Values at every position from features read at all of them; reductions run from the prompt's first token."""
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

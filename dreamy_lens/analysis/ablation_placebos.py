"""Placebos of ablations: other components of the same kind, other units, and random directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from dreamy_lens.analysis.ablation_parts import Part, find_part
from dreamy_lens.analysis.feature_vectors import placebo_rows
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.results.upstream import ModelComponent

Placebo = tuple[Part, tuple[Tensor, ...] | None]
"""Part that is ablated as a placebo, with the vectors that are moved in place of its own; None are its own."""


def placebos_of(
    parts: Sequence[Part], model: HookedModel, bos: bool, taken: set[str], count: int, generator: np.random.Generator
) -> list[list[Placebo]]:
    """Return the placebos of each part, with some to spare for :func:`placebo_sets`.

    Args:
        parts: Parts that are ablated.
        model: Model with the parts.
        bos: Whether a BOS stands before every prompt.
        taken: Names of the parts, which are no placebos.
        count: Number of placebos of each ablation.
        generator: Source of the random choices.
    """
    found: list[list[Placebo]] = []
    for part in parts:
        if part.vector is not None:
            besides = [other.vector for other in parts if other.vector is not None and other is not part]
            found.append([(part, rows) for rows in placebo_rows(part.vector, count, generator, besides)])
            continue
        chosen = _components(part, model, taken, generator)[: count + len(parts)]
        found.append([(find_part(component, model, bos), None) for component in chosen])
    return found


def placebo_sets(choices: Sequence[Sequence[Placebo]], count: int) -> list[list[Placebo]]:
    """Return placebos of parts that are ablated together: one for each part, no two of a set the same.

    Args:
        choices: Placebos of each part, in the order in which they are taken.
        count: Largest number of sets; no two sets are the same.
    """

    def key(placebo: Placebo) -> Any:
        part, rows = placebo
        return part.name if rows is None else (part.hook, tuple(row.numpy().tobytes() for row in rows))

    sets: dict[frozenset[Any], list[Placebo]] = {}
    for k in range(min(map(len, choices))):
        some: list[Placebo] = []
        for i, listed in enumerate(choices):
            used = {key(each) for each in some}
            left = [each for each in (*listed[k:], *listed[:k]) if key(each) not in used]
            if i == len(choices) - 1:
                left = [each for each in left if frozenset({*used, key(each)}) not in sets]
            some += left[:1]
        if len(some) == len(choices) and len(sets) < count:
            sets[frozenset(map(key, some))] = some
    return list(sets.values())


def _components(
    part: Part, model: HookedModel, taken: set[str], generator: np.random.Generator
) -> list[ModelComponent]:
    """Return the placebos of a component: all other components of its kind, in random order.

    Args:
        part: Component that is ablated.
        model: Model with the part.
        taken: Names of the parts that are ablated, which are no placebos.
        generator: Source of the random choices.
    """
    component = part.component
    assert component is not None
    if component.layer is None:
        return []
    if component.kind == "head":
        heads, layers = range(part.axes[1].size or 0), range(model.n_layers)
        near = [(component.layer, h) for h in heads]
        far = [(layer, h) for layer in layers for h in heads if layer != component.layer]
        named = [[ModelComponent(f"L{layer}.H{h}", "head", layer, h) for layer, h in some] for some in (near, far)]
    else:
        suffix = "MLP" if component.kind == "mlp" else "attn"
        named = [[ModelComponent(f"L{i}.{suffix}", component.kind, i) for i in range(model.n_layers)]]
    chosen: list[ModelComponent] = []
    for some in named:  # heads of other layers come after those of the layer
        left = [c for c in some if c.name not in taken]
        chosen += [left[i] for i in generator.permutation(len(left))]
    return chosen

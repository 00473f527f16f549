"""Check a model's hook points before a feature is computed: whether they fire, and the axes of their activations.

Two short passes of different lengths show the axes: an axis that grows with the prompt is a position, and any other
axis is a unit or a head, for every architecture. Ranks and ranges are thus checked against the model's real
activations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dreamy_lens.errors import FeatureError, FeatureRangeError
from dreamy_lens.features import expressions as ex
from dreamy_lens.features.forward_pass import RowLayout
from dreamy_lens.features.verification import PROMPTS
from dreamy_lens.models.hook_meanings import check_meaning
from dreamy_lens.models.hooked_model import HookedModel

PROBE_LENGTH = 6
"""Number of tokens in the longer of the two probe prompts."""


class Axis(NamedTuple):
    """An axis of an activation, other than the batch axis.

    Attributes:
        name: "position", "unit" or "head", or a numbered name such as "axis 2" if the kind of axis is unknown.
        size: Length of the axis; None for positions, because their number depends on the prompt.
    """

    name: str
    size: int | None = None

    def __str__(self) -> str:
        return self.name


Axes = tuple[Axis, ...]


class ShapeProbe:
    """Axes of a model's activations at the hook points that a feature reads.

    Args:
        model: Model to examine.
        feature: Feature expression that reads the model.
        prepend_bos: True if a BOS precedes each prompt; None selects the model's convention.

    Attributes:
        bos: Token ids before every prompt.
        hooks: Hook points that the feature names, each once.
        axes: Axes of the activation at each hook point.
        layout: Layout of rows that are long enough for every position that the feature names.

    Raises:
        UnknownHookError: The model has no hook point of a name that the feature reads.
        HookNotFiredError: A forward pass does not compute the activation at a hook point.
        HookMeaningError: A hook point does not hold what its name says, such as neurons.
        FeatureRangeError: An activation does not depend on the prompts, an index has more elements than the activation
            has axes, or a position is beyond the model's context.
    """

    def __init__(self, model: HookedModel, feature: ex.Feature, prepend_bos: bool | None) -> None:
        self.model = model
        self.bos = model.bos(prepend_bos)
        self._saes: dict[Any, Any] = {}
        self.hooks = list(dict.fromkeys(name for node in feature.walk() for name in self._named_by(node)))
        for name in self.hooks:
            model.check_hook(name)
        before = len(self.bos)
        long, short = (self._shapes(RowLayout(before, 0, PROBE_LENGTH - less, 0)) for less in (0, 1))
        self.axes = {name: self._describe(name, long[name], short[name]) for name in self.hooks}
        for name in self.hooks:
            check_meaning(model, name)

        needed = max((_reach(e) for node in feature.walk() for e in self._positions(node)), default=0)
        if model.n_ctx is not None and needed + before > model.n_ctx:
            raise FeatureRangeError(
                f"{feature.long_label} reads a position that only prompts of {needed} tokens have, and {model.name}'s "
                "context is "
                f"{model.n_ctx}{' with the BOS' if before else ''}; use a position nearer to the start or the end."
            )
        self.layout = RowLayout(before, 0, max(needed, PROBE_LENGTH), 0)

    def row(self, layout: RowLayout, model: HookedModel) -> Tensor:
        """Return the ids of two equal prompts of arbitrary allowed tokens, as `model` reads them, `[2, total]`."""
        allowed = model.vocabulary.allowed.nonzero()[0]
        tokens = [*model.bos(bool(self.bos)), *(int(allowed[i % len(allowed)]) for i in range(layout.length))]
        return torch.tensor([tokens, tokens], device=model.device)

    def rows(self, layout: RowLayout, model: HookedModel) -> Tensor:
        """Return the ids of three different prompts of allowed tokens, as `model` reads them, `[3, total]`."""
        allowed, before = model.vocabulary.allowed.nonzero()[0], model.bos(bool(self.bos))
        prompts = [[allowed[(i + k * (7 + i)) % len(allowed)] for i in range(layout.length)] for k in range(PROMPTS)]
        return torch.tensor([[*before, *map(int, tokens)] for tokens in prompts], device=model.device)

    def sae(self, node: ex.Latent) -> Any:
        """Return the autoencoder of a latent, made to keep the conditions of its training on this model.

        Raises:
            SAEError: It cannot be read, has weights that are no finite numbers, or does not fit the model.
        """
        from dreamy_lens.features.sae.fit import fitted, placed
        from dreamy_lens.features.sae.loading import load_sae

        key = node.sae if isinstance(node.sae, str) else id(node.sae), node.hook, node.ignore
        if key not in self._saes:
            sae = placed(load_sae(node.sae, node.hook, ignore=node.ignore), self.model)
            sae.check_weights()
            self.model.check_hook(sae.hook_name)
            layout = RowLayout(len(self.bos), 0, PROBE_LENGTH, 0)
            self._saes[key] = fitted(sae, self.model, bool(self.bos), lambda: self.row(layout, self.model))
        return self._saes[key]

    def spread(self, f: ex.Hook) -> list[ex.Element]:
        """Return one index element for each axis, with `...` and missing elements replaced by full spans."""
        index, axes = f.index or (), self.axes[f.name]
        if index.count(Ellipsis) > 1:
            raise FeatureError(f"{f.long_label}: '...' can stand only once in an index of {listed(axes)}.")
        given = [e for e in index if e is not Ellipsis]
        if len(given) > len(axes):
            raise FeatureRangeError(
                f"{f.long_label} has {len(given)} indices, and an activation there has {len(axes)}: {listed(axes)}, "
                "without the batch."
            )
        return f.elements(len(axes))

    def _named_by(self, node: ex.Feature) -> tuple[str, ...]:
        """Return the hook points that a node reads; an autoencoder stores the hook point of its training."""
        return (self.sae(node).hook_name,) if isinstance(node, ex.Latent) else node.named_hooks()

    def _positions(self, node: ex.Feature) -> tuple[ex.Element, ...]:
        """Return the positions that a node reads; a hook point's axes show which elements of an index are positions."""
        if isinstance(node, ex.Hook):
            pairs = zip(self.axes[node.name], self.spread(node), strict=True)
            return tuple(element for axis, element in pairs if axis.name == "position")
        return node.named_positions()

    @torch.no_grad()
    def _shapes(self, layout: RowLayout) -> dict[str, list[int]]:
        activations, _ = self.model.run(self.row(layout, self.model), self.hooks, logits=False)
        return {name: list(activations[name].shape) for name in self.hooks}

    def _describe(self, name: str, long: list[int], short: list[int]) -> Axes:
        if len(long) < 2 or long[0] != 2:
            raise FeatureRangeError(
                f"{self.model.name} computes {name!r} with shape {long} for two prompts: it has no axis for the "
                "prompts, so it does not depend on them. Choose a hook point that does; `dreamy-lens hooks` lists them."
            )
        moving = [a != b for a, b in zip(long[1:], short[1:], strict=True)]
        units = [i for i, moves in enumerate(moving) if not moves]
        names = {units[-1]: "unit"} if units else {}
        if len(units) == 2 or (len(units) == 1 and moving[1:] and all(moving[1:])):
            names[units[0]] = "head"  # [position, head, unit], or [head, query, key]
        return tuple(
            Axis("position") if moves else Axis(names.get(i, f"axis {i}"), long[i + 1])
            for i, moves in enumerate(moving)
        )


def listed(axes: Axes) -> str:
    """Return the text of axes for messages: `[position, unit]`."""
    return f"[{', '.join(map(str, axes))}]"


def _reach(element: ex.Element) -> int:
    """Return the number of positions that a prompt needs for this position to exist or this span to be non-empty."""
    if isinstance(element, ex.Span):
        return max(element.start or 0, 0) + max(-(element.stop or 0), 0) + 1
    if not isinstance(element, int):
        return 0
    return element + 1 if element >= 0 else -element

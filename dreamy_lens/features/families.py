"""Many features written as one: every unit of a hook point, every layer, every token of a list.

An expression that leaves axes of units or heads stands for one feature for each entry: ``hook(name)[-1]`` for every
neuron of a layer, ``hook(name)[..., :].max()`` for each one's maximum over the prompt. A `*` in a hook point's name
stands for every name of the model that matches: ``hook("blocks.*.mlp.hook_post")[-1]`` is every neuron there is. Which
units there are is the model's affair, so families are spread out when they are bound to one.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dreamy_lens.errors import FeatureError, FeatureRangeError, UnknownHookError
from dreamy_lens.features import expressions as ex
from dreamy_lens.features.constructors import hook
from dreamy_lens.features.parser import parse
from dreamy_lens.features.shapes import Axes, ShapeProbe
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.names import nearest

_NEURONS = re.compile(r'"(?:[^"\\]|\\.)*"|(?<![\w.])[lL](\d+|\*)\.?[nN](\d+|\*)(?!\w)')
_WILD_NAME = re.compile(r"(?<![\w.])[A-Za-z_][\w.]*\*[\w.*]*")


def neurons(layer: int | None = None, position: int = -1) -> ex.Feature:
    """Return every MLP neuron of one layer, or of the model, each as a separate feature.

    Args:
        layer: Index of the layer, from 0. None stands for all layers.
        position: Position at which the neurons are read. Default: the last token.

    >>> neurons(2)
    Feature(blocks.2.mlp.hook_post[-1])
    """
    name = "*" if layer is None else ex.integer(layer, "neurons")
    return hook(f"blocks.{name}.mlp.hook_post")[position]


@dataclass(frozen=True)
class Family:
    """Features that one expression stands for.

    Attributes:
        expression: Expression that stands for the features.
        axes: Axes of units or heads that the expression leaves; empty if it is a single feature.
        hooks: Axes of every hook point that the expression names.
    """

    expression: ex.Feature
    axes: Axes
    hooks: dict[str, Axes] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return math.prod(axis.size or 0 for axis in self.axes)

    def member(self, i: int) -> ex.Feature:
        """The feature of entry i, entries counted as the axes come, the last one fastest."""
        if not self.axes:
            return self.expression
        places = []
        for axis in reversed(self.axes):
            size = axis.size or 1
            places.append(i % size)
            i //= size
        return _picked(self.expression, tuple(reversed(places)), self.hooks)

    def __iter__(self) -> Iterator[ex.Feature]:
        return (self.member(i) for i in range(len(self)))


def expressions(features: Any, model: HookedModel) -> list[ex.Feature]:
    """Return the given features as a flat list, without wildcards and without duplicates.

    Args:
        features: Expression, its text, or any nesting of lists of these.
        model: Model whose hook points a `*` matches.

    Raises:
        FeatureError: No feature is given.
        UnknownHookError: A pattern matches no hook point.
    """
    expressions = [one for given in _flat(features) for one in _spread(given, model)]
    if not expressions:
        raise FeatureError("There is no feature: give an expression, its text, or a list of these.")
    return list(dict.fromkeys(expressions))


def _flat(features: Any) -> Iterator[Any]:
    if isinstance(features, (str, ex.Feature)):
        yield features
    elif isinstance(features, Iterable):
        for inner in features:
            yield from _flat(inner)
    else:
        raise FeatureError(
            f"Features are expressions, their texts, or lists of these; got {features!r} ({type(features).__name__})."
        )


def _spread(given: str | ex.Feature, model: HookedModel) -> list[ex.Feature]:
    if isinstance(given, str):
        text = _NEURONS.sub(_in_full, given)
        wild = None if '"' in text else _WILD_NAME.search(text.replace(" * ", " "))
        if wild is None or "." not in wild[0]:
            return [parse(text)]
        return [parse(text.replace(wild[0], name)) for name in _matching(wild[0], model)]
    names = list(dict.fromkeys(f.name for f in given.walk() if isinstance(f, ex.Hook) and "*" in f.name))
    if not names:
        return [given]
    if len(names) > 1:
        raise FeatureError(f"{given.label} has two patterns, {names[0]} and {names[1]}; write one with a * at a time.")
    return [_renamed(given, names[0], name) for name in _matching(names[0], model)]


def _in_full(short: re.Match[str]) -> str:
    """What "L2.N*", "L*.N3" and "L*.N*" stand for; one neuron, or text in quotes, stays as it is."""
    layer, unit = short[1], short[2]
    if layer is None or "*" not in (layer, unit):
        return short[0]
    return f"blocks.{layer}.mlp.hook_post[-1{'' if unit == '*' else f', {unit}'}]"


def _matching(pattern: str, model: HookedModel) -> list[str]:
    # A star is one part of the name, as in a path, so that blocks.*.hook_out is not blocks.0.attn.q.hook_out.
    rule = re.compile("[^.]*".join(map(re.escape, pattern.split("*"))))
    known = [name for name in model.hook_names() if rule.fullmatch(name)]
    if not known:
        near = ", ".join(nearest(pattern.replace("*", "0"), model.hook_names()))
        raise UnknownHookError(f"{model.name} has no hook point that matches {pattern!r}; nearest: {near}.")
    return known


def _renamed(feature: ex.Feature, old: str, new: str) -> ex.Feature:
    return feature.transform(lambda f: ex.Hook(new, f.index) if isinstance(f, ex.Hook) and f.name == old else None)


def _picked(feature: ex.Feature, places: Sequence[int], hooks: dict[str, Axes]) -> ex.Feature:
    """A family's expression with its units and heads picked, wherever a hook point of it leaves them."""

    def pick(f: ex.Feature) -> ex.Feature | None:
        if not isinstance(f, ex.Hook):
            return None
        elements = f.elements(len(hooks[f.name]))
        left = iter(places)
        for i, (axis, element) in enumerate(zip(hooks[f.name], elements, strict=True)):
            if axis.name != "position" and isinstance(element, ex.Span):
                elements[i] = range(axis.size or 0)[element.slice()][next(left)]
        return ex.Hook(f.name, tuple(elements))

    def walk(f: ex.Feature) -> ex.Feature | None:
        # What projects, standardises or takes a norm has used up the units below it.
        if isinstance(f, (ex.Projected, ex.Cosine, ex.Norm)):
            return f
        return pick(f)

    return feature.transform(walk)


def family(expression: ex.Feature, axes: Axes, probe: ShapeProbe) -> Family:
    """The family that an expression is, given what it leaves of its activations.

    Raises:
        FeatureRangeError: it leaves positions, or its entries have no expression of their own.
    """
    label = expression.label
    if any(axis.name == "position" for axis in axes):
        raise FeatureRangeError(
            f"{label} leaves positions: take one, as in [-1, ...], or reduce them with .max() or .mean()."
        )
    if axes and any(isinstance(f, ex.Standardised) for f in expression.walk()):
        raise FeatureRangeError(
            f"{label} leaves one number for every unit after standardised(), and such a number has no name of its own; "
            "project on directions with @, or leave standardised() out."
        )
    return Family(expression, axes, dict(probe.axes))

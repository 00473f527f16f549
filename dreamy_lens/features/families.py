"""Families of features written as one expression: all units of a hook point, all layers, all tokens of a list.

An expression that keeps axes of units or heads stands for one feature per entry: ``hook(name)[-1]`` for every
neuron of a layer, ``hook(name)[..., :].max()`` for the maximum of each over the prompt. A `*` in a hook point's name
stands for every name of the model that matches: ``hook("blocks.*.mlp.hook_post")[-1]`` is every MLP neuron of the
model. The text ``sae_latent("folder", *)`` is every latent of a dictionary. The model determines the units, so a family
is expanded when it is bound to a model.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dreamy_lens.errors import FeatureError, FeatureRangeError, UnknownHookError, quoted
from dreamy_lens.features import expressions as ex
from dreamy_lens.features.constructors import hook
from dreamy_lens.features.lexer import LATENTS, NEURONS, WILD_NAME
from dreamy_lens.features.parser import parse
from dreamy_lens.features.shapes import Axes, ShapeProbe
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.names import nearest

_ONE_PATTERN = "write one with a * at a time"


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
    """Set of features that one expression stands for.

    Attributes:
        expression: Expression that stands for the features.
        axes: Axes of units or heads that the expression keeps; empty if it is a single feature.
        hooks: Axes of every hook point that the expression names.
    """

    expression: ex.Feature
    axes: Axes
    hooks: dict[str, Axes] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return math.prod(axis.size or 0 for axis in self.axes)

    def member(self, i: int) -> ex.Feature:
        """Return the feature of entry i. Entries are counted in the order of the axes, the last axis fastest."""
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
            f"Features are expressions, their texts, or lists of these; got {quoted(features)} "
            f"({type(features).__name__})."
        )


def _spread(given: str | ex.Feature, model: HookedModel) -> list[ex.Feature]:
    if isinstance(given, str) and (latents := LATENTS.search(given)) is not None:
        return _latents(given, latents)
    if isinstance(given, str):
        text = NEURONS.sub(_in_full, given)
        wild = None if '"' in text else WILD_NAME.search(text.replace(" * ", " "))
        if wild is None or "." not in wild[0]:
            return [parse(text)]
        other = WILD_NAME.search(text.replace(" * ", " ").replace(wild[0], ""))
        if other is not None and "." in other[0]:
            raise FeatureError(f"{quoted(given)} has two patterns, {wild[0]} and {other[0]}; {_ONE_PATTERN}.")
        try:
            names = _matching(wild[0], model)
        except UnknownHookError:
            if (product := _without_pattern(given)) is not None:
                return [product]
            raise
        return [parse(text.replace(wild[0], name)) for name in names]
    names = list(dict.fromkeys(f.name for f in given.walk() if isinstance(f, ex.Hook) and "*" in f.name))
    if not names:
        return [given]
    if len(names) > 1:
        raise FeatureError(f"{given.long_label} has two patterns, {names[0]} and {names[1]}; {_ONE_PATTERN}.")
    return [_renamed(given, names[0], name) for name in _matching(names[0], model)]


def _without_pattern(text: str) -> ex.Feature | None:
    """Return the feature of a text whose stars, if any, are all products, as in "L2.N812*L3.N40"; None for others."""
    try:
        feature = parse(text)
    except FeatureError:
        return None
    return None if any(isinstance(f, ex.Hook) and "*" in f.name for f in feature.walk()) else feature


def _latents(text: str, star: re.Match[str]) -> list[ex.Feature]:
    """Return the features of a text with `sae_latent("source", *)`: one for each latent of the dictionary."""
    from dreamy_lens.features.sae.loading import load_sae

    first = parse(f"{text[: star.end() - 1]}0{text[star.end() :]}")
    found = [node for node in first.walk() if isinstance(node, ex.Latent)]
    if len(found) > 1:
        raise FeatureError(f"{quoted(text, 300)} has several latents beside a pattern; {_ONE_PATTERN}.")
    (node,) = found
    count = load_sae(node.sae, node.hook, ignore=node.ignore).d_sae
    if count is None:
        raise FeatureError(f"{quoted(text, 300)}: how many latents there are is not known; list them.")

    def numbered(i: int) -> ex.Feature:
        latent = dataclasses.replace(node, latent=i)
        return latent if first is node else first.transform(lambda f: latent if f is node else None)

    return [numbered(i) for i in range(count)]


def _in_full(short: re.Match[str]) -> str:
    """Return the full form of "L2.N*", "L*.N3" or "L*.N*". A single neuron and text in quotes stay unchanged."""
    layer, unit = short[1], short[2]
    if layer is None or "*" not in (layer, unit):
        return short[0]
    return f"blocks.{layer}.mlp.hook_post[-1{'' if unit == '*' else f', {unit}'}]"


def _matching(pattern: str, model: HookedModel) -> list[str]:
    # A star matches within one part of the name, as in a path: blocks.*.hook_out excludes blocks.0.attn.q.hook_out.
    rule = re.compile("[^.]*".join(map(re.escape, pattern.split("*"))))
    known = [name for name in model.hook_names() if rule.fullmatch(name)]
    if not known:
        near = ", ".join(nearest(pattern.replace("*", "0"), model.hook_names()))
        advice = f"nearest: {near}" if near else "see `dreamy-lens hooks`"
        raise UnknownHookError(f"{model.name} has no hook point that matches {quoted(pattern)}; {advice}.")
    return known


def _renamed(feature: ex.Feature, old: str, new: str) -> ex.Feature:
    return feature.transform(lambda f: ex.Hook(new, f.index) if isinstance(f, ex.Hook) and f.name == old else None)


def _picked(feature: ex.Feature, places: Sequence[int], hooks: dict[str, Axes]) -> ex.Feature:
    """Return the expression of a family with units and heads picked in every hook point that keeps those axes."""

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
        # A projection, a cosine and a norm have already reduced the units of their operand.
        if isinstance(f, (ex.Projected, ex.Cosine, ex.Norm)):
            return f
        return pick(f)

    return feature.transform(walk)


def family(expression: ex.Feature, axes: Axes, probe: ShapeProbe) -> Family:
    """Return the family of an expression, given the axes that the expression keeps.

    Raises:
        FeatureRangeError: The expression keeps positions, or its entries have no expression of their own.
    """
    label = expression.long_label
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

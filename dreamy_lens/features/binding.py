"""Bind a feature to a model: check that the feature fits before a search starts, and make it computable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamy_lens.errors import FeatureError, FeatureRangeError
from dreamy_lens.features import expressions as ex
from dreamy_lens.features.compile import Compiler, Compute, left_over
from dreamy_lens.features.forward_pass import (
    ActivationSource,
    ForwardPass,
    Readings,
    RowLayout,
    check_position,
    check_training,
    place_of,
)
from dreamy_lens.features.parser import parse
from dreamy_lens.features.sae.conditions import Conditions
from dreamy_lens.features.shapes import Axes, ShapeProbe
from dreamy_lens.features.verification import PROMPTS, checked_values, verify_function
from dreamy_lens.models.causality import is_causal
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.load import as_hooked

MASKED = -1e30
"""Threshold below which a value comes from an attention mask. Architectures write its minus infinity differently."""


@dataclass(frozen=True)
class _Attention:
    """Attention of one head from one token, the query, to another, the key."""

    label: str
    head: Any
    query: int | str
    key: int | str

    @property
    def is_known(self) -> bool:
        """Whether rows of every length have the query and the key in the same order."""
        signs = {place < 0 for place in (self.query, self.key) if isinstance(place, int)}
        return len(signs) < 2

    def check(self, model: HookedModel, layout: RowLayout) -> None:
        """Raise FeatureRangeError if the key comes after the query, and the model sees no later tokens."""
        query, key = place_of(self.query, layout), place_of(self.key, layout)
        if query is None or key is None or key <= query or not is_causal(model):
            return
        value = "minus infinity" if self.label.partition("[")[0].endswith("scores") else "0"
        order = "" if self.query == ex.BOS else f": write [{self.head}, {self.key}, {self.query}]"
        raise FeatureRangeError(
            f"{self.label} is {value} for every prompt here: a token attends only to itself and to earlier tokens, and "
            f"position {self.key} comes after position {self.query}. The order is head, query, key{order}."
        )


def _attentions(feature: ex.Feature, probe: ShapeProbe) -> Iterator[_Attention]:
    """Yield every attention from one token to another that a feature reads."""
    for node in feature.walk():
        if isinstance(node, ex.Hook) and node.name.endswith((".attn.hook_pattern", ".attn.hook_attn_scores")):
            axes, elements = probe.axes[node.name], probe.spread(node)
            if [axis.name for axis in axes][1:] == ["position", "position"]:
                head, query, key = elements
                if all(isinstance(place, int) or place == ex.BOS for place in (query, key)):
                    yield _Attention(node.long_label, head, query, key)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class BoundFeature:
    """Feature that was checked against a model and can be computed. Created by :func:`bind`.

    Attributes:
        feature: Expression of the feature.
        model: Model that the feature is bound to.
        hooks: Hook points that the feature reads, by model. Besides `model`, these are the models whose cross-entropy
            the feature uses, and those that parts of it are read from (`feature.on(model)`).
        logits: Models whose logits the feature reads. Forward passes of all other models end at the last hook point.
    """

    feature: ex.Feature
    model: HookedModel
    hooks: dict[HookedModel, tuple[str, ...]]
    logits: frozenset[HookedModel]
    _compute: Compute = field(repr=False)
    _positions: tuple[tuple[ex.Element, str], ...] = field(default=(), repr=False)
    _conditions: tuple[tuple[Conditions, ex.Element], ...] = field(default=(), repr=False)
    _attentions: tuple[_Attention, ...] = field(default=(), repr=False)

    @property
    def models(self) -> tuple[HookedModel, ...]:
        """Every model that the feature reads."""
        return tuple(self.hooks)

    @property
    def runs_user_code(self) -> bool:
        """Whether a function or an object of the user's computes a part of the value."""
        return runs_user_code(self.feature)

    def check_layout(self, layout: RowLayout) -> None:
        """Raise FeatureRangeError if the feature names a position that rows of this layout do not have.

        It also raises if an attention that the feature reads is from a token to a later one.
        """
        for element, what in self._positions:
            check_position(element, layout, what)
        for attention in self._attentions:
            attention.check(self.model, layout)
        check_training(self._conditions, layout)

    def __call__(self, readings: Readings) -> Tensor:
        """Return the value of each prompt, float32 `[batch]`, from the forward passes over a batch."""
        return self._compute(readings).float()


def runs_user_code(feature: ex.Feature) -> bool:
    """Return whether a function or an object of the user's computes a part of a feature's value."""
    return any(
        isinstance(node, ex.Custom)
        or (isinstance(node, ex.Latent) and not isinstance(node.sae, (str, Path)))
        or (isinstance(node, ex.OnModel) and runs_user_code(node.of))
        for node in feature.walk()
    )


def bind(
    feature: Any, model: Any = None, *, prepend_bos: bool | None = None, length: int | None = None
) -> BoundFeature:
    """Bind a feature to a model, after checking that the feature fits it.

    Args:
        feature: Feature as an expression or as text.
        model: TransformerBridge, Hugging Face id or model folder. None stands for the embedded model.
        prepend_bos: True if a BOS precedes every prompt, False if not. None follows the model's convention.
        length: Number of tokens of the prompts, without the BOS. If given, positions are checked against it.

    Returns:
        The bound feature, which :class:`~dreamy_lens.scoring.scorer.Scorer` evaluates.

    Raises:
        UnknownHookError: The model has no such hook point. The message lists the nearest names.
        FeatureRangeError: An index or the width of a direction does not fit, or the feature is not one number for each
            prompt.
        TokenError: A target token is not exactly one token of the model.
        HookNotFiredError: The hook point exists, but the forward pass does not go through it.

    >>> import dreamy_lens as dl
    >>> dl.features.bind("L2.N17").hooks.popitem()[1]
    ('blocks.2.mlp.hook_post',)
    >>> dl.features.bind("L2.N1017")
    Traceback (most recent call last):
    dreamy_lens.errors.FeatureRangeError: blocks.2.mlp.hook_post[-1, 1017]: there is no unit 1017;
    embedded has 896 units there, 0 to 895.
    """
    hooked = as_hooked(model)
    expression = parse(feature)
    if not any(node.is_leaf for node in expression.walk()):
        raise FeatureError(
            f"{expression.long_label} is a constant: it reads nothing from the model. Name a hook point or a logit."
        )
    bound, compiler = _compiled(expression, hooked, prepend_bos)
    if length is not None:
        bound.check_layout(RowLayout(len(compiler.probe.bos), 0, length, 0))
    _try_out(bound, compiler)
    return bound


def bind_derived(feature: ex.Feature, model: HookedModel, prepend_bos: bool | None) -> BoundFeature:
    """Bind a feature that was derived from a bound one; it is not evaluated.

    Args:
        feature: Derived feature, such as one with numbers that belong to the rows of one batch.
        model: Model that the first feature is bound to.
        prepend_bos: True if a BOS precedes every prompt, False if not. None follows the model's convention.

    Raises:
        FeatureError: The derived feature does not fit the model, or is not one number for each prompt.
    """
    return _compiled(feature, model, prepend_bos)[0]


def _compiled(expression: ex.Feature, hooked: HookedModel, prepend_bos: bool | None) -> tuple[BoundFeature, Compiler]:
    """Return a feature as a function of forward passes, with its compiler."""
    probe = ShapeProbe(hooked, expression, prepend_bos)
    compiler = Compiler(probe)
    axes, compute = compiler.build(expression)
    if axes:
        raise FeatureRangeError(_leaves_axes(expression, axes, probe))
    bound = BoundFeature(
        expression,
        hooked,
        {m: tuple(names) for m, names in compiler.hooks.items()},
        frozenset(compiler.logits),
        compute,
        tuple(compiler.positions),
        tuple(compiler.conditions),
        tuple(a for f, c in [(expression, compiler), *compiler.others] for a in _attentions(f, c.probe)),
    )
    for attention in bound._attentions:
        if attention.is_known:
            attention.check(hooked, probe.layout)
    return bound, compiler


@torch.no_grad()
def _try_out(bound: BoundFeature, compiler: Compiler) -> None:
    """Evaluate the feature on a few prompts, to check what functions of users return before a search starts."""
    readings: dict[HookedModel, ActivationSource] = {}
    layout = compiler.probe.layout
    for model, names in bound.hooks.items():
        rows = compiler.probe.rows(layout, model)
        ids = torch.cat([rows, torch.tensor([model.tail] * len(rows), dtype=rows.dtype, device=rows.device)], dim=1)
        activations, logits = model.run(ids, names, logits=model in bound.logits)
        readings[model] = ForwardPass(activations, logits, ids, layout.followed_by(len(model.tail)))
    # Functions of users are tried alone first, so that an error names the function that failed.
    for feature, own in [(bound.feature, compiler), *compiler.others]:
        for node in feature.walk():
            _verify(node, own, readings[own.model].activations)
    value = bound(readings)
    if all(not isinstance(node, ex.Custom) for node in bound.feature.walk()) and bool((value < MASKED).all()):
        raise FeatureRangeError(
            f"{bound.feature.long_label} is {float(value[0]):.3g} for every prompt: it reads attention scores that are "
            "masked, because a token attends only to itself and to earlier tokens. Name a key that is not after the "
            "query, as in hook_attn_scores[0, -1, 2], or use hook_pattern, where masked entries are 0."
        )


def _verify(node: ex.Feature, compiler: Compiler, activations: Mapping[str, Tensor]) -> None:
    """Try the function that a user supplied for a node on the activations of several prompts; others are not tried."""
    if isinstance(node, ex.Custom):
        own = {name: activations[name] for name in node.hooks}
        values = verify_function(node.function, own, f"The function of {node.long_label}")
        checked_values(values, PROMPTS, node.long_label)
    elif isinstance(node, ex.Latent) and (sae := compiler.probe.sae(node)).wrapped is not None:
        own = {sae.hook_name: activations[sae.hook_name]}
        verify_function(lambda given: sae.encode(given[sae.hook_name]), own, f"encode() of {sae}")


def _leaves_axes(feature: ex.Feature, axes: Axes, probe: ShapeProbe) -> str:
    advice = []
    for name in dict.fromkeys(axis.name for axis in axes):
        if name == "position":
            advice.append("take one position, as in [-1, ...], or reduce them with .max() or .mean()")
        else:
            advice.append(f"pick one {name}{', or project on a direction with @' if name == 'unit' else ''}")
    example = ""
    if isinstance(feature, ex.Hook) and feature.index is None:
        picks = ["-1" if axis.name == "position" else "0" for axis in probe.axes[feature.name]]
        example = f", for example {feature.long_label}[{', '.join(picks)}]"
    left = f"{feature.long_label} leaves {left_over(axes)}"
    return f"A feature is one number for each prompt, and {left}: {'; '.join(advice)}{example}."

"""Compilation of an expression to a function of forward passes.

Every kind of node has a *rule*: a function of the compiler and the node that returns the axes that the node leaves and
the computation of its values. A new kind of node registers its rule with :func:`compiles`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from dreamy_lens.errors import FeatureError, FeatureRangeError, TokenError, shorten
from dreamy_lens.features import expressions as ex
from dreamy_lens.features.forward_pass import Readings, check_position, pick
from dreamy_lens.features.lexer import quote
from dreamy_lens.features.sae.conditions import Conditions
from dreamy_lens.features.shapes import Axes, Axis, ShapeProbe, listed
from dreamy_lens.features.verification import checked_values
from dreamy_lens.models.causality import check_causal, is_causal
from dreamy_lens.models.experts import Experts
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.load import as_hooked
from dreamy_lens.models.transfer import to_device

Compute = Callable[[Readings], Tensor]
"""Function that computes `[batch, *axes]` from the forward passes over a batch."""

Rule = Callable[["Compiler", Any], "tuple[Axes, Compute]"]
"""Function that returns the axes that a node leaves, and the computation of its values `[batch, *axes]`."""

R = TypeVar("R", bound=Rule)

_RULES: dict[type[ex.Feature], Rule] = {}


def compiles(*kinds: type[ex.Feature]) -> Callable[[R], R]:
    """Register a function as the rule of these kinds of nodes and of their subclasses."""

    def register(rule: R) -> R:
        _RULES.update(dict.fromkeys(kinds, rule))
        return rule

    return register


class Units(NamedTuple):
    """Compiled node that leaves exactly one axis of units.

    Attributes:
        axes: Axes that the node leaves.
        compute: Function that computes `[batch, *axes]`.
        dim: Dimension of the units in the computed tensor.
    """

    axes: Axes
    compute: Compute
    dim: int


class Compiler:
    """Compiler of expressions for the model of a probe.

    Args:
        probe: Axes of the model's activations at every hook point that the feature reads.

    Attributes:
        hooks: Hook points to read, by model.
        logits: Models whose logits are read.
        positions: Every position that the feature names, with the label of the part that names it.
        conditions: Conditions of every autoencoder that the feature reads, with the position that it reads.
        others: Features of other models inside the feature, with their compilers.
    """

    def __init__(self, probe: ShapeProbe) -> None:
        self.probe = probe
        self.model = probe.model
        self.hooks: dict[HookedModel, list[str]] = {probe.model: probe.hooks}
        self.logits: set[HookedModel] = set()
        self.positions: list[tuple[ex.Element, str]] = []
        self.conditions: list[tuple[Conditions, ex.Element]] = []
        self.others: list[tuple[ex.Feature, Compiler]] = []

    def build(self, f: ex.Feature) -> tuple[Axes, Compute]:
        """Return the axes that a feature leaves, and the computation of its values `[batch, *axes]`.

        Raises:
            FeatureError: The feature does not fit the model (often as a subclass, such as FeatureRangeError).
        """
        rule = next((_RULES[kind] for kind in type(f).__mro__ if kind in _RULES), None)
        if rule is None:
            raise FeatureError(
                f"{type(f).__name__} has no function that computes it, so it cannot be bound; register one with "
                "@compiles."
            )
        return rule(self, f)

    def at(self, element: ex.Element, label: str) -> Axes:
        """Record and check a position, and return the axis that it leaves, if any."""
        self.positions.append((element, label))
        check_position(element, self.probe.layout, label)
        return (Axis("position"),) if isinstance(element, ex.Span) else ()

    def units(self, f: Any, what: str) -> Units:
        """Compile the operand of a function over units.

        Args:
            f: Node of the function.
            what: Text form of the function, for error messages.

        Raises:
            FeatureRangeError: The operand does not leave exactly one axis of units.
        """
        axes, compute = self.build(f.of)
        names = [axis.name for axis in axes]
        if names.count("unit") != 1 or set(names) - {"unit", "position"}:
            left = left_over(axes) or "a single number"
            raise FeatureRangeError(
                f"{f.long_label}: {what} is taken over one axis of units, and {f.of.long_label} leaves {left}. "
                "Pick or keep axes of a hook point until one of units is left, as in hook(name)[-1]."
            )
        return Units(axes, compute, names.index("unit") + 1)


# Leaves.


@compiles(ex.Hook)
def _hook(compiler: Compiler, f: ex.Hook) -> tuple[Axes, Compute]:
    name, model, label = f.name, compiler.model, f.long_label
    axes, elements = compiler.probe.axes[name], compiler.probe.spread(f)
    left: list[Axis] = []
    for axis, element in zip(axes, elements, strict=True):
        if axis.name == "position":
            compiler.at(element, label)
        else:
            _check_unit(axis, element, label, model)
        if isinstance(element, ex.Span):
            left.append(Axis(axis.name, None if axis.size is None else len(range(axis.size)[element.slice()])))

    def compute(r: Readings) -> Tensor:
        rest, dim = list(zip(axes, elements, strict=True)), 1
        if rest and rest[0][0].name == "position":
            element = rest.pop(0)[1]
            out = r[model].picked(name, element, label)
            dim += isinstance(element, ex.Span)
        else:
            out = r[model].activations[name]
        for axis, element in rest:
            if axis.name == "position":
                out = pick(out, dim, element, r[model].layout, label)
            elif isinstance(element, int):
                out = out.select(dim, element)
            elif element != ex.Span():
                out = out[(slice(None),) * dim + (element.slice(),)]
            dim += isinstance(element, ex.Span)
        return out.float()

    return tuple(left), compute


def _check_unit(axis: Axis, element: ex.Element, label: str, model: HookedModel) -> None:
    name, size = axis.name, axis.size or 0
    if element == ex.BOS:
        raise FeatureRangeError(f'{label}: "bos" is a position, and there it indexes the {name}s (0 to {size - 1}).')
    if isinstance(element, int) and not -size <= element < size:
        raise FeatureRangeError(
            f"{label}: there is no {name} {element}; {model.name} has {size} {name}s there, 0 to {size - 1}."
        )
    if isinstance(element, ex.Span) and not range(size)[element.slice()]:
        raise FeatureRangeError(f"{label}: the slice takes none of the {size} {name}s.")


@compiles(ex.ExpertNeuron)
def _expert_neuron(compiler: Compiler, f: ex.ExpertNeuron) -> tuple[Axes, Compute]:
    model, label, (name,) = compiler.model, f.long_label, f.named_hooks()
    experts = Experts(model, f.layer, name, label)
    experts.check(f.expert, f.index, label)

    def compute(r: Readings) -> Tensor:
        return experts.neuron(r[model].picked(name, f.position, label), f.expert, f.index).float()

    return compiler.at(f.position, label), compute


@compiles(ex.RouterLogit)
def _router_logit(compiler: Compiler, f: ex.RouterLogit) -> tuple[Axes, Compute]:
    model, label, (name,) = compiler.model, f.long_label, f.named_hooks()
    experts = Experts(model, f.layer, name, label)
    experts.check(f.expert, 0, label)
    experts.check_router(label)

    def compute(r: Readings) -> Tensor:
        return experts.router_logit(r[model].picked(name, f.position, label), f.expert).float()

    return compiler.at(f.position, label), compute


@compiles(ex.Logit)
def _logit(compiler: Compiler, f: ex.Logit) -> tuple[Axes, Compute]:
    model, label = compiler.model, f.long_label
    tokens = target_tokens(f, model)
    if len(tokens) > 1:
        return _continuation(compiler, f, tokens)
    compiler.logits.add(model)
    reduce = _of_token(f.kind, tokens[0])
    return compiler.at(f.position, label), lambda r: r[model].over_vocabulary(reduce, f.position, label)


def target_tokens(f: ex.Logit, model: HookedModel) -> list[int]:
    """Return the ids of the tokens that a feature of logits reads on a model, several only if all of them count.

    Raises:
        TokenError: The target is several tokens, and the feature is of one; or it is one token with a space before it,
            which was probably meant.
    """
    vocabulary = model.vocabulary
    if f.reduce == "first":
        return vocabulary.target_ids(f.token)[:1]
    if f.reduce is not None:
        return vocabulary.target_ids(f.token)
    try:
        return [vocabulary.token_id(f.token)]
    except TokenError as error:
        try:
            tokens = vocabulary.target_ids(f.token)  # raises for a text without tokens too
        except TokenError:
            raise error from None
        if f.kind == "log_prob" and not vocabulary.one_token_variants(str(f.token)):
            return tokens
        text = quote(str(f.token))
        whole = f'log_prob({text}, reduce="sum")'
        first = f', or for the margin of its first token (Eq. 3) logit_difference({text}, reduce="first")'
        raise TokenError(f"{error} For the whole text, write {whole}{'' if f.kind == 'log_prob' else first}.") from None


def _of_token(kind: str, token: int) -> Callable[[Tensor], Tensor]:
    """Return the function of logits `[..., d_vocab] -> [...]` that a kind of feature computes for a token."""

    def reduce(logits: Float[Tensor, "*place d_vocab"]) -> Float[Tensor, "*place"]:
        if kind == "log_prob":
            return logits[..., token] - logits.logsumexp(-1)
        if kind == "logit":
            return logits[..., token]
        # The two parts around the token are views, so no tensor of the size of the vocabulary is copied.
        sides = [s.amax(-1) for s in (logits[..., :token], logits[..., token + 1 :]) if s.shape[-1]]
        runner_up = sides[0] if len(sides) == 1 else torch.maximum(*sides)
        return runner_up if kind == "runner_up" else logits[..., token] - runner_up

    return reduce


def _continuation(compiler: Compiler, f: ex.Logit, tokens: list[int]) -> tuple[Axes, Compute]:
    """Compile a feature of a text of several tokens, which stand at the end of every row of a model of their own."""
    model, label, count = compiler.model, f.long_label, len(tokens)
    if f.position != -1:
        raise FeatureError(
            f"{label}: the target is {count} tokens, which stand after the whole prompt, so no position can be given; "
            "a position is for a target of one token."
        )
    if not is_causal(model):
        raise FeatureError(
            f"{label}: {model.name} sees later tokens, so it would read the text that it is to predict. A target of "
            "several tokens needs a causal model."
        )
    room = None if model.n_ctx is None else model.n_ctx - compiler.probe.layout.total
    if room is not None and count > room:
        raise TokenError(
            f"The text of {shorten(label)} is {count} tokens, and {model.name}'s context is {model.n_ctx}; shorten it."
        )
    continued = model.continued(tokens)
    compiler.hooks.setdefault(continued, [])
    compiler.logits.add(continued)
    functions = [(k - count - 1, _of_token(f.kind, token)) for k, token in enumerate(tokens)]

    def compute(r: Readings) -> Tensor:
        # The last of the row's tokens predicts nothing that counts, so the first of the target stands at -count.
        parts = [r[continued].over_vocabulary(function, at, label) for at, function in functions]
        values = torch.stack(parts, dim=-1)
        return values.amin(-1) if f.reduce == "min" else values.mean(-1) if f.reduce == "mean" else values.sum(-1)

    return (), compute


@compiles(ex.Latent)
def _latent(compiler: Compiler, f: ex.Latent) -> tuple[Axes, Compute]:
    sae, model, label = compiler.probe.sae(f), compiler.model, f.long_label
    name, axes = sae.hook_name, compiler.probe.axes[sae.hook_name]
    if axes[0].name != "position":
        raise FeatureRangeError(
            f"{label}: an activation at {name} is {listed(axes)}, and an autoencoder reads one position at a time. "
            "Name the hook point that the autoencoder was trained on: hook=..."
        )
    sae.check_latent(f.latent)
    sae.check_activation([compiler.probe.layout.total, *(axis.size for axis in axes[1:])])
    if sae.conditions is not None:
        compiler.conditions.append((sae.conditions, f.position))
    place = compiler.at(f.position, label)
    return place, lambda r: sae.latent(r[model].picked(name, f.position, label), f.latent, f.pre_activation)


@compiles(ex.MeanCrossEntropy)
def _mean_cross_entropy(compiler: Compiler, f: ex.MeanCrossEntropy) -> tuple[Axes, Compute]:
    model = compiler.model
    if f.model is not None:
        model = as_hooked(f.model)
        compiler.model.check_same_tokenizer(model)
        model.bos(bool(compiler.probe.bos))
    check_causal(model)
    compiler.hooks.setdefault(model, [])
    compiler.logits.add(model)
    return (), lambda r: to_device(r[model].cross_entropy, compiler.model.device)


@compiles(ex.Custom)
def _custom(compiler: Compiler, f: ex.Custom) -> tuple[Axes, Compute]:
    model, hooks = compiler.model, f.hooks

    def compute(r: Readings) -> Tensor:
        return checked_values(f.function({h: r[model].activations[h] for h in hooks}), r[model].size, f.long_label)

    return (), compute


@compiles(ex.OnModel)
def _on_model(compiler: Compiler, f: ex.OnModel) -> tuple[Axes, Compute]:
    model = as_hooked(f.model)
    compiler.model.check_same_tokenizer(model)
    model.bos(bool(compiler.probe.bos))
    inner = Compiler(ShapeProbe(model, f.of, bool(compiler.probe.bos)))
    axes, compute = inner.build(f.of)
    if not any(node.is_leaf for node in f.of.walk()):
        raise FeatureError(f"{f.of.long_label} is a constant: it reads nothing from {model.name}.")
    for other, names in inner.hooks.items():
        known = compiler.hooks.setdefault(other, [])
        known += [name for name in names if name not in known]
    compiler.logits |= inner.logits
    compiler.positions += inner.positions
    compiler.conditions += inner.conditions
    compiler.others += [(f.of, inner), *inner.others]
    return axes, lambda r: to_device(compute(r), compiler.model.device)


# Inner nodes.


@compiles(ex.Constant)
def _constant(compiler: Compiler, f: ex.Constant) -> tuple[Axes, Compute]:
    value, model = f.value, compiler.model
    return (), lambda r: torch.full((next(iter(r.values())).size,), value, device=model.device)


@compiles(ex.Standardised)
def _standardised(compiler: Compiler, f: ex.Standardised) -> tuple[Axes, Compute]:
    axes, operand, dim = compiler.units(f, "standardised()")
    return axes, lambda r: _standardise(operand(r), dim)


@compiles(ex.Norm)
def _norm(compiler: Compiler, f: ex.Norm) -> tuple[Axes, Compute]:
    axes, operand, dim = compiler.units(f, "norm()")
    return _without(axes, "unit"), lambda r: operand(r).float().norm(dim=dim)


@compiles(ex.Projected, ex.Cosine)
def _projected(compiler: Compiler, f: ex.Projected | ex.Cosine) -> tuple[Axes, Compute]:
    is_cosine = isinstance(f, ex.Cosine)
    axes, operand, dim = compiler.units(f, "cosine()" if is_cosine else "@")
    direction = torch.from_numpy(f.direction.values.copy())
    width = axes[dim - 1].size
    if len(direction) != width:
        raise FeatureRangeError(
            f"{f.long_label}: the direction has {len(direction)} entries, and {f.of.long_label} has {width} units on "
            f"{compiler.model.name}."
        )
    length = float(direction.norm())
    copies: dict[torch.device, Tensor] = {}  # by device, because the model may be moved between two calls

    def compute(r: Readings) -> Tensor:
        x = operand(r).float().movedim(dim, -1)
        if x.device not in copies:
            copies[x.device] = to_device(direction, x.device)
        inner = x @ copies[x.device]
        return inner / (length * x.norm(dim=-1)).clamp_min(1e-12) if is_cosine else inner

    return _without(axes, "unit"), compute


@compiles(ex.Reduced)
def _reduced(compiler: Compiler, f: ex.Reduced) -> tuple[Axes, Compute]:
    axes, operand = compiler.build(f.of)
    dims = tuple(i + 1 for i, axis in enumerate(axes) if axis.name == "position")
    if not dims:
        raise FeatureRangeError(
            f"{f.long_label}: .{f.how}() is over positions, and {f.of.long_label} leaves none; write ':' or '...' "
            "where the position is."
        )
    return _without(axes, "position"), lambda r: operand(r).amax(dims) if f.how == "max" else operand(r).mean(dims)


@compiles(ex.Clipped)
def _clipped(compiler: Compiler, f: ex.Clipped) -> tuple[Axes, Compute]:
    axes, operand = compiler.build(f.of)
    return axes, lambda r: operand(r).clamp(f.low, f.high)


@compiles(ex.Scaled)
def _scaled(compiler: Compiler, f: ex.Scaled) -> tuple[Axes, Compute]:
    axes, operand = compiler.build(f.of)
    return axes, lambda r: operand(r) * f.factor


@compiles(ex.Sum, ex.Product)
def _combined(compiler: Compiler, f: ex.Sum | ex.Product) -> tuple[Axes, Compute]:
    operation = torch.add if isinstance(f, ex.Sum) else torch.mul
    parts = [compiler.build(child) for child in f.children]
    shapes = list(dict.fromkeys(axes for axes, _ in parts if axes))
    if len(shapes) > 1:
        pairs = zip(f.children, parts, strict=True)
        leaves = "; ".join(f"{child.long_label} leaves {left_over(a)}" for child, (a, _) in pairs if a)
        raise FeatureRangeError(f"The parts of {f.long_label} do not match: {leaves}. Reduce each to one number first.")
    axes = shapes[0] if shapes else ()

    def compute(r: Readings) -> Tensor:
        values = [compute_part(r).float() for _, compute_part in parts]
        values = [v.to(values[0].device) for v in values]  # layers may be on several devices
        full = [v if v.dim() == len(axes) + 1 else v.view(-1, *[1] * len(axes)) for v in values]
        sizes = {tuple(v.shape[1:]) for v in values if v.dim() > 1}
        if len(sizes) > 1:  # slices of positions, whose lengths depend on the length of the prompt
            lengths = " and ".join(str(size[0] if len(size) == 1 else list(size)) for size in sorted(sizes))
            raise FeatureRangeError(
                f"The parts of {f.long_label} leave different numbers of positions, {lengths}; give them slices of "
                "equal length."
            )
        out = full[0]
        for value in full[1:]:
            out = operation(out, value)
        return out

    return axes, compute


def left_over(axes: Axes) -> str:
    """Describe axes in words, such as "one number for every position and for each of 32 units"."""
    parts = []
    for axis in dict.fromkeys(axes):
        if axis.name == "position":
            parts.append("for every position" if axes.count(axis) == 1 else "for every pair of positions")
        else:
            parts.append(
                f"for each of {axis.size} {axis.name}s" if " " not in axis.name else f"for each entry of {axis.name}"
            )
    return f"one number {' and '.join(parts)}" if parts else ""


def _standardise(h: Tensor, dim: int) -> Tensor:
    # Eq. 4 with the population standard deviation. The clamp turns a vector of equal entries into zeros, not NaN.
    h = h.float()
    h = h - h.mean(dim, keepdim=True)
    return h / h.pow(2).mean(dim, keepdim=True).sqrt().clamp_min(1e-12)


def _without(axes: Axes, name: str) -> Axes:
    return tuple(axis for axis in axes if axis.name != name)

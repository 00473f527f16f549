"""From an expression to a function of readings: which axes are left at each node, and how to compute it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dreamy_lens.errors import FeatureError, FeatureRangeError
from dreamy_lens.features import expressions as ex
from dreamy_lens.features.forward_pass import Readings, check_position, pick
from dreamy_lens.features.shapes import Axes, Axis, ShapeProbe, listed
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.transfer import to_device

Compute = Callable[[Readings], Tensor]


class Compiler:
    """Compiles expressions for the model of a probe.

    Args:
        probe: of the whole feature.

    Attributes:
        hooks: hook points to read, by model.
        logits: models whose output is read.
        positions: every position that is named, and the label of the part that names it.
    """

    def __init__(self, probe: ShapeProbe) -> None:
        self.probe = probe
        self.model = probe.model
        self.hooks: dict[HookedModel, list[str]] = {probe.model: probe.hooks}
        self.logits: set[HookedModel] = set()
        self.positions: list[tuple[ex.Element, str]] = []

    def build(self, f: ex.Feature) -> tuple[Axes, Compute]:
        """The axes that a feature leaves, and its computation to `[batch, *axes]`.

        Raises:
            FeatureError: or one of its kinds, if it does not fit the model.
        """
        match f:
            case ex.Hook():
                return self._hook(f)
            case ex.Logit():
                return self._logit(f)
            case ex.Latent():
                return self._latent(f)
            case ex.MeanCrossEntropy():
                return self._mean_cross_entropy(f)
            case ex.Custom():
                return (), self._custom(f)
            case ex.Standardised():
                axes, of, dim = self.units(f, "standardised()")
                return axes, lambda r: _standardised(of(r), dim)
            case ex.Norm():
                axes, of, dim = self.units(f, "norm()")
                return _without(axes, "unit"), lambda r: of(r).float().norm(dim=dim)
            case ex.Projected() | ex.Cosine():
                return self._projected(f)
            case ex.Reduced():
                return self._reduced(f)
            case ex.Clipped():
                axes, of = self.build(f.of)
                return axes, lambda r: of(r).clamp(f.low, f.high)
            case ex.Scaled():
                axes, of = self.build(f.of)
                return axes, lambda r: of(r) * f.factor
            case ex.Sum():
                return self._combined(f, torch.add)
            case ex.Product():
                return self._combined(f, torch.mul)
            case ex.Constant():
                value, model = f.value, self.model
                return (), lambda r: torch.full((r[model].size,), value, device=model.device)
        raise FeatureError(f"{type(f).__name__} is not a feature that can be bound.")

    # Leaves.

    def _hook(self, f: ex.Hook) -> tuple[Axes, Compute]:
        name, model, label = f.name, self.model, f.label
        axes, elements = self.probe.axes[name], self.probe.spread(f)
        left: list[Axis] = []
        for axis, element in zip(axes, elements, strict=True):
            if axis.name == "position":
                self._at(element, label)
            else:
                self._check_unit(axis, element, label)
            if isinstance(element, ex.Span):
                left.append(Axis(axis.name, None if axis.size is None else len(range(axis.size)[element.slice()])))

        def compute(r: Readings) -> Tensor:
            rest, at = list(zip(axes, elements, strict=True)), 1
            if rest and rest[0][0].name == "position":
                element = rest.pop(0)[1]
                out = r[model].picked(name, element, label)
                at += isinstance(element, ex.Span)
            else:
                out = r[model].activations[name]
            for axis, element in rest:
                if axis.name == "position":
                    out = pick(out, at, element, r[model].layout, label)
                elif isinstance(element, int):
                    out = out.select(at, element)
                elif element != ex.Span():
                    out = out[(slice(None),) * at + (element.slice(),)]
                at += isinstance(element, ex.Span)
            return out.float()

        return tuple(left), compute

    def _check_unit(self, axis: Axis, element: ex.Element, label: str) -> None:
        name, size = axis.name, axis.size or 0
        if element == ex.BOS:
            raise FeatureRangeError(
                f'{label}: "bos" is a position, and there it indexes the {name}s (0 to {size - 1}).'
            )
        if isinstance(element, int) and not -size <= element < size:
            raise FeatureRangeError(
                f"{label}: there is no {name} {element}; {self.model.name} has {size} {name}s there, 0 to {size - 1}."
            )
        if isinstance(element, ex.Span) and not range(size)[element.slice()]:
            raise FeatureRangeError(f"{label}: the slice takes none of the {size} {name}s.")

    def _at(self, element: ex.Element, label: str) -> Axes:
        """Note a position; the axis that it leaves, if any."""
        self.positions.append((element, label))
        check_position(element, self.probe.layout, label)
        return (Axis("position"),) if isinstance(element, ex.Span) else ()

    def _logit(self, f: ex.Logit) -> tuple[Axes, Compute]:
        model, token, label = self.model, self.model.vocabulary.one(f.token), f.label
        self.logits.add(model)

        def of(logits: Tensor) -> Tensor:
            if f.kind == "log_prob":
                return logits[..., token] - logits.logsumexp(-1)
            if f.kind == "runner_up":
                # Above the token and below it, so that nothing of the size of the vocabulary is copied.
                sides = [s.amax(-1) for s in (logits[..., :token], logits[..., token + 1 :]) if s.shape[-1]]
                return sides[0] if len(sides) == 1 else torch.maximum(*sides)
            return logits[..., token]

        return self._at(f.position, label), lambda r: r[model].over_vocabulary(of, f.position, label)

    def _latent(self, f: ex.Latent) -> tuple[Axes, Compute]:
        sae, model, label = self.probe.sae(f), self.model, f.label
        name = sae.hook_name
        axes = self.probe.axes[name]
        if axes[0].name != "position":
            raise FeatureRangeError(
                f"{label}: an activation at {name} is {listed(axes)}, and an autoencoder reads one position at a time. "
                "Name the hook point it was trained at: hook=..."
            )
        sae.check_latent(f.latent)
        sae.check_activation([self.probe.layout.total, *(axis.size for axis in axes[1:])])

        def compute(r: Readings) -> Tensor:
            x = r[model].picked(name, f.position, label)
            return sae.latent(x, f.latent, f.pre_activation)

        return self._at(f.position, label), compute

    def _mean_cross_entropy(self, f: ex.MeanCrossEntropy) -> tuple[Axes, Compute]:
        model = self.model
        if f.model is not None:
            from dreamy_lens.models.load import as_hooked

            model = as_hooked(f.model)
            self.model.check_same_tokenizer(model)
            model.bos(bool(self.probe.bos))
        self.hooks.setdefault(model, [])
        self.logits.add(model)
        return (), lambda r: to_device(r[model].cross_entropy, self.model.device)

    def _custom(self, f: ex.Custom) -> Compute:
        model, hooks = self.model, f.hooks

        def compute(r: Readings) -> Tensor:
            found = f.function({h: r[model].activations[h] for h in hooks})
            count = r[model].size
            if not isinstance(found, Tensor) or tuple(found.shape) != (count,):
                what = f"shape {list(found.shape)}" if isinstance(found, Tensor) else repr(type(found).__name__)
                raise FeatureError(
                    f"The function of {f.label} returned {what} for {count} prompts; it must return a tensor with one "
                    f"number for each, [{count}]."
                )
            return found

        return compute

    # Inner nodes.

    def units(self, f: Any, what: str) -> tuple[Axes, Compute, int]:
        """Axes and values of a feature's operand, and the dimension of its one axis of units."""
        axes, of = self.build(f.of)
        names = [axis.name for axis in axes]
        if names.count("unit") != 1 or set(names) - {"unit", "position"}:
            left = left_over(axes) or "a single number"
            raise FeatureRangeError(
                f"{f.label}: {what} is taken over one axis of units, and {f.of.label} leaves {left}. "
                "Pick or keep axes of a hook point until one of units is left, as in hook(name)[-1]."
            )
        return axes, of, names.index("unit") + 1

    def _projected(self, f: ex.Projected | ex.Cosine) -> tuple[Axes, Compute]:
        is_cosine = isinstance(f, ex.Cosine)
        axes, of, dim = self.units(f, "cosine()" if is_cosine else "@")
        direction = torch.from_numpy(f.direction.values.copy())
        width = axes[dim - 1].size
        if len(direction) != width:
            raise FeatureRangeError(
                f"{f.label}: the direction has {len(direction)} entries, and {f.of.label} has {width} units on "
                f"{self.model.name}."
            )
        length = float(direction.norm())
        there: dict[torch.device, Tensor] = {}  # wherever the model has been: it may be moved

        def compute(r: Readings) -> Tensor:
            x = of(r).float().movedim(dim, -1)
            if x.device not in there:
                there[x.device] = to_device(direction, x.device)
            inner = x @ there[x.device]
            return inner / (length * x.norm(dim=-1)).clamp_min(1e-12) if is_cosine else inner

        return _without(axes, "unit"), compute

    def _reduced(self, f: ex.Reduced) -> tuple[Axes, Compute]:
        axes, of = self.build(f.of)
        dims = tuple(i + 1 for i, axis in enumerate(axes) if axis.name == "position")
        if not dims:
            raise FeatureRangeError(
                f"{f.label}: .{f.how}() is over positions, and {f.of.label} leaves none; write ':' or '...' where the "
                "position is."
            )
        return _without(axes, "position"), lambda r: of(r).amax(dims) if f.how == "max" else of(r).mean(dims)

    def _combined(self, f: ex.Feature, operation: Any) -> tuple[Axes, Compute]:
        parts = [self.build(child) for child in f.children]
        shapes = list(dict.fromkeys(axes for axes, _ in parts if axes))
        if len(shapes) > 1:
            told = "; ".join(
                f"{c.label} leaves {left_over(a)}" for c, (a, _) in zip(f.children, parts, strict=True) if a
            )
            raise FeatureRangeError(f"The parts of {f.label} do not match: {told}. Reduce each to one number first.")
        axes = shapes[0] if shapes else ()

        def compute(r: Readings) -> Tensor:
            values = [of(r).float() for _, of in parts]
            values = [v.to(values[0].device) for v in values]  # layers may be on several devices
            full = [v if v.dim() == len(axes) + 1 else v.view(-1, *[1] * len(axes)) for v in values]
            sizes = {tuple(v.shape[1:]) for v in values if v.dim() > 1}
            if len(sizes) > 1:  # two slices of positions, whose lengths depend on the prompt's
                told = " and ".join(str(size[0] if len(size) == 1 else list(size)) for size in sorted(sizes))
                raise FeatureRangeError(
                    f"The parts of {f.label} leave {told} positions; give them slices of one length."
                )
            out = full[0]
            for value in full[1:]:
                out = operation(out, value)
            return out

        return axes, compute


def left_over(axes: Axes) -> str:
    """What is left of an activation, in words: "one number for every position and for each of 32 units"."""
    parts = []
    for axis in dict.fromkeys(axes):
        if axis.name == "position":
            parts.append("for every position" if axes.count(axis) == 1 else "for every pair of positions")
        else:
            parts.append(
                f"for each of {axis.size} {axis.name}s" if " " not in axis.name else f"for each entry of {axis.name}"
            )
    return f"one number {' and '.join(parts)}" if parts else ""


def _standardised(h: Tensor, dim: int) -> Tensor:
    # Eq. 4, with the population's deviation; a vector of equal entries stays zero rather than becoming NaN.
    h = h.float()
    h = h - h.mean(dim, keepdim=True)
    return h / h.pow(2).mean(dim, keepdim=True).sqrt().clamp_min(1e-12)


def _without(axes: Axes, name: str) -> Axes:
    return tuple(axis for axis in axes if axis.name != name)

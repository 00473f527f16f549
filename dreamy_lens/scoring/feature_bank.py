"""Feature banks: many features that share their reads and are computed together as one matrix of values.

Thousands of features can differ in one thing only: the unit of a hook point, a direction, a latent or a token. A
:class:`FeatureBank` holds features that differ in one such thing. It computes all of them with one matrix product or
one selection of columns, where separate features would each need several small operations. A feature that fits no
pattern is a bank of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamy_lens.errors import FeatureError
from dreamy_lens.features import expressions as ex
from dreamy_lens.features.binding import bind
from dreamy_lens.features.compile import Compiler, target_tokens
from dreamy_lens.features.families import Family, family
from dreamy_lens.features.forward_pass import Readings, RowLayout, check_position, check_training
from dreamy_lens.features.sae.conditions import Conditions
from dreamy_lens.features.shapes import Axes, ShapeProbe
from dreamy_lens.models.causality import is_causal
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.scoring.per_position import DeviceCache, Many, at_every_position, inner, running_values, units_last


@dataclass(frozen=True)
class FeatureBank:
    """Features of one model that are computed together.

    Attributes:
        members: The F features, as a sequence; a family makes its members on access.
        hooks: Hook points that the features read, by model.
        logits: Models whose logits the features read.
        compute: Function that returns the values of the features, `[batch, F]`.
        series: Function that returns the values that the features would have if the prompt ended at each of its
            positions, `[batch, n, F]`; None if one pass over the whole prompt does not determine them.
        positions: Every position that a feature names, with the label of the part of the feature that names it.
        conditions: Conditions of every autoencoder that a feature reads, with the position that it reads.
        given: Index of each member's expression in the input of :func:`make_banks`; a family has one index.
    """

    members: Sequence[ex.Feature]
    hooks: dict[HookedModel, tuple[str, ...]]
    logits: frozenset[HookedModel]
    compute: Many = dataclasses.field(repr=False)
    series: Many | None = dataclasses.field(repr=False, default=None)
    positions: tuple[tuple[ex.Element, str], ...] = dataclasses.field(repr=False, default=())
    given: tuple[int, ...] = ()
    conditions: tuple[tuple[Conditions, ex.Element], ...] = dataclasses.field(repr=False, default=())

    def __len__(self) -> int:
        return len(self.members)

    def __call__(self, readings: Readings) -> Tensor:
        """Compute the values, float32 `[batch, F]`, from the passes over a batch."""
        return self.compute(readings).float()

    def check_layout(self, layout: RowLayout) -> None:
        """Raise FeatureRangeError if a feature names a position that prompts of this layout do not have."""
        for element, what in self.positions:
            check_position(element, layout, what)
        check_training(self.conditions, layout)


def make_banks(
    features: Iterable[ex.Feature], model: HookedModel, prepend_bos: bool | None = None
) -> list[FeatureBank]:
    """Group features of a model into banks of features that can be computed together.

    Args:
        features: Expressions. An expression that leaves axes of units is a family, one feature for each unit.
        model: Model whose activations the features read.
        prepend_bos: Whether a BOS stands before every prompt; None follows the model's convention.

    Raises:
        FeatureError: A feature does not fit the model; the error may be of a subclass.

    >>> import dreamy_lens as dl
    >>> from dreamy_lens.models.load import as_hooked
    >>> banks = make_banks([dl.neurons(2), *(dl.neuron(1, i) for i in range(5)), dl.logit(" the")], as_hooked(None))
    >>> [len(bank) for bank in banks]
    [896, 5, 1]
    """
    grouping = _Grouping(model, prepend_bos)
    groups: dict[Hashable, list[tuple[int, ex.Feature]]] = {}
    for i, feature in enumerate(features):
        groups.setdefault(grouping.key(feature), []).append((i, feature))
    return [
        dataclasses.replace(grouping.bank(key, [f for _, f in members]), given=tuple(i for i, _ in members))
        for key, members in groups.items()
    ]


def given_order(found: Sequence[FeatureBank]) -> np.ndarray:
    """Return the order that sorts the members of all banks, one bank after the other, by their input index; int64."""
    places = [np.broadcast_to(bank.given, (len(bank),)) if len(bank.given) == 1 else bank.given for bank in found]
    return np.argsort(np.concatenate([np.asarray(p, np.int64) for p in places]), kind="stable")


class _Members(list[ex.Feature]):
    """List of features with a short representation, because such lists are long."""

    def __repr__(self) -> str:
        return f"<{len(self)} features>"


class _FamilyMembers(Sequence[ex.Feature]):
    """Members of a family, each made on access."""

    def __init__(self, of: Family) -> None:
        self._family = of

    def __len__(self) -> int:
        return len(self._family)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self._family.member(j) for j in range(len(self))[i]]
        return self._family.member(range(len(self))[i])

    def __repr__(self) -> str:
        return f"<{len(self)} features of {self._family.expression.label}>"


class _Grouping:
    """Rules by which features of a model form banks."""

    def __init__(self, model: HookedModel, prepend_bos: bool | None) -> None:
        self.model, self.bos = model, prepend_bos
        self._axes: dict[str, Axes] = {}

    def axes(self, name: str) -> Axes:
        """Return the axes of the activation at a hook point; each hook point is looked up once."""
        if name not in self._axes:
            self._axes[name] = ShapeProbe(self.model, ex.Hook(name), self.bos).axes[name]
        return self._axes[name]

    def key(self, f: ex.Feature) -> Hashable:
        """Return a key that features share if they differ only in a unit, a direction, a latent or a token."""
        found = self._key(f)
        return ("alone", f) if found is None else found

    def _key(self, f: ex.Feature) -> Hashable | None:
        """Return the shared key of a feature, or None if it fits no pattern."""
        match f:
            case ex.Hook():
                template = self._template(f)
                return None if template is None else ("hook", template)
            case ex.Projected() | ex.Cosine():
                return (type(f).__name__, f.of)
            case ex.Latent():
                return ("latent", dataclasses.replace(f, latent=0))
            case ex.Logit(kind="logit" | "log_prob", reduce=None):
                is_one = f.kind == "logit" or len(target_tokens(f, self.model)) == 1
                return (f.kind, f.position) if is_one else None
            case ex.Scaled() | ex.Clipped() | ex.Reduced():
                inner = self._key(f.of)
                rest = tuple(getattr(f, x.name) for x in dataclasses.fields(f) if x.name != "of")
                return None if inner is None else (type(f).__name__, rest, inner)
        return None

    def _template(self, f: ex.Hook) -> ex.Hook | None:
        """Return the hook point with a full slice for each picked unit and head; None if some are not picked."""
        axes = self.axes(f.name)
        if f.index is None or len([e for e in f.index if e is not Ellipsis]) > len(axes):
            return None
        elements = f.elements(len(axes))
        units = [i for i, axis in enumerate(axes) if axis.name != "position"]
        if not units or any(isinstance(elements[i], (ex.Span, str)) for i in units):
            return None
        return ex.Hook(f.name, tuple(ex.Span() if i in units else e for i, e in enumerate(elements)))

    def bank(self, key: Any, members: list[ex.Feature]) -> FeatureBank:
        """Make the bank of the features that have this key."""
        if key[0] == "alone":
            return self._alone(members[0])
        compiler = Compiler(ShapeProbe(self.model, members[0], self.bos))
        positional, compute = self._many(members, compiler)
        if positional:  # raises the error that a single feature raises
            bind(members[0], self.model, prepend_bos=self.bos)
        at_all = [at_every_position(f) for f in members]
        series = None
        if None not in at_all and is_causal(self.model):
            series = self._series(at_all)  # pyright: ignore[reportArgumentType]
        return self._made(_Members(members), compiler, compute, series)

    def _alone(self, f: ex.Feature) -> FeatureBank:
        """Make the bank of one expression: of a single feature, or of a family."""
        probe = ShapeProbe(self.model, f, self.bos)
        compiler = Compiler(probe)
        axes, of = compiler.build(f)
        if not axes:
            bound = bind(f, self.model, prepend_bos=self.bos)
            hooks = dict(bound.hooks)
            return dataclasses.replace(
                self._made(_Members([f]), compiler, lambda r: bound(r)[:, None], None), hooks=hooks, logits=bound.logits
            )
        found = family(f, axes, probe)
        at_all = at_every_position(f)
        series = None
        if at_all is not None and is_causal(self.model):
            series = self._cumulative(at_all, Compiler(ShapeProbe(self.model, at_all, self.bos)))
        return self._made(_FamilyMembers(found), compiler, lambda r: of(r).flatten(1), series)

    def _made(
        self, members: Sequence[ex.Feature], compiler: Compiler, compute: Many, series: Many | None
    ) -> FeatureBank:
        """Make a bank from its members and what the compiler recorded for them."""
        hooks = {m: tuple(names) for m, names in compiler.hooks.items()}
        places, conditions = tuple(compiler.positions), tuple(compiler.conditions)
        return FeatureBank(members, hooks, frozenset(compiler.logits), compute, series, places, conditions=conditions)

    # Computation of many features at once.

    def _many(self, fs: list[ex.Feature], compiler: Compiler) -> tuple[bool, Many]:
        """Compile features of one key: whether axes of positions are left, and the function of the values."""
        f, model = fs[0], self.model
        match f:
            case ex.Scaled():
                left, of = self._many(inner(fs), compiler)
                return left, lambda r: of(r) * f.factor
            case ex.Clipped():
                left, of = self._many(inner(fs), compiler)
                return left, lambda r: of(r).clamp(f.low, f.high)
            case ex.Reduced():
                left, of = self._many(inner(fs), compiler)
                if not left:
                    compiler.build(f)  # raises the error

                def reduced(r: Readings) -> Tensor:
                    x = of(r)
                    over = tuple(range(1, x.dim() - 1))  # an attention pattern has two axes of positions
                    return x.amax(over) if f.how == "max" else x.mean(over)

                return False, reduced
            case ex.Hook():
                template = self._template(f)
                assert template is not None
                axes, of = compiler.build(template)
                for one in fs:
                    compiler.build(one)  # checks its units
                left, flat = units_last(axes)
                columns = DeviceCache(torch.tensor([self._column(one) for one in fs]))  # pyright: ignore[reportArgumentType]

                def picked(r: Readings) -> Tensor:
                    x = flat(of(r))
                    return x.index_select(-1, columns.on(x.device))

                return left, picked
            case ex.Projected() | ex.Cosine():
                for one in fs:
                    compiler.build(one)
                axes, of, dim = compiler.units(f, "@")
                matrix = DeviceCache(torch.from_numpy(np.stack([one.direction.values for one in fs])))  # pyright: ignore
                lengths = DeviceCache(torch.from_numpy(np.stack([one.direction.values for one in fs])).norm(dim=1))  # pyright: ignore

                def projected(r: Readings) -> Tensor:
                    x = of(r).float().movedim(dim, -1)
                    inner = x @ matrix.on(x.device).T
                    if isinstance(f, ex.Projected):
                        return inner
                    return inner / (lengths.on(x.device) * x.norm(dim=-1, keepdim=True)).clamp_min(1e-12)

                return len(axes) > 1, projected
            case ex.Latent():
                for one in fs:
                    axes, _ = compiler.build(one)
                sae = compiler.probe.sae(f)
                if sae.wrapped is not None:  # tries the object's encode()
                    bind(dataclasses.replace(f, position=-1), self.model, prepend_bos=self.bos)
                latents = [one.latent for one in fs]  # pyright: ignore[reportAttributeAccessIssue]
                columns = DeviceCache(torch.tensor(latents))

                def encode(x: Tensor) -> Tensor:
                    if len(fs) == 1:
                        return sae.latent(x, latents[0], f.pre_activation)[..., None]
                    found = sae.encode(x, f.pre_activation)
                    return found.index_select(-1, columns.on(found.device))

                def encoded(r: Readings) -> Tensor:
                    return encode(r[model].picked(sae.hook_name, f.position, f.label))

                # Weights are read now, so that damaged ones are an error before the corpus is read.
                encode(torch.ones(1, *(axis.size or 1 for axis in self.axes(sae.hook_name)[1:]), device=model.device))

                return isinstance(f.position, ex.Span), encoded
            case ex.Logit():
                for one in fs:
                    compiler.build(one)
                tokens = [model.vocabulary.token_id(one.token) for one in fs]  # pyright: ignore[reportAttributeAccessIssue]
                columns = DeviceCache(torch.tensor(tokens))

                def logits(r: Readings) -> Tensor:
                    def of(x: Tensor) -> Tensor:
                        found = x.index_select(-1, columns.on(x.device))
                        return found if f.kind == "logit" else found - x.logsumexp(-1, keepdim=True)

                    return r[model].over_vocabulary(of, f.position, f.label)

                return isinstance(f.position, ex.Span), logits
        raise FeatureError(f"{type(f).__name__} cannot be computed together with other features.")

    def _column(self, f: ex.Hook) -> int:
        """Return the index of a hook point's picked unit, all axes of units being flattened into one."""
        axes, column = self.axes(f.name), 0
        for axis, element in zip(axes, f.elements(len(axes)), strict=True):
            if axis.name != "position":
                size = axis.size or 1
                column = column * size + range(size)[element]
        return column

    # Values at every position.

    def _series(self, fs: list[ex.Feature]) -> Many:
        """Compile features of one key, read at every position, to running values."""
        compiler = Compiler(ShapeProbe(self.model, fs[0], self.bos))
        return running_values(fs[0], lambda of: self._many(of, compiler)[1], fs)

    def _cumulative(self, f: ex.Feature, compiler: Compiler) -> Many:
        """Compile a family, read at every position, to running values."""

        def build(members: list[ex.Feature]) -> Many:
            axes, of = compiler.build(members[0])
            _, flat = units_last(axes)
            return lambda r: flat(of(r))

        return running_values(f, build, [f])

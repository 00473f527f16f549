"""The feature algebra: what to measure, written as a value.

An expression is a small immutable tree. Leaves read something of a model (a hook point, a logit, an SAE's latents, the
cross-entropy of a model); the inner nodes reduce and combine. Nothing here knows a model, imports torch or computes
anything: :mod:`dreamy_lens.features.binding` checks an expression against a model and evaluates it, and
:mod:`dreamy_lens.features.parser` is the text form of exactly these nodes.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dreamy_lens.errors import FeatureError
from dreamy_lens.features.directions import Direction


@dataclass(frozen=True)
class Span:
    """A slice ``start:stop:step`` of positions or units, hashable on every Python."""

    start: int | None = None
    stop: int | None = None
    step: int | None = None

    def slice(self) -> slice:
        """The builtin slice."""
        return slice(self.start, self.stop, self.step)


BOS = "bos"
"""The index that stands for the beginning-of-sequence token, which prompt positions do not count."""

Element = Any  # int | Span | "bos" | Ellipsis


class Feature:
    """A function of a prompt, read from a model: the base of every expression.

    Supports ``+ - *`` with other features and numbers, division by numbers, ``feature @ direction``, and the methods
    below. Equal expressions are equal values with equal hashes, and ``dreamy_lens.parse(str(feature)) == feature``.
    """

    __array_ufunc__ = None  # so that numpy's scalars and arrays leave the operators to us
    __iter__ = None  # indexing would otherwise make a feature look like an endless sequence

    @property
    def children(self) -> tuple[Feature, ...]:
        """The expressions that this one is made of."""
        return ()

    def walk(self) -> Iterator[Feature]:
        """This node and everything below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    @property
    def label(self) -> str:
        """The text form, with long directions abbreviated: for titles and tables."""
        from dreamy_lens.features.render import render

        return render(self, short=True)

    def __str__(self) -> str:
        from dreamy_lens.features.render import render

        return render(self)

    def __repr__(self) -> str:
        return f"Feature({self.label})"

    def bind(self, model: Any) -> Any:
        """Check this feature against a model; see :func:`dreamy_lens.bind`."""
        from dreamy_lens.features.binding import bind

        return bind(self, model)

    # Reductions of activations.

    def __getitem__(self, index: Any) -> Feature:
        raise FeatureError(
            f"Only a hook point can be indexed, and once: write hook(name)[...] before anything else. This is "
            f"{self.label!r}."
        )

    def standardised(self) -> Feature:
        """Subtract the mean over the units and divide by their population standard deviation, as in Eq. 4."""
        return Standardised(self)

    def __matmul__(self, direction: Any) -> Feature:
        """Inner product over the units with a direction `[d]`; ``hook(...)[-1].standardised() @ v`` is Eq. 4."""
        return Projected(self, Direction(direction))

    def cosine(self, direction: Any) -> Feature:
        """Cosine of the angle between the units' vector and a direction `[d]`."""
        return Cosine(self, Direction(direction))

    def norm(self) -> Feature:
        """Euclidean length of the units' vector."""
        return Norm(self)

    def max(self) -> Feature:
        """Largest over the positions that are left (the BOS is not among them)."""
        return Reduced(self, "max")

    def mean(self) -> Feature:
        """Mean over the positions that are left (the BOS is not among them)."""
        return Reduced(self, "mean")

    def clip(self, min: float | None = None, max: float | None = None) -> Feature:
        """Limit the value from below, from above, or both. Beyond a limit the gradient is zero."""
        if min is None and max is None:
            raise FeatureError("clip() needs a limit: clip(min=...), clip(max=...), or both.")
        low, high = (None if x is None else _number(x, "clip") for x in (min, max))
        if low is not None and high is not None and low > high:
            raise FeatureError(f"clip(min={low:g}, max={high:g}) leaves nothing: min is above max.")
        return Clipped(self, low, high)

    # Arithmetic. Sums are flat, multiples are folded, so that one meaning has one tree.

    def __add__(self, other: Any) -> Feature:
        other = _operand(other)
        return NotImplemented if other is None else total(self, other)

    def __radd__(self, other: Any) -> Feature:
        other = _operand(other)
        return NotImplemented if other is None else total(other, self)

    def __sub__(self, other: Any) -> Feature:
        other = _operand(other)
        return NotImplemented if other is None else total(self, -other)

    def __rsub__(self, other: Any) -> Feature:
        other = _operand(other)
        return NotImplemented if other is None else total(other, -self)

    def __neg__(self) -> Feature:
        return scaled(-1.0, self)

    def __mul__(self, other: Any) -> Feature:
        if isinstance(other, Feature):
            return product(self, other)
        return NotImplemented if _operand(other) is None else scaled(float(other), self)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Feature:
        if isinstance(other, Feature) or _operand(other) is None:
            return NotImplemented
        if float(other) == 0:
            raise FeatureError(f"{self.label} / 0 is not a feature.")
        return scaled(1.0 / float(other), self)


@dataclass(frozen=True, repr=False)
class Hook(Feature):
    """The activation at a hook point, one prompt's `[...]` without the batch; `index` picks from its axes."""

    name: str
    index: tuple[Element, ...] | None = None

    def __getitem__(self, index: Any) -> Feature:
        if self.index is not None:
            return super().__getitem__(index)
        elements = index if isinstance(index, tuple) else (index,)
        if not elements:
            return self
        return Hook(self.name, tuple(_element(e, self.name) for e in elements))


@dataclass(frozen=True, repr=False)
class Logit(Feature):
    """A token's logit, the best other logit (`runner_up`), or its log-probability, at a position (Eq. 3)."""

    kind: str
    token: str | int
    position: int | Span | str = -1


@dataclass(frozen=True, repr=False)
class Latent(Feature):
    """One latent of a sparse autoencoder, at the SAE's own hook point."""

    sae: Any
    latent: int
    position: int | Span | str = -1
    pre_activation: bool = False
    hook: str | None = None

    def __hash__(self) -> int:
        return hash((self.sae if isinstance(self.sae, str) else id(self.sae), self.latent, self.position))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Latent):
            return NotImplemented
        same = (
            self.sae == other.sae if isinstance(self.sae, str) and isinstance(other.sae, str) else self.sae is other.sae
        )
        rest = ("latent", "position", "pre_activation", "hook")
        return same and all(getattr(self, name) == getattr(other, name) for name in rest)


@dataclass(frozen=True, repr=False)
class MeanCrossEntropy(Feature):
    """Mean cross-entropy of the prompt, nats per token (Eq. 1), under the model itself (None) or another one."""

    model: Any = None


@dataclass(frozen=True, repr=False)
class Custom(Feature):
    """A function of named hook points' activations, supplied by the user."""

    name: str
    hooks: tuple[str, ...]
    function: Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True, repr=False)
class _Unary(Feature):
    of: Feature

    @property
    def children(self) -> tuple[Feature, ...]:
        return (self.of,)


@dataclass(frozen=True, repr=False)
class Standardised(_Unary):
    """``(h - mean(h)) / std(h)`` over the units, with the population standard deviation (Eq. 4)."""


@dataclass(frozen=True, repr=False)
class Norm(_Unary):
    """Euclidean length over the units."""


@dataclass(frozen=True, repr=False)
class Projected(_Unary):
    """Inner product over the units with a direction."""

    direction: Direction


@dataclass(frozen=True, repr=False)
class Cosine(_Unary):
    """Cosine similarity over the units with a direction."""

    direction: Direction


@dataclass(frozen=True, repr=False)
class Reduced(_Unary):
    """`max` or `mean` over the positions that are left."""

    how: str


@dataclass(frozen=True, repr=False)
class Clipped(_Unary):
    """The value limited to `[low, high]`."""

    low: float | None
    high: float | None


@dataclass(frozen=True, repr=False)
class Scaled(_Unary):
    """A multiple of a feature."""

    factor: float


@dataclass(frozen=True, repr=False)
class Constant(Feature):
    """A number; only inside a sum."""

    value: float


@dataclass(frozen=True, repr=False)
class Sum(Feature):
    """The sum of two or more features."""

    terms: tuple[Feature, ...]

    @property
    def children(self) -> tuple[Feature, ...]:
        """The terms."""
        return self.terms


@dataclass(frozen=True, repr=False)
class Product(Feature):
    """The product of two or more features."""

    factors: tuple[Feature, ...]

    @property
    def children(self) -> tuple[Feature, ...]:
        """The factors."""
        return self.factors


def scaled(factor: float, feature: Feature) -> Feature:
    """`factor * feature` in normal form: multiples of multiples folded, sums multiplied out term by term."""
    factor = _number(factor, "arithmetic")
    if isinstance(feature, Constant):
        return Constant(_number(factor * feature.value, "arithmetic"))
    if isinstance(feature, Scaled):
        return scaled(factor * feature.factor, feature.of)
    if isinstance(feature, Sum):
        return total(*(scaled(factor, term) for term in feature.terms))
    return feature if factor == 1 else Scaled(feature, factor)


def total(*terms: Feature) -> Feature:
    """The sum in normal form: flat, at most one constant, which comes last."""
    flat = [inner for term in terms for inner in (term.terms if isinstance(term, Sum) else (term,))]
    constant = _number(sum(term.value for term in flat if isinstance(term, Constant)), "arithmetic")
    rest = [term for term in flat if not isinstance(term, Constant)]
    if not rest:
        return Constant(constant)
    if constant:
        rest.append(Constant(constant))
    return rest[0] if len(rest) == 1 else Sum(tuple(rest))


def product(*factors: Feature) -> Feature:
    """The product in normal form: flat, with constants and multiples in front of it."""
    constant, flat = 1.0, []
    for factor in factors:
        for inner in factor.factors if isinstance(factor, Product) else (factor,):
            if isinstance(inner, Constant):
                constant *= inner.value
            elif isinstance(inner, Scaled):
                constant *= inner.factor
                flat += inner.of.factors if isinstance(inner.of, Product) else (inner.of,)
            else:
                flat.append(inner)
    if not flat:
        return Constant(constant)
    return scaled(constant, flat[0] if len(flat) == 1 else Product(tuple(flat)))


def position(index: Any) -> int | Span | str:
    """A position as an expression keeps it: an integer, a span, or "bos"."""
    found = _element(index, "position")
    if found is Ellipsis:
        return Span()
    return found


def _element(e: Any, name: str) -> Element:
    if e is Ellipsis or isinstance(e, Span) or (isinstance(e, str) and e == BOS):
        return e
    if isinstance(e, slice):
        parts = [None if x is None else _integer(x, name) for x in (e.start, e.stop, e.step)]
        if parts[2] is not None and parts[2] <= 0:
            raise FeatureError(f"{name}[{e.start}:{e.stop}:{e.step}]: the step of a slice must be positive.")
        return Span(*parts)
    return _integer(e, name)


def _integer(e: Any, name: str) -> int:
    if isinstance(e, bool) or not isinstance(e, numbers.Integral):
        raise FeatureError(f'{name} is indexed with integers, slices, ..., or "bos"; got {e!r} ({type(e).__name__}).')
    return int(e)


def _number(x: Any, where: str) -> float:
    if isinstance(x, bool) or not isinstance(x, numbers.Real):
        raise FeatureError(f"{where} takes a number; got {x!r} ({type(x).__name__}).")
    try:
        number = float(x)
    except OverflowError:  # an integer beyond every float
        number = math.inf
    if not math.isfinite(number):
        raise FeatureError(f"{where} takes finite numbers only; here is one that is {number}.")
    return number


def _operand(x: Any) -> Feature | None:
    if isinstance(x, Feature):
        return x
    if isinstance(x, numbers.Real) and not isinstance(x, bool):
        return Constant(_number(x, "arithmetic"))
    return None

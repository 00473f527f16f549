"""Algebra of features: operators and methods, and the tree nodes that they create.

An expression is a small immutable tree. This module knows no model, imports no torch and computes nothing.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dreamy_lens.errors import FeatureError, quoted
from dreamy_lens.features.directions import Direction
from dreamy_lens.features.node import FLOAT32_TINY, Element, Node, Writer, finite_number
from dreamy_lens.features.paths import absolute_path
from dreamy_lens.models.embedded import EMBEDDED_NAME

if TYPE_CHECKING:
    from typing_extensions import Self


class Feature(Node):
    """Scalar function of a prompt, read from a model; base class of every expression.

    A feature supports ``+ - *`` with other features and numbers, division by numbers, ``feature @ direction``, and the
    methods below. Equal expressions are equal values with equal hashes, and
    ``dreamy_lens.parse(str(feature)) == feature``.
    """

    __array_ufunc__ = None  # makes numpy's scalars and arrays use the operators of this class
    __iter__ = None  # without this, Python would take a class with __getitem__ for an endless sequence

    # Reductions of activations.

    def __getitem__(self, index: Any) -> Feature:
        raise FeatureError(
            f"Only a hook point can be indexed, and only once; this feature is "
            f"{self.label!r}. Write the index directly after the hook point: hook(name)[...]."
        )

    def standardised(self) -> Feature:
        """Subtract the mean over the units and divide by their population standard deviation (Eq. 4)."""
        return Standardised(self)

    def __matmul__(self, direction: Any) -> Feature:
        """Return the inner product of the units with a direction `[d]`.

        ``hook(...)[-1].standardised() @ v`` is Eq. 4.
        """
        return Projected(self, Direction(direction))

    def cosine(self, direction: Any) -> Feature:
        """Return the cosine of the angle between the vector of units and a direction `[d]`."""
        return Cosine(self, Direction(direction))

    def norm(self) -> Feature:
        """Return the Euclidean length of the vector of units."""
        return Norm(self)

    def max(self) -> Feature:
        """Return the maximum over the remaining positions (the BOS is not among them)."""
        return Reduced(self, "max")

    def mean(self) -> Feature:
        """Return the mean over the remaining positions (the BOS is not among them)."""
        return Reduced(self, "mean")

    def clip(self, min: float | None = None, max: float | None = None) -> Feature:
        """Limit the value from below, from above, or both. Beyond a limit the gradient is zero."""
        if min is None and max is None:
            raise FeatureError("clip() needs a limit: clip(min=...), clip(max=...), or both.")
        low, high = (None if x is None else finite_number(x, "clip") for x in (min, max))
        if low is not None and high is not None and low > high:
            raise FeatureError(f"clip(min={low:g}, max={high:g}) leaves nothing: min is above max.")
        return Clipped(self, low, high)

    def on(self, model: Any) -> Feature:
        """Read this feature from another model with the same tokenizer, whatever model the rest is bound to.

        ``neuron(2, 17) - neuron(2, 17).on("base")`` is high where fine-tuning has changed the neuron.

        Args:
            model: TransformerBridge, Hugging Face id or folder.
        """
        if model is None or isinstance(model, (bool, int, float)) or (isinstance(model, str) and not model.strip()):
            raise FeatureError(f"on() takes a model, its Hugging Face id or a folder; got {quoted(model)}.")
        return OnModel(self, str(model) if isinstance(model, Path) else model)

    # Arithmetic. Sums are flattened and multiples are folded, so that equal features have equal trees.

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
            raise FeatureError(f"{self.label} / 0 is not a feature; divide by another number.")
        return scaled(1.0 / float(other), self)


@dataclass(frozen=True, repr=False)
class Unary(Feature):
    """Function of one feature.

    Attributes:
        of: Feature that the function is applied to.
    """

    of: Feature

    @property
    def children(self) -> tuple[Feature, ...]:
        """Feature that the function is applied to, as a tuple of one."""
        return (self.of,)

    def rebuild(self, children: tuple[Any, ...]) -> Self:
        """Return this function of another feature."""
        return replace(self, of=children[0])

    def at_every_position(self, place: Element) -> Feature | None:
        """Return this function of the feature read at every position, or None if it cannot be read so."""
        operand = self.of.at_every_position(place)
        return None if operand is None else replace(self, of=operand)


@dataclass(frozen=True, repr=False)
class Standardised(Unary, methods={"standardised": ()}):
    """``(h - mean(h)) / std(h)`` over the units, with the population standard deviation (Eq. 4)."""

    def write(self, writer: Writer) -> str:
        """Write `feature.standardised()`."""
        return f"{writer.operand(self.of)}.standardised()"


@dataclass(frozen=True, repr=False)
class Norm(Unary, methods={"norm": ()}):
    """Euclidean length over the units."""

    def write(self, writer: Writer) -> str:
        """Write `feature.norm()`."""
        return f"{writer.operand(self.of)}.norm()"


@dataclass(frozen=True, repr=False)
class Directed(Unary):
    """Function of the vector of units and a direction."""

    direction: Direction

    def map_paths(self, change: Callable[[str], str]) -> Self:
        """Return this node with the path of the direction's file changed, if the direction is read from a file."""
        path = self.direction.path
        return self if path is None else replace(self, direction=Direction(change(path)))

    def digest_key(self) -> bytes:
        """Return the numbers of the direction if it is read from a file, else nothing."""
        return b"" if self.direction.path is None else self.direction.values.tobytes()


@dataclass(frozen=True, repr=False)
class Projected(Directed):
    """Inner product of the units with a direction."""

    binds_loosely = True

    def write(self, writer: Writer) -> str:
        """Write `feature @ "direction"`."""
        return f"{writer.operand(self.of)} @ {writer.direction(self.direction)}"


@dataclass(frozen=True, repr=False)
class Cosine(Directed, methods={"cosine": ("direction",)}):
    """Cosine similarity of the units and a direction."""

    def write(self, writer: Writer) -> str:
        """Write `feature.cosine("direction")`."""
        return f"{writer.operand(self.of)}.cosine({writer.direction(self.direction)})"


@dataclass(frozen=True, repr=False)
class Reduced(Unary, methods={"max": (), "mean": ()}):
    """Maximum or mean over the remaining positions; `how` is "max" or "mean"."""

    how: str

    def write(self, writer: Writer) -> str:
        """Write `feature.max()` or `feature.mean()`."""
        return f"{writer.operand(self.of)}.{self.how}()"


@dataclass(frozen=True, repr=False)
class Clipped(Unary, methods={"clip": ("min", "max")}):
    """Value of a feature, limited to `[low, high]`."""

    low: float | None
    high: float | None

    def write(self, writer: Writer) -> str:
        """Write `feature.clip(min=..., max=...)`."""
        limits = [f"{n}={writer.number(x)}" for n, x in (("min", self.low), ("max", self.high)) if x is not None]
        return f"{writer.operand(self.of)}.clip({', '.join(limits)})"


@dataclass(frozen=True, repr=False)
class OnModel(Feature, methods={"on": ("model",)}):
    """Feature that is read from another model.

    It is a leaf: what is below it belongs to the other model, and the functions that walk through a tree to find the
    hook points of its own model do not enter it.

    Attributes:
        of: Feature of the other model.
        model: Other model: its name, or an object.
    """

    of: Feature
    model: Any

    is_leaf: ClassVar[bool] = True

    def write(self, writer: Writer) -> str:
        """Write `feature.on(model)`."""
        return f"{writer.operand(self.of)}.on({writer.source(self.model)})"

    @property
    def has_text_form(self) -> bool:
        """True if the model is given by a name from which it can be loaded, and the feature has a text form."""
        return isinstance(self.model, str) and all(node.has_text_form for node in self.of.walk())

    def map_paths(self, change: Callable[[str], str]) -> OnModel:
        """Return this feature with `change` applied to the paths below it and to the folder of the model."""
        of = self.of.transform(lambda node: None if node.children else node.map_paths(change))
        is_path = isinstance(self.model, str) and self.model != EMBEDDED_NAME
        return replace(self, of=of, model=change(self.model) if is_path else self.model)

    def absolute(self) -> OnModel:
        """Return this feature with existing relative paths made absolute, also those below it."""
        is_path = isinstance(self.model, str) and self.model != EMBEDDED_NAME
        return replace(self, of=self.of.absolute(), model=absolute_path(self.model) if is_path else self.model)

    def digest_key(self) -> bytes:
        """Return the data that determine the values of the nodes below it."""
        return b"".join(node.digest_key() for node in self.of.walk())

    def __hash__(self) -> int:
        return hash((self.of, self.model if isinstance(self.model, str) else id(self.model)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OnModel):
            return NotImplemented
        both_named = isinstance(self.model, str) and isinstance(other.model, str)
        same = self.model == other.model if both_named else self.model is other.model
        return same and self.of == other.of


@dataclass(frozen=True, repr=False)
class Scaled(Unary):
    """Feature multiplied by a number."""

    factor: float

    binds_loosely = True

    def write(self, writer: Writer) -> str:
        """Write `factor * feature`, or `-feature`."""
        operand = writer.operand(self.of)
        return f"-{operand}" if self.factor == -1 else f"{writer.number(self.factor)} * {operand}"


@dataclass(frozen=True, repr=False)
class Constant(Feature):
    """Number, which occurs only inside a sum."""

    value: float

    binds_loosely = True

    def write(self, writer: Writer) -> str:
        """Write the number."""
        return writer.number(self.value)


@dataclass(frozen=True, repr=False)
class Sum(Feature):
    """Sum of two or more features."""

    terms: tuple[Feature, ...]

    @property
    def children(self) -> tuple[Feature, ...]:
        """Terms of the sum."""
        return self.terms

    binds_loosely = True

    def rebuild(self, children: tuple[Any, ...]) -> Self:
        """Return the sum of other terms."""
        return type(self)(children)

    def write(self, writer: Writer) -> str:
        """Write `term + term - term`."""
        text = self.terms[0].write(writer)
        for term in self.terms[1:]:
            addend = term.write(writer)
            text += f" - {addend[1:]}" if addend.startswith("-") else f" + {addend}"
        return text


@dataclass(frozen=True, repr=False)
class Product(Feature):
    """Product of two or more features."""

    factors: tuple[Feature, ...]

    @property
    def children(self) -> tuple[Feature, ...]:
        """Factors of the product."""
        return self.factors

    binds_loosely = True

    def rebuild(self, children: tuple[Any, ...]) -> Self:
        """Return the product of other factors."""
        return type(self)(children)

    def write(self, writer: Writer) -> str:
        """Write `factor * factor`."""
        return " * ".join(writer.operand(factor) for factor in self.factors)


def scaled(factor: float, feature: Feature) -> Feature:
    """Return `factor * feature` in normal form: multiples of multiples are folded, sums are multiplied term by term."""
    factor = finite_number(factor, "arithmetic")
    if factor and abs(factor) < FLOAT32_TINY:
        raise FeatureError(
            f"A factor of {factor} is zero in float32, in which features are computed; use a larger one."
        )
    if isinstance(feature, Constant):
        return Constant(finite_number(factor * feature.value, "arithmetic"))
    if isinstance(feature, Scaled):
        return scaled(factor * feature.factor, feature.of)
    if isinstance(feature, Sum):
        return total(*(scaled(factor, term) for term in feature.terms))
    return feature if factor == 1 else Scaled(feature, factor)


def total(*terms: Feature) -> Feature:
    """Return the sum in normal form: flat, with at most one constant, which comes last."""
    flat = [inner for term in terms for inner in (term.terms if isinstance(term, Sum) else (term,))]
    constant = finite_number(sum(term.value for term in flat if isinstance(term, Constant)), "arithmetic")
    rest = [term for term in flat if not isinstance(term, Constant)]
    if not rest:
        return Constant(constant)
    if constant:
        rest.append(Constant(constant))
    return rest[0] if len(rest) == 1 else Sum(tuple(rest))


def product(*factors: Feature) -> Feature:
    """Return the product in normal form: flat, with one numeric factor in front of it."""
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


def _operand(x: Any) -> Feature | None:
    if isinstance(x, Feature):
        return x
    if isinstance(x, numbers.Real) and not isinstance(x, bool):
        return Constant(finite_number(x, "arithmetic"))
    return None

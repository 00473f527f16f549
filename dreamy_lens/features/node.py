"""Nodes of the feature tree, their text form, and the properties that every kind of node reports.

Each kind of node is a class that defines everything about itself that needs no model: its text form, the files that it
names, and whether its text describes it completely. A new kind is therefore a new class, not a new case in many places.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dreamy_lens.errors import FeatureError, quoted, shorten
from dreamy_lens.features.lexer import quote
from dreamy_lens.features.paths import absolute_path

if TYPE_CHECKING:
    from typing_extensions import Self

FUNCTIONS: dict[str, tuple[str, ...]] = {}
"""Functions of the text form, with the names of their arguments; every kind of node adds its own functions."""

METHODS: dict[str, tuple[str, ...]] = {}
"""Methods of the text form, with the names of their arguments; every kind of node adds its own methods."""


@dataclass(frozen=True)
class Span:
    """A slice ``start:stop:step`` of positions or units, hashable on every Python version."""

    start: int | None = None
    stop: int | None = None
    step: int | None = None

    def slice(self) -> slice:
        """Return the equivalent builtin slice."""
        return slice(self.start, self.stop, self.step)


DEEPEST = 100
"""Number of levels of the deepest tree. Python gives up after some 1,000 calls, and a level needs up to five."""

FLOAT32_TINY, FLOAT32_MAX = 2.0**-126, (2 - 2.0**-23) * 2.0**127
"""Smallest and largest size of a float32 number other than zero, in full precision."""

BOS = "bos"
"""The index of the beginning-of-sequence token, which is not counted in the prompt positions."""

LARGEST = 2**31
"""Bound of every index; no axis of an activation is as long."""

Element = Any  # int | Span | "bos" | Ellipsis


class Writer:
    """A writer of nodes as text, always on one line.

    Args:
        short: True to abbreviate inline directions and paths; such text is only for display to people.
        neurons: True to write a neuron of an MLP at the last token as `L2.N17` instead of its hook point.
    """

    def __init__(self, short: bool = False, neurons: bool = False) -> None:
        self.short, self.neurons = short, neurons

    def operand(self, node: Node) -> str:
        """Return the text of a node inside another node, in brackets if the node binds loosely."""
        return f"({node.write(self)})" if node.binds_loosely else node.write(self)

    def direction(self, direction: Any) -> str:
        """Return the text of a direction in quotes; the abbreviation of an inline direction has no quotes."""
        if self.short:
            text = direction.short if self.neurons else direction.described
            return text if direction.path is None else quote(text)
        return quote(direction.text)

    def source(self, source: Any) -> str:
        """Return a folder or a model's name in quotes; an object, which has no text form, is written as <its name>."""
        if isinstance(source, str):
            return quote(source.rstrip("/").rpartition("/")[2] if self.short else source)
        name = getattr(getattr(source, "cfg", None), "model_name", None) or type(source).__name__
        return f"<{quote(str(name))[1:-1]}>"

    @staticmethod
    def element(element: Element) -> str:
        """Return the text of one element of an index."""
        if element is Ellipsis:
            return "..."
        if isinstance(element, Span):
            start, stop = ("" if x is None else str(x) for x in (element.start, element.stop))
            return f"{start}:{stop}" + ("" if element.step is None else f":{element.step}")
        return str(element)

    @classmethod
    def position(cls, position: Element) -> str:
        """Return the text of a position argument of a function; empty for the last token, which is the default."""
        return "" if position == -1 else f", position={cls.element(position)}"

    @staticmethod
    def number(x: float) -> str:
        """Return the text of a number, without a decimal point if the number is whole."""
        return str(int(x)) if x == int(x) and abs(x) < 1e15 else repr(x)


class Node:
    """One node of an expression.

    Attributes:
        is_leaf: True if nodes of this kind read values from a model.
        binds_loosely: True if the text of the node needs brackets inside other nodes.
    """

    is_leaf: ClassVar[bool] = False
    binds_loosely: ClassVar[bool] = False

    def __init_subclass__(
        cls, functions: dict[str, tuple[str, ...]] | None = None, methods: dict[str, tuple[str, ...]] | None = None
    ) -> None:
        """Declare a kind of node.

        Args:
            functions: Functions of the text form that make nodes of this kind, with the names of their arguments.
            methods: Methods of the text form that make nodes of this kind, with the names of their arguments.
        """
        super().__init_subclass__()
        FUNCTIONS.update(functions or {})
        METHODS.update(methods or {})

    def __post_init__(self) -> None:
        """Raise FeatureError if the tree is nested too deeply for the functions that walk through it."""
        depth = 1 + max((getattr(child, "_depth", 1) for child in self.children), default=0)
        if depth > DEEPEST:
            raise FeatureError(
                f"A feature is nested at most {DEEPEST} levels deep, and this one is deeper: {shorten(self.label)}. "
                "Sums and products of many features are one level; write it with fewer functions inside each other."
            )
        object.__setattr__(self, "_depth", depth)

    # The tree.

    @property
    def children(self) -> tuple[Any, ...]:
        """The child nodes of this node."""
        return ()

    def rebuild(self, children: tuple[Any, ...]) -> Self:
        """Return this node with other children, equal in number to its present children."""
        return self

    def walk(self) -> Iterator[Any]:
        """Yield this node and all nodes below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def transform(self, change: Callable[[Any], Any | None]) -> Any:
        """Return the tree with some nodes replaced.

        Args:
            change: Function that returns the replacement of a node, or None to continue with the node's children.
        """
        new = change(self)
        return self.rebuild(tuple(child.transform(change) for child in self.children)) if new is None else new

    # Text.

    def write(self, writer: Writer) -> str:
        """Return the text form of this node."""
        raise TypeError(f"no text form for {type(self).__name__}")

    @property
    def label(self) -> str:
        """The short name, for titles and tables: neurons as `L2.N17`, and long directions abbreviated."""
        return self.write(Writer(short=True, neurons=True))

    @property
    def long_label(self) -> str:
        """The text form with long directions abbreviated and with the names of all hook points, for tooltips."""
        return self.write(Writer(short=True))

    def __str__(self) -> str:
        return self.write(Writer())

    def __repr__(self) -> str:
        return f"Feature({self.long_label})"

    # Properties of a node itself, without its children.

    @property
    def has_text_form(self) -> bool:
        """True if the text describes the node completely; False for functions and for objects of this session."""
        return True

    def map_paths(self, change: Callable[[str], str]) -> Self:
        """Return the node with `change` applied to the paths of the files and folders that the node names."""
        return self

    def digest_key(self) -> bytes:
        """Return data besides the text that determine the node's values: contents or stamps of the files it names."""
        return b""

    def named_hooks(self) -> tuple[str, ...]:
        """Return the hook points that the node names."""
        return ()

    def named_positions(self) -> tuple[Element, ...]:
        """Return the positions that the node names, except positions in an index of a hook point."""
        return ()

    def at_every_position(self, place: Element) -> Any | None:
        """Return the tree below this node, read at all positions instead of at `place`.

        `place` is the last position or all positions. The result is None if the tree is not read at `place`, or if its
        value at a position differs from its value on a prompt that ends at that position.
        """
        return None

    def absolute(self) -> Any:
        """Return the tree with existing relative paths made absolute, so that it is valid in any working folder.

        The change applies to files of directions, folders of sparse autoencoders, and folders of other models.
        """
        return self.rebuild(tuple(child.absolute() for child in self.children)).map_paths(absolute_path)


# Checks of user input.


def position(index: Any) -> int | Span | str:
    """Return a position in the form that expressions store: an integer, a span, or "bos"."""
    checked = element(index, "position")
    return Span() if checked is Ellipsis else checked


def element(index: Any, name: str) -> Element:
    """Return one element of an index in the form that expressions store: an integer, a span, ``...`` or "bos".

    Args:
        index: Element given by the user.
        name: Name of the indexed object, for error messages.
    """
    if index is Ellipsis or isinstance(index, Span) or (isinstance(index, str) and index == BOS):
        return index
    if isinstance(index, slice):
        start, stop, step = (None if x is None else integer(x, name) for x in (index.start, index.stop, index.step))
        if step is not None and step <= 0:
            raise FeatureError(
                f"{name}[{index.start}:{index.stop}:{index.step}]: the step of a slice must be positive."
            )
        return Span(start, stop, step)
    return integer(index, name)


def integer(x: Any, name: str) -> int:
    """Return an integer of any type as an `int`; raise FeatureError, with the valid indices of `name`, otherwise."""
    if isinstance(x, bool) or not isinstance(x, numbers.Integral):
        raise FeatureError(
            f'{name} is indexed with integers, slices, ..., or "bos"; got {quoted(x)} ({type(x).__name__}).'
        )
    if not -LARGEST < int(x) < LARGEST:  # such a number may not even be written: Python refuses 5,000 digits
        raise FeatureError(f"{name} is indexed with integers below {LARGEST}; here is one that is larger.")
    return int(x)


def finite_number(x: Any, where: str) -> float:
    """Return a finite number as a `float`; raise FeatureError, which names the place `where`, otherwise."""
    if isinstance(x, bool) or not isinstance(x, numbers.Real):
        raise FeatureError(f"{where} takes a number; got {quoted(x)} ({type(x).__name__}).")
    try:
        value = float(x)
    except OverflowError:  # an integer too large for a float
        value = math.inf
    if not math.isfinite(value):
        raise FeatureError(f"{where} takes finite numbers only; got {value}.")
    if abs(value) > FLOAT32_MAX:
        raise FeatureError(f"{where} is computed in float32, whose numbers end at 3.4e38; got {value}.")
    return value

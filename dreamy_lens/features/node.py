"""The tree that a feature is: its nodes, the text that they write, and what every kind of node tells about itself.

A kind of node answers for itself wherever that needs no model: how it is written, which files it names, whether its
text says all that it is. So a new kind is a new class, and not a new case in many places.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dreamy_lens.errors import FeatureError
from dreamy_lens.features.lexer import quote
from dreamy_lens.features.paths import absolute_path

if TYPE_CHECKING:
    from typing_extensions import Self

FUNCTIONS: dict[str, tuple[str, ...]] = {}
"""Functions of the text form, with the names of their arguments; every kind of node adds its own."""

METHODS: dict[str, tuple[str, ...]] = {}
"""Methods of the text form, with the names of their arguments; every kind of node adds its own."""


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


class Writer:
    """Writes nodes as text, always on one line.

    Args:
        short: whether inline directions and paths are abbreviated, for people only.
    """

    def __init__(self, short: bool = False) -> None:
        self.short = short

    def operand(self, node: Node) -> str:
        """A node inside another one: in brackets unless it binds as tightly."""
        return f"({node.write(self)})" if node.binds_loosely else node.write(self)

    def direction(self, direction: Any) -> str:
        """A direction in quotes, or an inline one's abbreviation without."""
        if self.short:
            return direction.short if direction.path is None else quote(direction.short)
        return quote(direction.text)

    def source(self, source: Any) -> str:
        """A folder or a model's name; an object, which has no text form, as <its name>."""
        if isinstance(source, str):
            return quote(source.rstrip("/").rpartition("/")[2] if self.short else source)
        name = getattr(getattr(source, "cfg", None), "model_name", None) or type(source).__name__
        return f"<{quote(str(name))[1:-1]}>"

    @staticmethod
    def element(element: Element) -> str:
        """One element of an index."""
        if element is Ellipsis:
            return "..."
        if isinstance(element, Span):
            start, stop = ("" if x is None else str(x) for x in (element.start, element.stop))
            return f"{start}:{stop}" + ("" if element.step is None else f":{element.step}")
        return str(element)

    @classmethod
    def position(cls, position: Element) -> str:
        """A position as the further argument of a function; nothing for the last token, which is the default."""
        return "" if position == -1 else f", position={cls.element(position)}"

    @staticmethod
    def number(x: float) -> str:
        """A number, without a decimal point if it is whole."""
        return str(int(x)) if x == int(x) and abs(x) < 1e15 else repr(x)


class Node:
    """One node of an expression.

    Attributes:
        is_leaf: whether nodes of this kind read something of a model.
        binds_loosely: whether the text needs brackets inside other nodes.
    """

    is_leaf: ClassVar[bool] = False
    binds_loosely: ClassVar[bool] = False

    def __init_subclass__(
        cls, functions: dict[str, tuple[str, ...]] | None = None, methods: dict[str, tuple[str, ...]] | None = None
    ) -> None:
        """Declare a kind of node.

        Args:
            functions: functions of the text form that make nodes of this kind, with the names of their arguments.
            methods: methods of the text form that make nodes of this kind, with the names of their arguments.
        """
        super().__init_subclass__()
        FUNCTIONS.update(functions or {})
        METHODS.update(methods or {})

    # The tree.

    @property
    def children(self) -> tuple[Any, ...]:
        """The nodes that this one is made of."""
        return ()

    def rebuild(self, children: tuple[Any, ...]) -> Self:
        """The same node over other children, as many as it has."""
        return self

    def walk(self) -> Iterator[Any]:
        """This node and everything below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def transform(self, change: Callable[[Any], Any | None]) -> Any:
        """The tree with some nodes replaced.

        Args:
            change: gives what is to stand in a node's place, or None to look further down.
        """
        new = change(self)
        return self.rebuild(tuple(child.transform(change) for child in self.children)) if new is None else new

    # Text.

    def write(self, writer: Writer) -> str:
        """The text form of this node."""
        raise TypeError(f"no text form for {type(self).__name__}")

    @property
    def label(self) -> str:
        """The text form, with long directions abbreviated: for titles and tables."""
        return self.write(Writer(short=True))

    def __str__(self) -> str:
        return self.write(Writer())

    def __repr__(self) -> str:
        return f"Feature({self.label})"

    # What a node tells about itself, its children aside.

    @property
    def has_text_form(self) -> bool:
        """Whether the text says all that the node is: not so for functions and for objects of this session."""
        return True

    def map_paths(self, change: Callable[[str], str]) -> Self:
        """The node with the files and folders that it names replaced by what `change` makes of them."""
        return self

    def digest_key(self) -> bytes:
        """What decides the node's values besides its text: the contents of the files that it names, or their stamps."""
        return b""

    def named_hooks(self) -> tuple[str, ...]:
        """The hook points that the node names."""
        return ()

    def named_positions(self) -> tuple[Element, ...]:
        """The positions that the node names, those in an index of a hook point aside."""
        return ()

    def at_every_position(self, place: Element) -> Any | None:
        """The tree below this node read at all positions instead of at `place`, which is the last one or all of them.

        None if it is not read at `place`, or if its value at a position is not what a prompt that ended there would
        give.
        """
        return None

    def absolute(self) -> Any:
        """The tree with absolute paths in the place of relative ones that exist here, so that it holds in any folder.

        This goes for directions' files, for sparse autoencoders' folders, and for the folders of other models.
        """
        return self.rebuild(tuple(child.absolute() for child in self.children)).map_paths(absolute_path)


# Checks of what users give.


def position(index: Any) -> int | Span | str:
    """A position as an expression keeps it: an integer, a span, or "bos"."""
    checked = element(index, "position")
    return Span() if checked is Ellipsis else checked


def element(index: Any, name: str) -> Element:
    """One element of an index as an expression keeps it: an integer, a span, ``...`` or "bos".

    Args:
        index: what the user gave.
        name: what is indexed, for messages.
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
    """An integer of any kind as an `int`; anything else is an error that says what `name` is indexed with."""
    if isinstance(x, bool) or not isinstance(x, numbers.Integral):
        raise FeatureError(f'{name} is indexed with integers, slices, ..., or "bos"; got {x!r} ({type(x).__name__}).')
    return int(x)


def finite_number(x: Any, where: str) -> float:
    """A finite number as a `float`; anything else is an error that names `where` it was given."""
    if isinstance(x, bool) or not isinstance(x, numbers.Real):
        raise FeatureError(f"{where} takes a number; got {x!r} ({type(x).__name__}).")
    try:
        value = float(x)
    except OverflowError:  # an integer beyond every float
        value = math.inf
    if not math.isfinite(value):
        raise FeatureError(f"{where} takes finite numbers only; here is one that is {value}.")
    return value

"""Constraints on prompts, as values: which tokens may stand where, and which prompts may exist at all.

They apply where candidates are drawn: a token that is forbidden is never proposed, and a mutation that breaks a rule is
drawn again instead of being scored; see :class:`~dreamy_lens.search.constraint_set.ConstraintSet`.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dreamy_lens.errors import ConstraintError

__all__ = ["fix", "forbid_text", "forbid_tokens", "printable", "round_trip", "template"]


@dataclass(frozen=True)
class Constraint:
    """Base of all constraints: equal values for equal rules; `describe()` is a line for tables and messages."""

    def describe(self) -> str:
        """What it demands, in words."""
        raise NotImplementedError


@dataclass(frozen=True)
class ForbidTokens(Constraint):
    """These tokens never stand in a prompt."""

    tokens: tuple[str | int, ...]

    def describe(self) -> str:
        """What it demands, in words."""
        shown, more = self.tokens[:8], len(self.tokens) - 8
        listed = ", ".join(map(repr, shown)) + (f" and {more} more" if more > 0 else "")
        return f"without the token{'s' * (len(self.tokens) > 1)} {listed}"


@dataclass(frozen=True)
class ForbidText(Constraint):
    """The prompt's text does not contain this, in any case, within a token or across several."""

    text: str

    def describe(self) -> str:
        """What it demands, in words."""
        return f"without the text {self.text!r} in any case"


@dataclass(frozen=True)
class RoundTrip(Constraint):
    """The prompt's text encodes to the very same tokens."""

    def describe(self) -> str:
        """What it demands, in words."""
        return "round-trips through its text"


@dataclass(frozen=True)
class Printable(Constraint):
    """No control characters, and no tokens that are parts of characters."""

    def describe(self) -> str:
        """What it demands, in words."""
        return "printable"


@dataclass(frozen=True)
class Fix(Constraint):
    """Given tokens at given positions."""

    at: tuple[tuple[int, str | int], ...]

    def describe(self) -> str:
        """What it demands, in words."""
        return ", ".join(f"{token!r} at position {position}" for position, token in self.at)


@dataclass(frozen=True)
class Template(Constraint):
    """Fixed text around the prompt, read by the feature, charged to no cross-entropy."""

    text: str

    def describe(self) -> str:
        """What it demands, in words."""
        return f"inside the template {self.text!r}"


def forbid_tokens(*tokens: str | int) -> ForbidTokens:
    """Tokens, given as text or id, that may not stand in a prompt.

    >>> forbid_tokens(" the", 17).describe()
    "without the tokens ' the', 17"
    """
    return ForbidTokens(tuple(_token(token, "forbid_tokens") for token in tokens))


def forbid_text(text: str) -> ForbidText:
    """Text that may not occur in the prompt's, whatever its case and whichever tokens it is made of (Section 3.1).

    Surrounding white space does not count: ``forbid_text(" dog")`` rejects "Dogma" and "hotdog" too.
    """
    if not isinstance(text, str) or not text.strip():
        raise ConstraintError(f"forbid_text() takes some visible text; got {text!r}.")
    return ForbidText(text.strip())


def round_trip() -> RoundTrip:
    """The prompt survives being written down: its text encodes to the same tokens, inside its template if any."""
    return RoundTrip()


def printable() -> Printable:
    """Only tokens that print: no control characters but new lines and tabs, no halves of characters."""
    return Printable()


def fix(at: Mapping[int, str | int]) -> Fix:
    """Tokens, given as text or id, that stand at positions 0, 1, ... (or -1, -2, ...) and are never changed.

    >>> fix({0: "The", -1: " dog"}).describe()
    "'The' at position 0, ' dog' at position -1"
    """
    if not isinstance(at, Mapping):
        raise ConstraintError(f'fix() takes tokens by position, as in fix({{0: "The"}}); got {at!r}.')
    for position in at:
        if isinstance(position, bool) or not isinstance(position, numbers.Integral):
            raise ConstraintError(
                f"fix() takes tokens by position, and {position!r} is not one: use 0, 1, ... or -1, -2, ..."
            )
    return Fix(tuple((int(position), _token(token, "fix")) for position, token in at.items()))


def _token(token: Any, where: str) -> str | int:
    """A token as it is kept: its text, or its id as a plain integer, which JSON can hold."""
    if isinstance(token, str) and token:
        return token
    if isinstance(token, bool) or not isinstance(token, numbers.Integral):
        many = " Several are given one by one: forbid_tokens(*tokens)." if where == "forbid_tokens" else ""
        raise ConstraintError(f"{where}() takes a token as its text or its id; got {token!r}.{many}")
    return int(token)


def to_dict(constraint: Constraint) -> dict[str, Any]:
    """A constraint as plain JSON values."""
    return {"kind": type(constraint).__name__, **asdict(constraint)}


def from_dict(data: dict[str, Any]) -> Constraint:
    """The inverse of :func:`to_dict`."""
    kinds = {c.__name__: c for c in (ForbidTokens, ForbidText, RoundTrip, Printable, Fix, Template)}
    rest = {name: value for name, value in data.items() if name != "kind"}
    if data.get("kind") not in kinds:
        raise ConstraintError(
            f"There is no constraint of the kind {data.get('kind')!r}; there are: {', '.join(kinds)}."
        )
    if "tokens" in rest:
        rest["tokens"] = tuple(rest["tokens"])
    if "at" in rest:
        rest["at"] = tuple((position, token) for position, token in rest["at"])
    return kinds[data["kind"]](**rest)


def template(text: str) -> Template:
    """Fixed text around the prompt, as in ``template("User: {dream} Assistant:")``."""
    if not isinstance(text, str) or text.count("{dream}") != 1:
        raise ConstraintError(f"A template has the prompt's place, {{dream}}, exactly once; got {text!r}.")
    return Template(text)

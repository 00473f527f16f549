"""Kinds of constraints, as values: what each demands, in words, as Python source and as JSON.

:mod:`~dreamy_lens.search.constraints` has the functions that check their arguments and make these values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dreamy_lens._literals import python_literal
from dreamy_lens.errors import ConstraintError, quoted
from dreamy_lens.search.chat import render_chat


@dataclass(frozen=True)
class Constraint:
    """Base class of constraints. Equal constraints are equal values; `describe()` is a line for tables and messages."""

    def describe(self) -> str:
        """Describe the constraint in words."""
        raise NotImplementedError

    def code(self) -> str:
        """Return the Python expression that makes the constraint."""
        return repr(self)


@dataclass(frozen=True)
class ForbidTokens(Constraint):
    """Constraint that some tokens never stand in a prompt."""

    tokens: tuple[str | int, ...]

    def describe(self) -> str:
        """Describe the constraint in words."""
        shown, more = self.tokens[:8], len(self.tokens) - 8
        listed = ", ".join(map(repr, shown)) + (f" and {more} more" if more > 0 else "")
        return f"without the token{'s' * (len(self.tokens) > 1)} {listed}"

    def code(self) -> str:
        """Return the Python expression that makes the constraint."""
        return f"dl.constraints.forbid_tokens({', '.join(map(python_literal, self.tokens))})"


@dataclass(frozen=True)
class ForbidText(Constraint):
    """Constraint that the prompt's text does not contain a text, in any case, within one token or across several."""

    text: str

    def describe(self) -> str:
        """Describe the constraint in words."""
        return f"without the text {quoted(self.text, 300)} in any case"

    def code(self) -> str:
        """Return the Python expression that makes the constraint."""
        return f"dl.constraints.forbid_text({python_literal(self.text)})"


@dataclass(frozen=True)
class RoundTrip(Constraint):
    """Constraint that the prompt's text encodes back to the same tokens."""

    def describe(self) -> str:
        """Describe the constraint in words."""
        return "round-trips through its text"

    def code(self) -> str:
        """Return the Python expression that makes the constraint."""
        return "dl.constraints.round_trip()"


@dataclass(frozen=True)
class Printable(Constraint):
    """Constraint that the prompt has no control characters and no tokens that are parts of characters."""

    def describe(self) -> str:
        """Describe the constraint in words."""
        return "printable"

    def code(self) -> str:
        """Return the Python expression that makes the constraint."""
        return "dl.constraints.printable()"


@dataclass(frozen=True)
class Varied(Constraint):
    """Constraint that the prompt does not repeat itself."""

    ngram: int
    distinct: float

    def describe(self) -> str:
        """Describe the constraint in words."""
        return (
            f"without a sequence of {self.ngram} tokens that occurs twice, {self.distinct:.0%} of the tokens distinct"
        )

    def code(self) -> str:
        """Return the Python expression that makes the constraint."""
        return f"dl.constraints.varied({self.ngram}, {self.distinct!r})"

    def holds(self, row: np.ndarray) -> bool:
        """Return whether token ids `[n]` obey the constraint."""
        ids = row.tolist()
        if len(set(ids)) < self.distinct * len(ids):
            return False
        sequences = [tuple(ids[i : i + self.ngram]) for i in range(len(ids) - self.ngram + 1)]
        return len(set(sequences)) == len(sequences)


@dataclass(frozen=True)
class Fix(Constraint):
    """Constraint that given tokens stand at given positions."""

    at: tuple[tuple[int, str | int], ...]

    def describe(self) -> str:
        """Describe the constraint in words."""
        return ", ".join(f"{quoted(token)} at position {position}" for position, token in self.at)

    def code(self) -> str:
        """Return the Python expression that makes the constraint."""
        return f"dl.constraints.fix({{{', '.join(f'{at}: {python_literal(token)}' for at, token in self.at)}}})"


@dataclass(frozen=True)
class Template(Constraint):
    """Fixed text around the prompt. The feature reads it; the cross-entropy does not count it."""

    text: str

    def describe(self) -> str:
        """Describe the constraint in words."""
        return f"inside the template {quoted(self.text, 300)}"

    def code(self) -> str:
        """Return the Python expression that makes the constraint."""
        return f"dl.constraints.template({python_literal(self.text)})"


@dataclass(frozen=True)
class Chat(Constraint):
    """Chat around the prompt, written by the model's own chat template. The cross-entropy does not count it.

    Attributes:
        messages: Messages as a JSON text.
        tools: Descriptions of tools as a JSON text; None for none.
        add_generation_prompt: Whether the text ends where the model would answer.
    """

    messages: str
    tools: str | None = None
    add_generation_prompt: bool = True

    def describe(self) -> str:
        """Describe the constraint in words."""
        turns = [f"{m['role']}: {_content(m)}" for m in json.loads(self.messages)]
        return f"inside the chat {quoted(' / '.join(turns), 300)}"

    def code(self) -> str:
        """Return the Python expression that makes the constraint."""
        tools = "" if self.tools is None else f", tools={json.loads(self.tools)!r}"
        closed = "" if self.add_generation_prompt else ", add_generation_prompt=False"
        return f"dl.constraints.chat({json.loads(self.messages)!r}{closed}{tools})"

    def texts(self, tokenizer: Any) -> tuple[str, str]:
        """Return the text before and after the prompt, by a tokenizer's chat template."""
        tools = None if self.tools is None else json.loads(self.tools)
        return render_chat(tokenizer, json.loads(self.messages), tools, self.add_generation_prompt)


@dataclass(frozen=True)
class Contexts(Constraint):
    """Several templates and chats; the prompt is scored inside each of them.

    Attributes:
        frames: Templates and chats.
        combine: Combination of the values: one of `COMBINATIONS`.
        softness: Softness of the soft minimum, in the feature's units.
        gradients_in: Number of contexts, drawn anew in every iteration, in which gradients are computed; None is all.
    """

    frames: tuple[Template | Chat, ...]
    combine: str = "mean"
    softness: float = 1.0
    gradients_in: int | None = None

    def describe(self) -> str:
        """Describe the constraint in words."""
        shown, more = [frame.describe() for frame in self.frames[:3]], len(self.frames) - 3
        listed = ", ".join(shown) + (f" and {more} more" if more > 0 else "")
        how = {"mean": "mean", "min": "minimum", "soft_min": f"soft minimum ({self.softness:g})"}[self.combine]
        return f"{how} of the values in {len(self.frames)} contexts: {listed}"

    def code(self) -> str:
        """Return the Python expression that makes the constraint."""
        frames = ", ".join(
            python_literal(frame.text) if isinstance(frame, Template) else frame.code() for frame in self.frames
        )
        more = "" if self.combine == "mean" else f", {python_literal(self.combine)}"
        more += "" if self.combine != "soft_min" else f", softness={self.softness!r}"
        more += "" if self.gradients_in is None else f", gradients_in={self.gradients_in}"
        return f"dl.constraints.contexts([{frames}]{more})"


COMBINATIONS = ("mean", "min", "soft_min")
"""Ways to combine the values in several contexts to one."""


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else json.dumps({k: v for k, v in message.items() if k != "role"})


def to_dict(constraint: Constraint) -> dict[str, Any]:
    """Return a constraint as JSON values."""
    values = {"kind": type(constraint).__name__, **asdict(constraint)}
    return {**values, "frames": list(map(to_dict, constraint.frames))} if isinstance(constraint, Contexts) else values


def from_dict(data: dict[str, Any]) -> Constraint:
    """Return the constraint that :func:`to_dict` turned into these values.

    Raises:
        ConstraintError: There is no constraint of this kind.
    """
    plain = (ForbidTokens, ForbidText, RoundTrip, Printable, Varied, Fix, Template, Chat, Contexts)
    kinds = {c.__name__: c for c in plain}
    rest = {name: value for name, value in data.items() if name != "kind"}
    if data.get("kind") not in kinds:
        raise ConstraintError(
            f"There is no constraint of the kind {data.get('kind')!r}; there are: {', '.join(kinds)}."
        )
    if "tokens" in rest:
        rest["tokens"] = tuple(rest["tokens"])
    if "frames" in rest:
        rest["frames"] = tuple(map(from_dict, rest["frames"]))
    if "at" in rest:
        rest["at"] = tuple((position, token) for position, token in rest["at"])
    return kinds[data["kind"]](**rest)

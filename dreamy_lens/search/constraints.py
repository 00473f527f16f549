"""Constraints on prompts: the tokens that may stand at each position, and the prompts that may exist.

A search applies constraints when it draws candidates. A forbidden token is never proposed, and a mutation that breaks a
constraint is drawn again instead of being scored. See :class:`~dreamy_lens.search.constraint_set.ConstraintSet`.
"""

from __future__ import annotations

import json
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

from dreamy_lens.errors import ConstraintError, quoted
from dreamy_lens.search.chat import PLACE, checked_messages, checked_tools
from dreamy_lens.search.constraint_kinds import (
    COMBINATIONS,
    Chat,
    Constraint,
    Contexts,
    Fix,
    ForbidText,
    ForbidTokens,
    Printable,
    RoundTrip,
    Template,
    Varied,
)

__all__ = ["chat", "contexts", "fix", "forbid_text", "forbid_tokens", "printable", "round_trip", "template", "varied"]


def forbid_tokens(*tokens: str | int) -> ForbidTokens:
    """Forbid tokens, each given as text or id, everywhere in the prompt.

    >>> forbid_tokens(" the", 17).describe()
    "without the tokens ' the', 17"
    """
    return ForbidTokens(tuple(_token(token, "forbid_tokens") for token in tokens))


def forbid_text(text: str) -> ForbidText:
    """Forbid text in the prompt's text, in any case and in any division into tokens (Section 3.1 of the paper).

    White space around the text is ignored: ``forbid_text(" dog")`` rejects "Dogma" and "hotdog" too.
    """
    if not isinstance(text, str) or not text.strip():
        raise ConstraintError(f"forbid_text() takes some visible text; got {quoted(text)}.")
    return ForbidText(text.strip())


def round_trip() -> RoundTrip:
    """Demand that the prompt's text encodes back to the same tokens, inside the template if there is one."""
    return RoundTrip()


def printable() -> Printable:
    """Demand tokens that print: no control characters except new lines and tabs, and no parts of characters."""
    return Printable()


def varied(ngram: int = 3, distinct: float = 0.55) -> Varied:
    """Demand that the prompt does not repeat itself, which a model often finds likely and a reader does not.

    Args:
        ngram: Length of the sequences of tokens of which none may occur twice.
        distinct: Smallest share of tokens that differ from one another, 0 to 1: 7 of 12 by default.

    Raises:
        ConstraintError: An argument is outside its range.

    >>> import numpy as np
    >>> varied().holds(np.array([1, 2, 3, 4, 5, 6])), varied().holds(np.array([1, 2, 3, 1, 2, 3]))
    (True, False)
    """
    if isinstance(ngram, bool) or not isinstance(ngram, numbers.Integral) or ngram < 1:
        raise ConstraintError(
            f"varied() takes the length of a sequence, a whole number of at least 1; got {quoted(ngram)}."
        )
    if isinstance(distinct, bool) or not isinstance(distinct, numbers.Real) or not 0 <= distinct <= 1:
        raise ConstraintError(f"varied() takes the share of distinct tokens, from 0 to 1; got {quoted(distinct)}.")
    return Varied(int(ngram), float(distinct))


def fix(at: Mapping[int, str | int]) -> Fix:
    """Fix tokens, each given as text or id, at positions 0, 1, ... (or -1, -2, ... from the end).

    >>> fix({0: "The", -1: " dog"}).describe()
    "'The' at position 0, ' dog' at position -1"
    """
    if not isinstance(at, Mapping):
        raise ConstraintError(f'fix() takes tokens by position, as in fix({{0: "The"}}); got {quoted(at)}.')
    for position in at:
        if isinstance(position, bool) or not isinstance(position, numbers.Integral):
            raise ConstraintError(
                f"fix() takes tokens by position, and {quoted(position)} is not a position: use 0, 1, ... "
                "or -1, -2, ..."
            )
    return Fix(tuple((int(position), _token(token, "fix")) for position, token in at.items()))


def _token(token: Any, where: str) -> str | int:
    """Check a token and return it as a JSON value: its text, or its id as a plain integer."""
    if isinstance(token, str) and token:
        return token
    if isinstance(token, bool) or not isinstance(token, numbers.Integral):
        many = " Give several tokens one by one: forbid_tokens(*tokens)." if where == "forbid_tokens" else ""
        raise ConstraintError(f"{where}() takes a token as its text or its id; got {quoted(token)}.{many}")
    return int(token)


def listed_constraints(constraints: Any) -> tuple[Constraint, ...]:
    """Return one constraint, or several in any iterable, as a tuple.

    Raises:
        ConstraintError: Something among them is not a constraint.
    """
    if isinstance(constraints, Constraint):
        return (constraints,)
    one_by_one = isinstance(constraints, Iterable) and not isinstance(constraints, (str, bytes, Mapping))
    listed: tuple[Any, ...] = tuple(constraints) if one_by_one else (constraints,)
    for one in listed:
        if not isinstance(one, Constraint):
            raise ConstraintError(_why_no_constraint(one))
    return listed


def _why_no_constraint(thing: Any) -> str:
    """Return the error message for something that is not a constraint."""
    for name, arguments in _CALLS.items():
        if thing is globals()[name]:
            return f"{name} is a function that makes a constraint, and it was not called: write {name}({arguments})."
    return (
        f"{quoted(thing)} is not a constraint; use those of dl.constraints (dreamy_lens.constraints): "
        f"{', '.join(__all__)}."
    )


_CALLS = {
    "chat": '"Tell me about {dream}."',
    "contexts": '["User: {dream}", "Note: {dream}"]',
    "fix": '{0: "The"}',
    "forbid_text": '" the"',
    "forbid_tokens": '" the", 17',
    "printable": "",
    "round_trip": "",
    "template": '"User: {dream}"',
    "varied": "",
}
"""Examples of the arguments of each function that makes a constraint."""


def template(text: str) -> Template:
    """Put fixed text around the prompt, which stands at `{dream}`: ``template("User: {dream} Assistant:")``.

    :func:`chat` writes the text of a chat by itself. It can be given here as it is, too: special tokens in it are
    tokens, and a BOS that it begins with is the one that stands before every prompt, not a second one.
    """
    if not isinstance(text, str) or text.count("{dream}") != 1:
        raise ConstraintError(f"A template has the prompt's place, {{dream}}, exactly once; got {quoted(text)}.")
    return Template(text)


def chat(messages: Any, add_generation_prompt: bool = True, *, tools: Any = None) -> Chat:
    """Put the prompt into a chat, at `{dream}` in one of its messages, by the tokenizer's own chat template.

    The feature reads the whole chat; the cross-entropy counts the prompt only. Special tokens stand in the chat and
    never in the prompt. Where the chat template begins with a BOS, that is the one BOS of the row.

    Args:
        messages: Messages with a role and a content, as chat templates take them: system, user, assistant and tool
            turns; or the text of one message of the user. If the last message is the assistant's, it is the beginning
            of the answer, which the model continues.
        add_generation_prompt: Whether the text ends where the model would answer, or go on with its answer; otherwise
            it ends with the end of the last turn.
        tools: Descriptions of tools, in the form that the chat template takes.

    Raises:
        ConstraintError: These are not messages, or the prompt's place is not in them exactly once; or another argument
            has a value that it cannot have.

    >>> chat("Tell me about {dream}.").describe()
    "inside the chat 'user: Tell me about {dream}.'"
    """
    if not isinstance(add_generation_prompt, bool):
        raise ConstraintError(f"add_generation_prompt is True or False; got {quoted(add_generation_prompt)}.")
    values, described = json.dumps(checked_messages(messages), ensure_ascii=False), checked_tools(tools)
    return Chat(values, json.dumps(described, ensure_ascii=False) if described else None, add_generation_prompt)


def contexts(frames: Any, combine: str = "mean", *, softness: float = 1.0, gradients_in: int | None = None) -> Contexts:
    """Score the prompt in several contexts at once, so that a search finds prompts that work in all of them.

    The value is the mean, the minimum or a soft minimum of the feature's values in the contexts. The cross-entropy is
    the mean of the prompt's cross-entropies in them.

    Args:
        frames: Contexts: templates (texts with `{dream}`), texts that stand before the prompt (without it), and chats
            (:func:`chat`, or lists of messages). At least two. :func:`dreamy_lens.corpus.passages` draws texts from a
            corpus.
        combine: "mean"; "min", the value in the worst context; or "soft_min", -s log(mean(exp(-v / s))), whose gradient
            follows all contexts, and those with low values most.
        softness: s of the soft minimum, in the feature's units: near 0 it is the minimum, for large s the mean.
        gradients_in: Number of contexts, drawn anew for the gradients of every iteration, which saves time with many
            contexts; None computes them in all. Scores are always those in all contexts.

    Raises:
        ConstraintError: There are fewer than two contexts, one is none, or a setting has a value that it cannot have.

    >>> contexts(["User: {dream}", "Dear diary,"], "min").describe()
    "minimum of the values in 2 contexts: inside the template 'User: {dream}', inside the template 'Dear diary,{dream}'"
    """
    one_by_one = isinstance(frames, Iterable) and not isinstance(frames, (str, bytes, Mapping))
    listed = [context_of(frame) for frame in frames] if one_by_one else []
    if len(listed) < 2:
        raise ConstraintError(
            f"contexts() takes at least two contexts in a list; got {quoted(frames)}. One is template() or chat()."
        )
    if len(set(listed)) < len(listed):
        twice = next(frame for i, frame in enumerate(listed) if frame in listed[:i])
        raise ConstraintError(f"contexts() has one context twice: {twice.describe()}. Leave one of them out.")
    if combine not in COMBINATIONS:
        raise ConstraintError(f"contexts() combines values by {', '.join(COMBINATIONS)}; got {quoted(combine)}.")
    real = isinstance(softness, numbers.Real) and not isinstance(softness, bool)
    if not real or not 0 < softness < float("inf"):
        raise ConstraintError(f"softness is a number above 0, in the feature's units; got {quoted(softness)}.")
    if not 1e-30 <= softness <= 1e30:
        other = "min" if softness < 1 else "mean"
        raise ConstraintError(f"softness is between 1e-30 and 1e30; for {quoted(softness)} write combine={other!r}.")
    if combine != "soft_min" and softness != 1:
        raise ConstraintError(f'softness= belongs to combine="soft_min", and combine is {combine!r}; leave it out.')
    if gradients_in is not None and (
        isinstance(gradients_in, bool) or not isinstance(gradients_in, numbers.Integral) or gradients_in < 1
    ):
        raise ConstraintError(f"gradients_in is a number of contexts, at least 1; got {quoted(gradients_in)}.")
    return Contexts(tuple(listed), combine, float(softness), None if gradients_in is None else int(gradients_in))


def context_of(given: Any) -> Template | Chat:
    """Return one context of :func:`contexts`: a text, the messages of a chat, or a constraint.

    Raises:
        ConstraintError: It is none of these.

    >>> context_of("Dear diary,") == template("Dear diary,{dream}")
    True
    """
    if isinstance(given, (Template, Chat)):
        return given
    if isinstance(given, (list, tuple)) and given and all(isinstance(message, Mapping) for message in given):
        return chat(given)
    if isinstance(given, str) and given.strip():
        return template(given if PLACE in given else given + PLACE)
    raise ConstraintError(
        f"A context is a text, a template or a chat; got {quoted(given)}. A text without {PLACE} stands before the "
        "prompt."
    )


def __dir__() -> list[str]:
    return sorted(__all__)

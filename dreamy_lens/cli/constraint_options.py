"""Options for constraints on prompts: what may stand in them, and the template, chat or contexts around them."""

from __future__ import annotations

import argparse
from typing import Any

import dreamy_lens as dl
from dreamy_lens._files import expanded
from dreamy_lens.cli.options import flag_of
from dreamy_lens.errors import ConstraintError
from dreamy_lens.search.constraint_kinds import Chat
from dreamy_lens.search.typed_frames import typed_chat

PASSAGES = 8
"""Number of contexts that are drawn from a corpus, if none is given."""

_CONTEXT_OPTIONS = ("combine", "softness", "gradients_in", "passages")
CONSTRAINT_OPTIONS = (
    *("forbid", "round_trip", "varied", "printable", "template", "chat", "context", "contexts_from"),
    *_CONTEXT_OPTIONS,
)
"""Names of the options of :func:`add_constraints`."""


def add_around(parser: argparse.ArgumentParser) -> None:
    """Add the options for the one template or chat around the prompt."""
    template = "fixed text around the prompt, as in 'User: {dream} Assistant:'"
    parser.add_argument("--template", metavar="TEXT", help=template)
    chat = "message of the user with {dream} in it, or a .json file of messages, written by the model's chat template; "
    chat += "the file may also have an object with messages, tools and add_generation_prompt"
    parser.add_argument("--chat", metavar="TEXT", help=chat)


def given_around(options: argparse.Namespace) -> list[Any]:
    """Return the template and the chat that the options of :func:`add_around` give, of which there may be one."""
    given: list[Any] = [dl.constraints.template(options.template)] if options.template is not None else []
    return given + ([_chat(options.chat)] if options.chat is not None else [])


def add_constraints(parser: argparse.ArgumentParser) -> None:
    """Add the options for constraints on prompts."""
    forbid = "text that must not occur, in upper or lower case; may be repeated"
    parser.add_argument("--forbid", metavar="TEXT", action="append", help=forbid)
    parser.add_argument("--varied", action="store_true", help="only prompts that do not repeat themselves")
    parser.add_argument("--round-trip", action="store_true", help="only prompts whose text encodes to the same tokens")
    parser.add_argument("--printable", action="store_true", help="only tokens of printable characters")
    add_around(parser)
    context = "one of several contexts of the prompt: a template, a text before the prompt, or a .json file of a chat; "
    parser.add_argument("--context", metavar="TEXT", action="append", help=f"{context}repeat it for each")
    source = "draw contexts before the prompt from a corpus: a file, folder, pattern, URL, or id of a data set"
    parser.add_argument("--contexts-from", metavar="SOURCE", help=source)
    count = f"number of contexts that --contexts-from draws (default {PASSAGES})"
    parser.add_argument("--passages", metavar="N", type=int, help=count)
    combine = f"combination of the values in the contexts: {', '.join(dl.constraints.COMBINATIONS)} (default mean)"
    parser.add_argument("--combine", metavar="NAME", choices=dl.constraints.COMBINATIONS, help=combine)
    softness = "softness of --combine soft_min, in the feature's units (default 1)"
    parser.add_argument("--softness", metavar="X", type=float, help=softness)
    drawn = "number of contexts, drawn anew in each iteration, in which gradients are computed (default: all)"
    parser.add_argument("--gradients-in", metavar="N", type=int, help=drawn)


def given_constraints(options: argparse.Namespace) -> list[Any]:
    """Return the constraints that the options of :func:`add_constraints` give.

    Raises:
        ConstraintError: A template, a chat or a context is none.
        CorpusError: The corpus of contexts cannot be read.
    """
    constraints: list[Any] = [dl.constraints.forbid_text(text) for text in options.forbid or ()]
    constraints += [dl.constraints.round_trip()] * options.round_trip
    constraints += [dl.constraints.varied()] * options.varied
    constraints += [dl.constraints.printable()] * options.printable
    constraints += given_around(options)
    if options.passages is not None and options.contexts_from is None:
        options.misused("--passages is about --contexts-from; give it with a corpus")
    if options.context is not None or options.contexts_from is not None:
        frames: list[Any] = [_chat(text) if text.endswith(".json") else text for text in options.context or ()]
        if options.contexts_from is not None:
            count = PASSAGES if options.passages is None else options.passages
            frames += dl.corpus.passages(options.contexts_from, count)
        given = {name: value for name in ("softness", "gradients_in") if (value := getattr(options, name)) is not None}
        constraints.append(dl.constraints.contexts(frames, options.combine or "mean", **given))
    elif about := [flag_of(name) for name in _CONTEXT_OPTIONS if getattr(options, name) is not None]:
        options.misused(f"{' and '.join(about)} is about several contexts; give them with --context")
    return constraints


def _chat(text: str) -> Chat:
    """Return the chat of a JSON file, or the one that a text describes."""
    if not text.endswith(".json"):
        return typed_chat(text)
    try:
        return typed_chat(expanded(text).read_text(encoding="utf-8"), is_json=True)
    except OSError as error:
        raise ConstraintError(f"The messages of the chat cannot be read from {text}: {error.strerror}.") from None
    except ValueError as error:
        raise ConstraintError(f"The messages of the chat in {text}: {error}") from None

"""Chats and contexts as they are typed, on the command line, in files and in the form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from dreamy_lens.errors import ConstraintError, quoted
from dreamy_lens.search.constraint_kinds import Chat
from dreamy_lens.search.constraints import chat

_CHAT = re.compile(r"\s*(\[\s*)?\{\s*\"")
_FRAMES = re.compile(r"\s*\[\s*(\"|\[|\{\s*\")")

CHAT_KEYS = ("messages", "tools", "add_generation_prompt")
"""Keys of a chat that is typed as an object: the arguments of :func:`dreamy_lens.constraints.chat`."""


def typed_chat(text: str, is_json: bool = False) -> Chat:
    """Return the chat that a text describes.

    Args:
        text: One message of the user with the prompt's place in it; or JSON: a list of messages, or an object with
            `messages`, and with `tools` and `add_generation_prompt` where they are needed.
        is_json: Whether the text has to be JSON, as that of a file has; otherwise its beginning shows what it is.

    Raises:
        ConstraintError: The text begins as JSON and is none, or describes no chat.

    >>> typed_chat('[{"role": "user", "content": "Tell me about {dream}."}]') == typed_chat("Tell me about {dream}.")
    True
    """
    return _chat_of(_json(text, "The chat")) if is_json or _CHAT.match(text) else chat(text)


def typed_frames(text: str) -> list[str | Chat]:
    """Return the contexts that a text describes, for :func:`dreamy_lens.constraints.contexts`.

    Args:
        text: Templates, and texts before the prompt, with `|` between them and without the spaces around them; or a
            JSON list of texts and chats.

    Raises:
        ConstraintError: The text begins as JSON and is none, or one of the chats is none.

    >>> typed_frames("Return {dream} | See also")
    ['Return {dream}', 'See also']
    """
    if not _FRAMES.match(text):
        return [part.strip() for part in text.split("|") if part.strip()]
    frames = _json(text, "The list of contexts")
    return [frame if isinstance(frame, str) else _chat_of(frame) for frame in frames]


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConstraintError(f"{what} is no JSON: {error}. It begins {quoted(text[:60])}.") from None


def _chat_of(value: Any) -> Chat:
    """Return the chat that JSON values describe."""
    if not isinstance(value, Mapping):
        return chat(value)
    wrong = [key for key in value if key not in CHAT_KEYS]
    if wrong or "messages" not in value:
        raise ConstraintError(
            f"A chat is a list of messages, or an object with {', '.join(CHAT_KEYS)}; got {quoted(dict(value))}."
        )
    return chat(**value)

"""Chats around a prompt: messages rendered by the model's own chat template, with one place for the dream."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dreamy_lens.errors import ConstraintError, quoted

PLACE = "{dream}"
"""Place of the prompt in a template or a chat."""

MESSAGES = "messages as in [{'role': 'user', 'content': 'Tell me about {dream}.'}]"


def checked_messages(messages: Any) -> list[dict[str, Any]]:
    """Check the messages of a chat, and return them as JSON values; a text is one message of the user.

    Raises:
        ConstraintError: They are not messages, or the prompt's place is not in them exactly once.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, Sequence) or not messages or not all(isinstance(m, dict) for m in messages):
        raise ConstraintError(f"chat() takes {MESSAGES}, or the text of one; got {quoted(messages)}.")
    for message in messages:
        if not isinstance(message.get("role"), str):
            raise ConstraintError(f"Every message of a chat has a role, such as 'user'; got {quoted(message)}.")
    values = checked_json(list(messages), "The messages of a chat")
    count = json.dumps(values, ensure_ascii=False).count(PLACE)
    if count != 1:
        raise ConstraintError(
            f"The messages of a chat have the prompt's place, {PLACE}, exactly once; these have it {count} times. "
            f"chat() takes {MESSAGES}."
        )
    return values


def checked_tools(tools: Any) -> list[dict[str, Any]] | None:
    """Check the descriptions of tools, and return them as JSON values; None for none.

    Raises:
        ConstraintError: They are not descriptions in a list.
    """
    if tools is None:
        return None
    if not isinstance(tools, Sequence) or isinstance(tools, str) or not all(isinstance(tool, dict) for tool in tools):
        raise ConstraintError(
            f"tools= takes a list of descriptions, each a dictionary in the form of the chat template; got "
            f"{quoted(tools)}."
        )
    return checked_json(list(tools), "tools=")


def checked_json(value: Any, what: str) -> Any:
    """Return a value as JSON has it, or raise ConstraintError."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise ConstraintError(f"{what} must be texts, numbers, lists and dictionaries: {error}.") from None


def render_chat(
    tokenizer: Any, messages: Sequence[dict[str, Any]], tools: Sequence[Any] | None, generation_prompt: bool
) -> tuple[str, str]:
    """Render a chat by a tokenizer's chat template, and return the text before and after the prompt.

    The text ends where the model would go on: after the beginning of the assistant's turn, or after the content of the
    last message if that is the assistant's. White space at the end of that content is as the chat template leaves it.

    Args:
        tokenizer: Hugging Face tokenizer.
        messages: Messages from :func:`checked_messages`.
        tools: Descriptions of tools, in the form that the chat template takes; None for none.
        generation_prompt: Whether the text ends there; otherwise it ends with the end of the last turn.

    Raises:
        ConstraintError: The tokenizer has no chat template, the template refuses the messages, or it changes the place
            of the prompt.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise ConstraintError(
            "The model's tokenizer has no chat template, so chat() has nothing to write the messages with. Use "
            'template("User: {dream} Assistant:") with the text of your choice.'
        )
    text = chat_text(tokenizer, messages, tools, generation_prompt)
    parts = text.split(PLACE)
    if len(parts) != 2:
        raise ConstraintError(
            f"The model's chat template writes the prompt's place, {PLACE}, {len(parts) - 1} times instead of once. "
            "Some templates leave out parts of earlier turns, or system messages; move the place to another message."
        )
    return parts[0], parts[1]


def chat_text(
    tokenizer: Any, messages: Sequence[Any], tools: Sequence[Any] | None = None, generation_prompt: bool = True
) -> str:
    """Render a chat by a tokenizer's chat template; see :func:`render_chat`.

    Args:
        tokenizer: Hugging Face tokenizer, which has a chat template.
        messages: Messages with a role and a content.
        tools: Descriptions of tools, in the form that the chat template takes; None for none.
        generation_prompt: Whether the text ends where the model would answer, or go on with its answer.

    Raises:
        ConstraintError: The template refuses the messages, or the assistant's last message has no text to go on with.
    """
    continues = generation_prompt and messages[-1]["role"] == "assistant"
    if continues and not _has_text(messages[-1].get("content")):
        raise ConstraintError(
            "The last message of the chat is the assistant's and has no text that the model could go on with. Leave it "
            "out, and the model answers; or write add_generation_prompt=False, and the chat ends with the end of it."
        )
    options: dict[str, Any] = {"continue_final_message": True} if continues else {}
    try:
        return tokenizer.apply_chat_template(
            list(messages),
            tools=None if tools is None else list(tools),
            tokenize=False,
            add_generation_prompt=generation_prompt and not continues,
            **options,
        )
    except Exception as error:  # a chat template raises what its author wrote into it
        detail = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConstraintError(f"The model's chat template refuses these messages: {detail}.") from error


def _has_text(content: Any) -> bool:
    """Return whether the content of a message has a text that is not blank; of several parts, the last text counts."""
    if isinstance(content, list):
        texts = [part["text"] for part in content if isinstance(part, dict) and "text" in part]
        content = texts[-1] if texts else ""
    return isinstance(content, str) and bool(content.strip())

"""Messages of the package in the words of the command line: its options in place of Python's keywords."""

from __future__ import annotations

import argparse
import re

_GIVEN = re.compile(r"""(?<![\w.])([a-z_]+)=(True|False|None|-?\d[\w.+-]*(?<!\.)|"[^"]*"|'[^']*'|\(\d+, \d+\))""")
"""Keyword with its value, such as `prepend_bos=False`."""
_NAMED = re.compile(r"^[a-z_]+(?= (?:is|are|has|must)\b)|(?<![\w./\"'-])[a-z]+(?:_[a-z]+)+(?![\w./=(\"'])")
"""Keyword without a value: the first word of a message, or one with an underscore."""


def in_options(message: str, parser: argparse.ArgumentParser) -> str:
    """Replace the keywords in a message by the options of a command, where it has them.

    What stands inside a call, such as `load_sae(..., ignore="model_name")`, is Python, and stays.

    Args:
        message: Message of an error or a warning.
        parser: Parser of the command.

    >>> parser = argparse.ArgumentParser()
    >>> _ = parser.add_argument("--batch-size")
    >>> _ = parser.add_argument("--no-bos", dest="prepend_bos", action="store_false")
    >>> in_options("batch_size is 0; use batch_size=32 and prepend_bos=False.", parser)
    '--batch-size is 0; use --batch-size 32 and --no-bos.'
    """
    options = _options(parser)

    def given(match: re.Match[str]) -> str:
        name, value = match.groups()
        if _is_in_call(message, match.start()):
            return match[0]
        if name == "length" and value.startswith("(") and "shortest" in options:
            return "--shortest {} --length {}".format(*value[1:-1].split(", "))
        if value in ("True", "False"):
            return options.get(f"{name}={value}", match[0])
        option = options.get(name)
        if option is None or value.startswith("("):
            return match[0]
        plain = value[1:-1] if re.fullmatch(r"""(["'])[\w.:/-]+\1""", value) else value
        return f"no {option}" if value == "None" else f"{option} {plain}"

    message = _GIVEN.sub(given, message.replace(", or None", ", or leave it out"))
    return _NAMED.sub(
        lambda match: match[0] if _is_in_call(message, match.start()) else options.get(match[0], match[0]), message
    )


def _options(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Map the keywords of a command to its options; those that are True or False have an entry for each."""
    found: dict[str, str] = {}
    for action in parser._actions:  # argparse has no public list
        if not action.option_strings:
            continue
        option = max(action.option_strings, key=len)
        if action.nargs == 0:
            found.setdefault(f"{action.dest}={action.const}", option)
        found.setdefault(action.dest, option)
    return found


def _is_in_call(message: str, place: int) -> bool:
    """Return whether a place of a message is between the parentheses of a call."""
    opened = []
    for i, character in enumerate(message[:place]):
        if character == "(":
            opened.append(i > 0 and (message[i - 1].isalnum() or message[i - 1] in "_]"))
        elif character == ")" and opened:
            opened.pop()
    return any(opened)

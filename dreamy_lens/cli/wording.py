"""Messages of the package in the words of the command line: its options in place of Python's keywords."""

from __future__ import annotations

import argparse
import re

from dreamy_lens.cli.commands import CommandParser

_QUOTED = r"""(?:(?<=[\s(\[{,:;])|(?<=^))(?:"[^"\n]*"|'[^'\n]*'|`[^`\n]*`|“[^”\n]*”)"""
_VALUE = r"""True|False|None|-?\d[\w.+-]*(?<!\.)|"[^"\n]*"|'[^'\n]*'|\(\d+,\ \d+\)"""
_WORDS = re.compile(
    rf"""(?P<quoted>{_QUOTED})
    |(?<![\w./=-])(?P<given>[a-z_]+)=(?P<value>{_VALUE})
    |(?<![\w./=-])(?P<empty>[a-z_]+)=(?=[.,;]?(?:\s|$))
    |^(?P<first>[a-z_]+)(?=\ (?:is|are|has|must)\b)
    |(?<![\w./=-])(?P<named>[a-z]+(?:_[a-z]+)+)(?![\w/=(-]|\.\w)
    |,\ or\ (?P<none>None)\b""",
    re.VERBOSE,
)
"""What is looked for in a message: a quotation; a keyword with its value, such as `prepend_bos=False`; one without its
value; one at the beginning; one with an underscore; and None as a choice."""
_OTHERWISE = {"n_tokens": "tokens"}
"""Keywords that the command line calls otherwise."""


def in_options(message: str, options: argparse.Namespace) -> str:
    """Replace the keywords in a message by the options of a command, where it has them.

    Quotations stay as they are, and so does what stands inside a call, such as `load_sae(..., ignore="model_name")`,
    and every keyword that is part of what the user typed, such as the name of a file.

    Args:
        message: Message of an error or a warning.
        options: Options of the command, with its `parser` and the `words` that the user typed.

    >>> parser = CommandParser()
    >>> _ = parser.add_argument("--batch-size")
    >>> _ = parser.add_argument("--no-bos", dest="prepend_bos", action="store_false")
    >>> options = argparse.Namespace(parser=parser, words=["--batch-size", "0"])
    >>> in_options("batch_size is 0; use batch_size=32 and prepend_bos=False.", options)
    '--batch-size is 0; use --batch-size 32 and --no-bos.'
    """
    known = _options(options.parser)
    typed = " ".join(word for word in options.words if not word.startswith("--"))

    def replaced(match: re.Match[str]) -> str:
        name = match["given"] or match["empty"] or match["first"] or match["named"] or match["none"]
        if name is None or name in typed or _is_in_call(message, match.start()):
            return match[0]
        if match["none"]:
            return ", or leave it out"
        option, value = known.get(name), match["value"]
        if value is None:
            return match[0] if option is None else option
        if value.startswith("("):
            return "--shortest {} --length {}".format(*value[1:-1].split(", ")) if name == "length" else match[0]
        if value in ("True", "False"):
            return known.get(f"{name}={value}", match[0])
        if option is None:
            return match[0]
        plain = value[1:-1] if re.fullmatch(r"""(["'])[\w.:/-]+\1""", value) else value
        return f"no {option}" if value == "None" else f"{option} {plain}"

    return _WORDS.sub(replaced, message)


def _options(parser: CommandParser) -> dict[str, str]:
    """Map the keywords of a command to its options; those that are True or False have an entry for each."""
    found: dict[str, str] = {}
    for action in parser.known_options:
        if not action.option_strings:
            continue
        option = max(action.option_strings, key=len)
        if action.nargs == 0:
            found.setdefault(f"{action.dest}={action.const}", option)
        found.setdefault(action.dest, option)
    for name, other in _OTHERWISE.items():
        if other in found:
            found.setdefault(name, found[other])
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

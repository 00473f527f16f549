"""Tokens of the text form of features, and the writing and reading of quoted text."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from dreamy_lens.errors import FeatureSyntaxError

SHORT_NEURON = re.compile(r"L([0-9]+)\.N([0-9]+)")
SHORT_EXPERT_NEURON = re.compile(r"L([0-9]+)\.E([0-9]+)\.N([0-9]+)")
NEURONS = re.compile(r'"(?:[^"\\]|\\.)*"|(?<![\w.])[lL]([0-9]+|\*)\.?[nN]([0-9]+|\*)(?!\w)')
"""A neuron, or many of them as in `L2.N*` or `L*.N3`; or a text in quotes, which has no groups."""
WILD_NAME = re.compile(r"(?<![\w.])[A-Za-z_][\w.]*\*[\w.*]*")
"""Name with a `*`, which stands for many hook points if there is a dot in it."""
LATENTS = re.compile(r'(?<![\w.])sae_latent\(\s*"(?:[^"\\]|\\.)*"\s*,\s*\*(?=\s*[,)])')
"""Beginning of a latent whose number is a `*`, which stands for every latent of the dictionary."""
LONGEST_NAME = 500
"""Number of characters of the longest name in a feature; those of hook points have about 50."""

_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
    |(?P<name>[^\W\d]\w*(?:\.\w+)*)
    |(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<dots>\.\.\.)
    |(?P<mark>[-+*/@()\[\],:.=])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPES = {'"': '"', "'": "'", "\\": "\\", "/": "/", "n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_LONGEST_NUMBER = 400  # characters; Python refuses to convert several thousand digits to an integer


class Token(NamedTuple):
    """One token of the text form.

    Attributes:
        kind: Kind of the token: "number", "name", "string", "dots", "mark" or "end".
        text: Characters of the token.
        at: Index of the first character of the token in the text.
    """

    kind: str
    text: str
    at: int


def tokenise(text: str) -> list[Token]:
    """Split a text into tokens. The last token is of kind "end".

    Raises:
        FeatureSyntaxError: A character has no meaning in a feature.
    """
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise FeatureSyntaxError(_stray(text[at]), text, at)
        kind = str(match.lastgroup)
        if kind == "number" and len(match.group()) > _LONGEST_NUMBER:
            raise FeatureSyntaxError("This number has too many digits.", text, at)
        if kind == "name" and len(match.group()) > LONGEST_NAME:
            raise FeatureSyntaxError(f"This name is longer than {LONGEST_NAME} characters.", text, at)
        if kind != "space":
            tokens.append(Token(kind, match.group(), at))
        at = match.end()
    return [*tokens, Token("end", "", len(text))]


def _stray(character: str) -> str:
    if character in "\"'":
        return "This quote is never closed."
    if character == "<":
        return (
            "'<' has no meaning here. <...> stands for an object in memory, which has no text form: build this feature "
            "in Python, or name a folder instead of the object."
        )
    if character in "“”‘’":
        return f"{character} is a typographic quote; write a straight one, \" or '."
    return f"{character!r} has no meaning here."


def is_name(text: str) -> bool:
    """Return True if a text is one token of kind "name": words of letters, digits and underscores, joined by dots."""
    match = _TOKEN.fullmatch(text)
    return match is not None and match.lastgroup == "name"


def quote(text: str) -> str:
    r"""Return a text in double quotes, on one line. Unprintable characters are escaped.

    >>> print(quote('a "word"'))
    "a \"word\""
    """
    raw = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in raw)


def unquote(token: Token, text: str) -> str:
    """Return the text that a "string" token of `text` represents.

    Raises:
        FeatureSyntaxError: The token has an unknown escape.
    """

    def meaning(match: re.Match[str]) -> str:
        if match[1]:
            return chr(int(match[1], 16))
        if match[2] not in _ESCAPES:
            raise FeatureSyntaxError(
                rf"There is no escape \{match[2]}; there are \" \' \\ \n \t \r \b \f \uXXXX. Write \\ for a backslash.",
                text,
                token.at + 1 + match.start(),
            )
        return _ESCAPES[match[2]]

    meant = _ESCAPE.sub(meaning, token.text[1:-1])
    if any("\ud800" <= c <= "\udfff" for c in meant):  # a character beyond \uFFFF is written as two escapes
        meant = meant.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return meant

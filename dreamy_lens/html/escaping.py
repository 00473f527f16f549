"""Make untrusted text safe to show, in HTML and elsewhere.

A model's vocabulary contains anything: tags, quotes, control characters, characters that reverse the writing direction,
halves of characters. All such text passes through :func:`visible` and :func:`escape` before it is shown, so that no
token becomes markup, runs as code, or disturbs the rest of its line.
"""

from __future__ import annotations

import html
import unicodedata

_SIGNS = {"\n": "↵", "\t": "→", "\r": "␍"}
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # invisible, but emoji and the letters of several scripts need them


def visible(text: str, token: bool = False) -> str:
    r"""Return a text with every character visible: newlines as ↵, tabs as →, other control characters by their code.

    Args:
        text: Any string; lone surrogates are allowed.
        token: Whether the text is one token by itself. If so, each space of a token that has only spaces is shown as ·,
            an empty token as ∅, and an accent without a letter on a dotted circle.

    >>> visible("a\n\tb\u202e")
    'a↵→b[U+202E]'
    >>> visible("  ", token=True), visible(" the", token=True)
    ('··', ' the')
    """
    if token and text.strip(_JOINERS) == "":
        return "".join(_code(c) for c in text) or "∅"
    if token and not text.strip():
        text = text.replace(" ", "·")
    if token and unicodedata.category(text[0]).startswith("M"):
        text = "◌" + text
    if text.isprintable():  # most text has nothing to replace
        return text
    return "".join(_SIGNS.get(c) or (_code(c) if _is_hidden(c) else c) for c in text)


def escape(text: object, token: bool = False) -> str:
    """Return text in its visible form as HTML, safe between tags and in quoted attributes."""
    return html.escape(visible(str(text), token), quote=True)


def _is_hidden(c: str) -> bool:
    """Return whether a character cannot be seen, or could be taken for another."""
    if c in " \u00ad" or c in _JOINERS:
        return c == "\u00ad"
    category = unicodedata.category(c)
    return category in _HIDDEN or category == "Zs"


def _code(c: str) -> str:
    """Return the code point of a character, such as `[U+202E]`."""
    return f"[U+{ord(c):04X}]"


class Html(str):
    """Markup that is already safe. Every other string is escaped before it becomes part of a page."""


def with_tooltip(text: str, tooltip: str) -> Html:
    """Return a text as HTML, with a tooltip that says more about it, if that is another text.

    >>> str(with_tooltip("L2.N17", "blocks.2.mlp.hook_post[-1, 17]"))
    '<span title="blocks.2.mlp.hook_post[-1, 17]">L2.N17</span>'
    """
    return Html(escape(text) if text == tooltip else f'<span title="{escape(tooltip)}">{escape(text)}</span>')


def safe(content: object) -> str:
    """Return a value as HTML: unchanged if it is :class:`Html`, escaped otherwise."""
    return content if isinstance(content, Html) else escape(content)

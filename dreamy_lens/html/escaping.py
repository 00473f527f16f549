"""Foreign text made safe to show, in HTML and anywhere else.

A model's vocabulary holds anything: tags, quotes, control characters, marks that turn the writing direction, halves of
characters. All of it passes through :func:`visible` and :func:`escape` before it is shown, so that no token becomes
markup, runs, or disturbs the line it stands in.
"""

from __future__ import annotations

import html
import unicodedata

_SIGNS = {"\n": "↵", "\t": "→", "\r": "␍"}
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # invisible, but letters of several scripts and emoji are written with them


def visible(text: str, token: bool = False) -> str:
    r"""Return a text in which everything can be seen: newlines as ↵, tabs as →, other control characters by their code.

    Args:
        text: any string, lone surrogates included.
        token: whether the text is one token by itself: a token of nothing but spaces is shown as ·, an empty one as ∅,
            and an accent without its letter gets a circle to stand on.

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
    return "".join(_SIGNS.get(c) or (_code(c) if _is_hidden(c) else c) for c in text)


def escape(text: object, token: bool = False) -> str:
    """Return visible text as HTML, safe between tags and in quoted attributes."""
    return html.escape(visible(str(text), token), quote=True)


def _is_hidden(c: str) -> bool:
    if c in " \u00ad" or c in _JOINERS:
        return c == "\u00ad"
    category = unicodedata.category(c)
    return category in _HIDDEN or category == "Zs"


def _code(c: str) -> str:
    return f"[U+{ord(c):04X}]"


class Html(str):
    """Markup that is safe as it is; every other string is escaped when it is put into a page."""


def safe(cell: object) -> str:
    """Return a cell as HTML: unchanged if it is :class:`Html`, escaped otherwise."""
    return cell if isinstance(cell, Html) else escape(cell)

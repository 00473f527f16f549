"""Values as Python source."""

from __future__ import annotations

from typing import Any


def python_literal(value: Any) -> str:
    """Return a value as it is written in Python, texts in double quotes where that needs no escapes.

    >>> print(python_literal(" the"), python_literal(17), python_literal('say "x"'))
    " the" 17 'say "x"'
    """
    text = repr(value)
    plain = isinstance(value, str) and text[0] == "'" and '"' not in text
    return f'"{text[1:-1]}"' if plain else text

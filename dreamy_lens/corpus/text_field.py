"""The field of a row, or the column of a table, that holds the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreamy_lens.errors import quoted

DEFAULT_FIELDS = ("text", "content")


def choose_text_field(columns: Mapping[str, bool], wanted: str | None) -> tuple[str | None, str]:
    """Return (column with the texts, "") or (None, why there is none).

    Args:
        columns: Name of every column, with True if the column holds strings.
        wanted: Column that the user named; None takes "text", else "content", else the only column of strings.

    >>> choose_text_field({"id": False, "story": True}, None)
    ('story', '')
    >>> choose_text_field({"title": True, "body": True}, None)
    (None, "it has several columns of strings: 'title', 'body'; name one with text_field=")
    """
    strings = [name for name, is_text in columns.items() if is_text]
    if wanted is not None:
        if wanted in strings:
            return wanted, ""
        reason = (
            f"its column {quoted(wanted)} holds no strings"
            if wanted in columns
            else f"it has no column {quoted(wanted)}"
        )
        return None, f"{reason}; columns of strings: {_listed(strings)}"
    for name in DEFAULT_FIELDS:
        if name in strings:
            return name, ""
    if len(strings) == 1:
        return strings[0], ""
    if not strings:
        return None, f"it has no column of strings; its columns: {_listed(list(columns))}"
    return None, f"it has several columns of strings: {_listed(strings)}; name one with text_field="


def explain_no_text(row: Any, field: str) -> str:
    """Return a clause that says why a row has no text in a field."""
    if not isinstance(row, dict):
        return f"an object was expected, but it is {_kind(row)}"
    if field not in row:
        return f"it has no field {quoted(field)}; its fields: {_listed(list(row))}"
    return f"its field {quoted(field)} is {_kind(row[field])}"


def _kind(value: Any) -> str:
    names = {
        type(None): "null",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:12]))
    return (shown + ", ..." if len(names) > 12 else shown) or "nothing"

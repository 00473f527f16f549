"""Static HTML: whole pages, fragments for notebooks, tables. No piece has a script of its own or fetches anything."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from dreamy_lens.html.escaping import Html, escape, safe


def table(columns: Sequence[object], rows: Iterable[Sequence[object]], ids: Sequence[str] | None = None) -> Html:
    """Return a table whose last column is text and whose other columns are numbers.

    Args:
        columns: heads of the columns.
        rows: cells of each row, escaped unless they are :class:`Html`.
        ids: the id of each row's element.
    """
    head = "".join(f"<th>{safe(c)}</th>" for c in columns)
    body = []
    for i, row in enumerate(rows):
        anchor = f' id="{escape(ids[i])}"' if ids else ""
        body.append(f"<tr{anchor}>{''.join(f'<td>{safe(cell)}</td>' for cell in row)}</tr>")
    return Html(f'<table class="dl-table"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>')


def fragment(body: str, *styles: str) -> str:
    """Return a piece for a notebook, with its style sheets and a ground of its own to be legible on.

    Args:
        body: HTML of the piece.
        styles: names of further style sheets beside this file.
    """
    rules = "".join(map(stylesheet, ("style.css", *styles)))
    return f'<div class="dl"><style>{rules}</style>{body}</div>'


def document(title: str, body: str, scripts: bool = False, styles: Sequence[str] = ()) -> str:
    """Return a whole page that fetches nothing, which its content security policy also enforces.

    Args:
        title: title of the page.
        body: HTML of the page.
        scripts: whether scripts in the body may run.
        styles: names of further style sheets beside this file.
    """
    rules = "".join(map(stylesheet, ("style.css", "page.css", *styles)))
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    policy += "; script-src 'unsafe-inline' blob:" if scripts else ""
    wide = ' class="dl-wide"' if scripts else ""  # a view has columns
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{rules}</style></head>"
        f'<body class="dl"><main{wide}>{body}</main></body></html>\n'
    )


@cache
def stylesheet(name: str) -> str:
    """Return one of the style sheets beside this file, without its comments and line ends."""
    rules = (Path(__file__).parent / name).read_text(encoding="utf-8")
    flat = re.sub(r"(/\*.*?\*/|\s)+", " ", rules, flags=re.DOTALL)
    return flat.replace(" { ", "{").replace("; }", "}").replace(" }", "}").strip()

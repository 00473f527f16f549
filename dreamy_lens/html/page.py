"""Static HTML: whole pages, fragments for notebooks, and tables. None of them contains a script or fetches anything."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from dreamy_lens.html.escaping import Html, escape, safe

_LONG = 24  # characters of a cell from which on the last column is one of texts


def html_table(columns: Sequence[object], rows: Iterable[Sequence[object]], ids: Sequence[str] | None = None) -> Html:
    """Return a table in which the last column is text and all other columns are numbers.

    A table that is wider than the page scrolls by itself. A long text keeps room for words, and on phones the column
    "perplexity" is left out.

    Args:
        columns: Headings of the columns.
        rows: Cells of each row, escaped unless they are :class:`Html`.
        ids: Id of each row's HTML element.
    """
    minor = [' class="dl-minor"' if column == "perplexity" else "" for column in columns]
    head = "".join(f"<th{kind}>{safe(c)}</th>" for kind, c in zip(minor, columns, strict=True))
    body, longest = [], 0
    for i, row in enumerate(rows):
        anchor = f' id="{escape(ids[i])}"' if ids else ""
        cells = "".join(f"<td{kind}>{safe(cell)}</td>" for kind, cell in zip(minor, row, strict=True))
        body.append(f"<tr{anchor}>{cells}</tr>")
        longest = max(longest, len(str(row[-1])))
    kind = "dl-table dl-texts" if longest > _LONG else "dl-table"
    rows_html = f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
    return Html(f'<div class="dl-rows"><table class="{kind}">{rows_html}</table></div>')


def warning(text: str) -> Html:
    """Return a sentence that readers must not miss, as a paragraph; "" for no text."""
    return Html(f'<p class="dl-warn">{escape(text)}</p>' if text else "")


def python_details(code: str, button: bool = False) -> Html:
    """Return a program as a closed part of a page; "" for no program.

    Args:
        code: Program, as Python.
        button: Whether to add a button that copies the program, which :func:`copy_script` shows.
    """
    if not code:
        return Html("")
    copy = '<button type="button" hidden>Copy</button>' if button else ""
    text = html.escape(code.encode("utf-8", "replace").decode("utf-8"), quote=False)
    pre = f'<pre dir="ltr" tabindex="0">{text}</pre>'
    return Html(f'<details class="dl-python"><summary>As Python</summary>{copy}{pre}</details>')


def fragment(body: str, *styles: str) -> str:
    """Return HTML for a notebook cell, with its style sheets and its own background.

    The theme of the notebook is unknown, so the text is legible only on a background that comes with it.

    Args:
        body: HTML of the content.
        styles: File names of further style sheets in the folder of this module.
    """
    rules = "".join(map(read_stylesheet, ("style.css", *styles)))
    return f'<div class="dl"><style>{rules}</style>{body}</div>'


def document(title: str, body: str, scripts: bool = False, styles: Sequence[str] = (), shared: str = "") -> str:
    """Return a whole page that fetches nothing from the network; its content security policy enforces this.

    Args:
        title: Title of the page.
        body: HTML of the page.
        scripts: Whether scripts in the body may run.
        styles: File names of further style sheets in the folder of this module.
        shared: Relative path of a file with :func:`page_rules`, which many pages share; "" puts them into the page.
    """
    rules = f'<link rel="stylesheet" href="{escape(shared)}">' if shared else f"<style>{page_rules(styles)}</style>"
    sources = "'unsafe-inline' 'self' file:" if shared else "'unsafe-inline'"
    policy = f"default-src 'none'; style-src {sources}; img-src data:; base-uri 'none'; form-action 'none'"
    policy += "; script-src 'unsafe-inline' blob:" if scripts else ""
    wide = ' class="dl-wide"' if scripts else ""  # interactive views have columns
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title>{rules}</head>"
        f'<body class="dl"><main{wide}>{body}</main></body></html>\n'
    )


def page_rules(styles: Sequence[str] = ()) -> str:
    """Return the style sheet of a whole page.

    Args:
        styles: File names of further style sheets in the folder of this module.
    """
    return "".join(map(read_stylesheet, ("style.css", "page.css", *styles)))


@cache
def copy_script() -> str:
    """Return the function `copies(root)`, which shows and serves the buttons of :func:`python_details`, as a script."""
    lines = (Path(__file__).parent / "copy.js").read_text(encoding="utf-8").splitlines()
    return "".join(f"{line.strip()}\n" for line in lines if not line.startswith("//"))


@cache
def read_stylesheet(name: str) -> str:
    """Return a style sheet in the folder of this module, without comments and line breaks."""
    rules = (Path(__file__).parent / name).read_text(encoding="utf-8")
    flat = re.sub(r"(/\*.*?\*/|\s)+", " ", rules, flags=re.DOTALL)
    return flat.replace(" { ", "{").replace("; }", "}").replace(" }", "}").strip()

"""Static pieces of text and HTML: tables, token strips, and everything that makes foreign text safe to show.

What a model's vocabulary holds is not under anyone's control: tokens are tags, quotes, control characters, marks that
turn the writing direction, halves of characters. All of it passes through :func:`visible` and :func:`escape` before it
is shown, so that nothing here becomes markup, runs, or disturbs the line it stands in. No piece has a script.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dreamy_lens.results.prompt import Prompt

PROMPT_COLUMNS = ("value", "cross-entropy", "perplexity", "text")

_SIGNS = {"\n": "↵", "\t": "→", "\r": "␍"}
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # invisible, but letters of several scripts and emoji are written with them


def visible(text: str, token: bool = False) -> str:
    r"""Text in which everything can be seen: newlines as ↵, tabs as →, control and format characters by their code.

    Args:
        text: any string, lone surrogates included.
        token: it stands alone, as a token does: spaces of a token that is nothing but space become ·, an empty one ∅,
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
    """Visible text as HTML, safe between tags and in quoted attributes."""
    return html.escape(visible(str(text), token), quote=True)


def _is_hidden(c: str) -> bool:
    if c in " \u00ad" or c in _JOINERS:
        return c == "\u00ad"
    category = unicodedata.category(c)
    return category in _HIDDEN or category == "Zs"


def _code(c: str) -> str:
    return f"[U+{ord(c):04X}]"


def decimals(values: Iterable[float], digits: int = 4) -> int:
    """Decimal places with which the largest of some numbers shows so many digits.

    >>> decimals([0.5, 12.0]), decimals([1234567.0]), decimals([0.00012])
    (2, 0, 6)
    """
    largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    return min(6, max(0, digits - 1 - math.floor(math.log10(largest)))) if largest > 0 else digits - 1


def number(value: float, places: int, sign: bool = False) -> str:
    """A number for people, with a real minus.

    >>> number(-1234.5, 1), number(0.25, 1, sign=True), number(float("nan"), 2)
    ('−1,234.5', '+0.2', '-')
    """
    if math.isnan(value):
        return "-"
    text = f"{value:{'+' if sign else ''},.{places}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−").replace("inf", "∞")


def perplexity(value: float) -> str:
    """A perplexity for people: three digits that matter."""
    return "∞" if math.isinf(value) else f"{value:,.1f}" if value < 99.95 else f"{value:,.0f}"


def prompt_rows(prompts: Sequence[Prompt]) -> list[list[str]]:
    """The cells under :data:`PROMPT_COLUMNS`."""
    places = decimals(p.value for p in prompts)
    scores = [(number(p.value, places), number(p.cross_entropy, 2), perplexity(p.perplexity)) for p in prompts]
    return [[*three, visible(p.text.removeprefix(" "))] for three, p in zip(scores, prompts, strict=True)]


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns of text, numbers to the right, the last column to the left."""
    if not rows:
        return "(no prompts)"
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns) - 1)]
    lines = [[*(cell.rjust(w) for cell, w in zip(row, widths, strict=False)), row[-1]] for row in (columns, *rows)]
    return "\n".join("  ".join(line) for line in lines)


class Html(str):
    """Markup that is safe as it is; every other string is escaped where it is put into a page."""


def safe(cell: object) -> str:
    """A cell as HTML: as it is if it is :class:`Html`, escaped otherwise."""
    return cell if isinstance(cell, Html) else escape(cell)


def table(columns: Sequence[object], rows: Iterable[Sequence[object]], ids: Sequence[str] | None = None) -> Html:
    """A table: the last column is text, all others are numbers.

    Args:
        columns: heads.
        rows: cells, escaped unless :class:`Html`.
        ids: an anchor for each row.
    """
    head = "".join(f"<th>{safe(c)}</th>" for c in columns)
    body = []
    for i, row in enumerate(rows):
        anchor = f' id="{escape(ids[i])}"' if ids else ""
        body.append(f"<tr{anchor}>{''.join(f'<td>{safe(cell)}</td>' for cell in row)}</tr>")
    return Html(f'<table class="dl-table"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>')


def prompt_table(prompts: Sequence[Prompt]) -> Html:
    """The table of a frontier."""
    if not prompts:
        return Html("<p>No prompts.</p>")
    rows = [[*row[:-1], text(p.text)] for row, p in zip(prompt_rows(prompts), prompts, strict=True)]
    return table(PROMPT_COLUMNS, rows)


def token_strip(
    tokens: Sequence[str],
    colours: Sequence[float],
    heights: Sequence[float],
    tooltips: Sequence[object],
    titles: Sequence[str] | None = None,
) -> Html:
    """Tokens in a line that wraps.

    Args:
        tokens: length n, each decoded by itself.
        colours: n numbers from 0 (no colour) to 1 (full colour); others are brought into the range, NaN counts as 0.
        heights: n numbers from 0 to 1, likewise; below 0 the foot of the bar is dotted.
        tooltips: n cards, escaped unless :class:`Html`.
        titles: n plain tooltips of the bars.
    """
    pieces = []
    for i, (token, colour, height, card) in enumerate(zip(tokens, colours, heights, tooltips, strict=True)):
        up = " dl-up" if height < 0 else ""
        title = f' title="{escape(titles[i])}"' if titles else ""
        pieces.append(
            f'<span class="dl-k{up}" tabindex="0" style="--d:{_share(colour)};--h:{_share(height)}"><i{title}></i>'
            f'<b>{escape(token, token=True)}</b><span class="dl-t" hidden>{safe(card)}</span></span>'
        )
    return Html(f'<div class="dl-strip">{"".join(pieces)}</div>')


def text(prompt: str) -> Html:
    """A prompt's text, without the space most begin with: other spaces kept, its writing direction kept to itself."""
    return Html(f'<bdi dir="ltr">{escape(prompt.removeprefix(" "))}</bdi>')


def fragment(body: str, *styles: str) -> str:
    """A piece for a notebook: the style comes along, and the piece has its own ground to be legible on.

    Args:
        body: its content.
        styles: names of more style sheets beside this file.
    """
    rules = "".join(map(stylesheet, ("style.css", *styles)))
    return f'<div class="dl"><style>{rules}</style>{body}</div>'


def document(title: str, body: str, scripts: bool = False, styles: Sequence[str] = ()) -> str:
    """A whole page that fetches nothing, which its content security policy also enforces.

    Args:
        title: of the page.
        body: its content.
        scripts: whether those in it may run; otherwise none does.
        styles: names of more style sheets beside this file.
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


def _share(x: float) -> str:
    """A number from 0 to 1 in as few characters as will do."""
    share = 0.0 if math.isnan(x) else min(1.0, max(0.0, x))
    return f"{share:.2f}".removesuffix("0").removesuffix(".0").replace("0.", ".")


@cache
def stylesheet(name: str) -> str:
    """One of the style sheets beside this file, without its comments and line ends."""
    rules = (Path(__file__).parent / name).read_text(encoding="utf-8")
    flat = re.sub(r"(/\*.*?\*/|\s)+", " ", rules, flags=re.DOTALL)
    return flat.replace(" { ", "{").replace("; }", "}").replace(" }", "}").strip()

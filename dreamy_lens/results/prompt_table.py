"""Tables of prompts: cells, aligned text, and HTML."""

from __future__ import annotations

from collections.abc import Sequence

from dreamy_lens.figures.protocols import ScoredPrompt
from dreamy_lens.html.escaping import Html, escape, visible
from dreamy_lens.html.numbers import decimals, format_perplexity, number
from dreamy_lens.html.page import html_table

PROMPT_COLUMNS = ("value", "cross-entropy", "perplexity", "text")


def prompt_rows(prompts: Sequence[ScoredPrompt]) -> list[list[str]]:
    """Return the cells of each prompt under :data:`PROMPT_COLUMNS`."""
    places = decimals(p.value for p in prompts)
    scores = [(number(p.value, places), number(p.cross_entropy, 2), format_perplexity(p.perplexity)) for p in prompts]
    return [[*cells, visible(p.text.removeprefix(" "))] for cells, p in zip(scores, prompts, strict=True)]


def prompt_table(prompts: Sequence[ScoredPrompt]) -> Html:
    """Return an HTML table of prompts, with the columns of :data:`PROMPT_COLUMNS`."""
    if not prompts:
        return Html("<p>No prompts.</p>")
    rows = [[*row[:-1], prompt_text(p.text)] for row, p in zip(prompt_rows(prompts), prompts, strict=True)]
    return html_table(PROMPT_COLUMNS, rows)


def prompt_text(text: str) -> Html:
    """Return a prompt's text as HTML, without its first space and isolated from the writing direction around it."""
    return Html(f'<bdi dir="ltr">{escape(text.removeprefix(" "))}</bdi>')


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as text with aligned columns: the last column to the left, all others to the right."""
    if not rows:
        return "(no prompts)"
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns) - 1)]
    lines = [[*(cell.rjust(w) for cell, w in zip(row, widths, strict=False)), row[-1]] for row in (columns, *rows)]
    return "\n".join("  ".join(line) for line in lines)

"""Cards that show prompts and windows, and tabs that group them. The HTML works without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dreamy_lens.html.escaping import Html, escape
from dreamy_lens.html.numbers import format_perplexity, number
from dreamy_lens.html.tokens import ValueScale, token_strip


@dataclass(frozen=True, eq=False)
class TextCard:
    """Card of one prompt or window.

    Attributes:
        name: Id of the card's HTML element.
        side: "dream" or "window".
        label: Heading of the card, such as "dream 3".
        tokens: Tokens of the text, each decoded by itself, length n.
        series: Value of the feature if the prompt ended at each token, `[n]`; None if unknown.
        value: Value of the feature on the whole text.
        cross_entropy: Cross-entropy of the text in nats per token; None if it was not measured.
        where: Origin of the text, such as a seed or a document.
        before: Text that leads up to the tokens.
        after: Text that follows the tokens.
        note: Remark below the tokens.
        tag: Badge of a word or two, and its explanation.
    """

    name: str
    side: str
    label: str
    tokens: tuple[str, ...]
    series: np.ndarray | None
    value: float
    cross_entropy: float | None
    where: str = ""
    before: str = ""
    after: str = ""
    note: str = ""
    tag: tuple[str, str] | None = None

    def html(self, scale: ValueScale) -> Html:
        """Return the card as HTML.

        Args:
            scale: Colour scale of the tokens, which several cards can share.
        """
        where = f"<span>{escape(self.where)}</span>" if self.where else ""
        note = f'<p class="dl-quiet">{escape(self.note)}</p>' if self.note else ""
        head = f'<span class="dl-mark-{self.side[0]}">{escape(self.label)}</span><b>{scale.number(self.value)}</b>'
        tag = f'<em title="{escape(self.tag[1])}">{escape(self.tag[0])}</em>' if self.tag else ""
        strip = token_strip(scale.tokens(self.tokens, self.series))
        line = f"{_context(self.before.lstrip())}{strip}{_context(self.after.rstrip())}"
        return Html(
            f'<article class="dl-e" id="{escape(self.name)}">'
            f'<p class="dl-head">{head}{self._fluency_html()}{where}{tag}</p>'
            f'<p class="dl-line">{line}</p>{note}</article>'
        )

    def inline_html(self, scale: ValueScale) -> Html:
        """Return the card with inline styles only, for viewers that remove style sheets.

        Args:
            scale: Colour scale of the tokens, which several cards can share.
        """
        head = [escape(self.label), f"<b>{scale.number(self.value)}</b>", escape(self._fluency()), escape(self.where)]
        head += [escape(self.tag[0])] if self.tag else []
        head_line = " · ".join(part for part in head if part)
        note = f'<div style="opacity:.75">{escape(self.note)}</div>' if self.note else ""
        strip = token_strip(scale.tokens(self.tokens, self.series), inline=True)
        return Html(f"<div>{head_line}</div>{strip}{note}")

    def _fluency(self) -> str:
        """Return the cross-entropy as text."""
        if self.cross_entropy is None:
            return "cross-entropy not measured"
        return f"cross-entropy {number(self.cross_entropy, 2)}"

    def _fluency_html(self) -> str:
        """Return the cross-entropy as HTML, with the perplexity as a tooltip."""
        if self.cross_entropy is None:
            return "<span>cross-entropy not measured</span>"
        exponential = float(np.exp(min(self.cross_entropy, 700.0)))
        return f'<span title="perplexity {format_perplexity(exponential)}">{self._fluency()}</span>'


def _context(text: str) -> str:
    """Return the text before or after a window, in a quieter colour."""
    return f'<span class="dl-around">{escape(text)}</span>' if text else ""


def card_list(cards: Sequence[TextCard], scale: ValueScale) -> Html:
    """Return several cards, one below the other, with one colour scale."""
    return Html("".join(card.html(scale) for card in cards))


def tabs(name: str, parts: Sequence[tuple[str, str]]) -> Html:
    """Return up to four tabs, of which one is shown at a time. Radio buttons switch between them, without a script.

    Args:
        name: Prefix of the buttons' ids; each set of tabs on a page needs its own.
        parts: Label and HTML of each tab.
    """
    heads = "".join(
        f'<input type="radio" name="{name}" id="{name}{i}"{" checked" if not i else ""}/>'
        f'<label for="{name}{i}">{escape(label)}</label>'
        for i, (label, _) in enumerate(parts)
    )
    panels = "".join(f"<section>{body}</section>" for _, body in parts)
    return Html(f'<div class="dl-tabs">{heads}<div class="dl-panels">{panels}</div></div>')

"""Prompts and windows as cards, and tabs to sort them by: HTML that reads without a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dreamy_lens.html.escaping import Html, escape
from dreamy_lens.html.numbers import number, perplexity
from dreamy_lens.html.tokens import ValueScale, token_strip


@dataclass(frozen=True, eq=False)
class TextCard:
    """One prompt or window to be shown.

    Attributes:
        name: the id of the card's element.
        side: "dream" or "window".
        label: what the text is, such as "dream 3".
        tokens: the tokens, each decoded by itself, length n.
        series: the feature's value if the prompt ended at each token, `[n]`; None if unknown.
        value: the feature's value on the whole text.
        cross_entropy: nats per token; None if it was not measured.
        where: where the text is from.
        before: text that leads up to the tokens.
        after: text that follows the tokens.
        note: a remark below the tokens.
        tag: a mark of a word or two, and what it means.
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
        """Return the card, with its tokens on a scale that it shares with other cards."""
        where = f"<span>{escape(self.where)}</span>" if self.where else ""
        note = f'<p class="dl-quiet">{escape(self.note)}</p>' if self.note else ""
        head = f'<span class="dl-mark-{self.side[0]}">{escape(self.label)}</span><b>{scale.number(self.value)}</b>'
        tag = f'<em title="{escape(self.tag[1])}">{escape(self.tag[0])}</em>' if self.tag else ""
        strip = token_strip(scale.tokens(self.tokens, self.series))
        line = f"{_context(self.before.lstrip())}{strip}{_context(self.after.rstrip())}"
        return Html(
            f'<article class="dl-e" id="{escape(self.name)}"><p class="dl-head">{head}{self._costs()}{where}{tag}</p>'
            f'<p class="dl-line">{line}</p>{note}</article>'
        )

    def inert(self, scale: ValueScale) -> Html:
        """Return the card for readers that let no style sheet through."""
        head = [escape(self.label), f"<b>{scale.number(self.value)}</b>", escape(self._fluency()), escape(self.where)]
        head += [escape(self.tag[0])] if self.tag else []
        head_line = " · ".join(part for part in head if part)
        note = f'<div style="opacity:.75">{escape(self.note)}</div>' if self.note else ""
        strip = token_strip(scale.tokens(self.tokens, self.series), inline=True)
        return Html(f"<div>{head_line}</div>{strip}{note}")

    def _fluency(self) -> str:
        if self.cross_entropy is None:
            return "cross-entropy not measured"
        return f"cross-entropy {number(self.cross_entropy, 2)}"

    def _costs(self) -> str:
        if self.cross_entropy is None:
            return "<span>cross-entropy not measured</span>"
        high = float(np.exp(min(self.cross_entropy, 700.0)))
        return f'<span title="perplexity {perplexity(high)}">{self._fluency()}</span>'


def _context(text: str) -> str:
    """Return the text around a window, set back."""
    return f'<span class="dl-around">{escape(text)}</span>' if text else ""


def card_list(cards: Sequence[TextCard], scale: ValueScale) -> Html:
    """Return several cards, one after the other, on one scale."""
    return Html("".join(card.html(scale) for card in cards))


def tabs(name: str, parts: Sequence[tuple[str, str]]) -> Html:
    """Return tabs: parts of which one is shown at a time, at most four, with radio buttons and no script.

    Args:
        name: start of the buttons' ids; different for each set of tabs on a page.
        parts: label and HTML of each part.
    """
    heads = "".join(
        f'<input type="radio" name="{name}" id="{name}{i}"{" checked" if not i else ""}/>'
        f'<label for="{name}{i}">{escape(label)}</label>'
        for i, (label, _) in enumerate(parts)
    )
    panels = "".join(f"<section>{body}</section>" for _, body in parts)
    return Html(f'<div class="dl-tabs">{heads}<div class="dl-panels">{panels}</div></div>')

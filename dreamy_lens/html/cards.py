"""Prompts and windows as cards, and tabs to sort them by: HTML that reads without a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dreamy_lens.html.page import Html, escape, number, perplexity
from dreamy_lens.html.tokens import ValueScale, inert_strip, strip


@dataclass(frozen=True, eq=False)
class TextCard:
    """One prompt or window to be shown.

    Attributes:
        name: the id of its element.
        side: "dream" or "window".
        label: what it is, such as "dream 3".
        tokens: each decoded by itself, length n.
        series: the feature's value if the prompt ended at each token, `[n]`; None if that is not known.
        value: of the feature.
        cross_entropy: nats per token; None if it was not measured.
        where: it is from.
        before: text that leads up to it.
        after: text that follows.
        note: something to be said about it.
        tag: a word or two that mark it, and what they mean.
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
        """The card, with its tokens on a scale that it shares with others."""
        where = f"<span>{escape(self.where)}</span>" if self.where else ""
        note = f'<p class="dl-quiet">{escape(self.note)}</p>' if self.note else ""
        head = f'<span class="dl-mark-{self.side[0]}">{escape(self.label)}</span><b>{scale.number(self.value)}</b>'
        tag = f'<em title="{escape(self.tag[1])}">{escape(self.tag[0])}</em>' if self.tag else ""
        line = f"{around(self.before.lstrip())}{strip(self.tokens, self.series, scale)}{around(self.after.rstrip())}"
        return Html(
            f'<article class="dl-e" id="{escape(self.name)}"><p class="dl-head">{head}{self._costs()}{where}{tag}</p>'
            f'<p class="dl-line">{line}</p>{note}</article>'
        )

    def inert(self, scale: ValueScale) -> Html:
        """The same for readers that let no style sheet through."""
        head = [escape(self.label), f"<b>{scale.number(self.value)}</b>", escape(self._fluency()), escape(self.where)]
        head += [escape(self.tag[0])] if self.tag else []
        said = " · ".join(part for part in head if part)
        note = f'<div style="opacity:.75">{escape(self.note)}</div>' if self.note else ""
        return Html(f"<div>{said}</div>{inert_strip(self.tokens, self.series, scale)}{note}")

    def _fluency(self) -> str:
        if self.cross_entropy is None:
            return "cross-entropy not measured"
        return f"cross-entropy {number(self.cross_entropy, 2)}"

    def _costs(self) -> str:
        if self.cross_entropy is None:
            return "<span>cross-entropy not measured</span>"
        high = float(np.exp(min(self.cross_entropy, 700.0)))
        return f'<span title="perplexity {perplexity(high)}">{self._fluency()}</span>'


def around(text: str) -> str:
    """The text around a window, set back."""
    return f'<span class="dl-around">{escape(text)}</span>' if text else ""


def cards(found: Sequence[TextCard], scale: ValueScale) -> Html:
    """Several, one after the other."""
    return Html("".join(one.html(scale) for one in found))


def tabs(name: str, parts: Sequence[tuple[str, str]]) -> Html:
    """Parts of which one is shown at a time, at most four. Radio buttons do it, so that no script is needed.

    Args:
        name: begins the ids of the buttons; of its own for each place.
        parts: labels, and what is shown under each, as HTML.
    """
    heads = "".join(
        f'<input type="radio" name="{name}" id="{name}{i}"{" checked" if not i else ""}/>'
        f'<label for="{name}{i}">{escape(label)}</label>'
        for i, (label, _) in enumerate(parts)
    )
    panels = "".join(f"<section>{body}</section>" for _, body in parts)
    return Html(f'<div class="dl-tabs">{heads}<div class="dl-panels">{panels}</div></div>')

"""What a feature does to the logits by itself: the tokens that it promotes and suppresses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dreamy_lens.html.escaping import Html, escape, visible
from dreamy_lens.html.numbers import decimals, number
from dreamy_lens.html.page import fragment

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TokenEffect:
    """One token, and what the feature does to its logit.

    Attributes:
        id: of the token.
        token: decoded by itself.
        change: of its logit, relative to the mean over all tokens.
    """

    id: int
    token: str
    change: float


@dataclass(frozen=True, repr=False)
class LogitEffect:
    """The direct path from a feature to the logits; made by :func:`dreamy_lens.analysis.logit_effect`.

    It is true or false as there is one or not.

    Attributes:
        feature: its label.
        promoted: the tokens whose logits rise most, most first.
        suppressed: those whose logits fall most, most first.
        values: the change of every token's logit relative to their mean, float32 `[d_vocab]`; NaN for rows that no
            token has; None if there is no effect.
        path: in words, what is followed, and what is left out; or why there is nothing to follow.
    """

    feature: str
    promoted: tuple[TokenEffect, ...]
    suppressed: tuple[TokenEffect, ...]
    values: np.ndarray | None = field(compare=False)
    path: str

    def __bool__(self) -> bool:
        return self.values is not None

    @property
    def deviation(self) -> float:
        """Standard deviation of the changes over all tokens: what a change is to be held against."""
        return float("nan") if self.values is None else float(np.nanstd(self.values))

    def to_pandas(self) -> pd.DataFrame:
        """One row per shown token: kind ("promoted" or "suppressed"), rank, token, id, change."""
        import pandas as pd

        kinds = {"promoted": self.promoted, "suppressed": self.suppressed}
        rows = [(kind, i, e.token, e.id, e.change) for kind, found in kinds.items() for i, e in enumerate(found)]
        return pd.DataFrame(rows, columns=["kind", "rank", "token", "id", "change"])

    def __repr__(self) -> str:
        if not self:
            return f"LogitEffect({self.feature}: none)"
        ends = (found[0].token if found else "" for found in (self.promoted, self.suppressed))
        return "LogitEffect({}: promotes {!r} most, suppresses {!r})".format(self.feature, *ends)

    def __str__(self) -> str:
        if not self:
            return self.path
        lines = []
        for kind, found in (("promoted", self.promoted), ("suppressed", self.suppressed)):
            shown = (f"{visible(e.token, token=True)!r} {number(e.change, self.places, True)}" for e in found)
            lines.append(f"{kind}: {', '.join(shown)}")
        return "\n".join([*lines, self.path])

    @property
    def places(self) -> int:
        """Decimal places to show changes with."""
        return decimals([e.change for e in (*self.promoted, *self.suppressed)], 3)

    def html(self) -> Html:
        """The tokens in two columns, each with a bar, and what they are in words."""
        if not self:
            return Html(f"<p>{escape(self.path)}</p>")
        full = max(abs(e.change) for e in (*self.promoted, *self.suppressed)) or 1.0
        columns = "".join(
            f'<div><h3>{kind}</h3><ol class="dl-effects{down}">{"".join(self._row(e, full) for e in found)}</ol></div>'
            for kind, down, found in (("promoted", "", self.promoted), ("suppressed", " dl-down", self.suppressed))
        )
        note = f'<p class="dl-note">{escape(self.path)}</p>'
        return Html(f'<div class="dl-effect">{columns}</div>{note}')

    def _number(self, effect: TokenEffect) -> str:
        return number(effect.change, self.places, True)

    def _row(self, effect: TokenEffect, full: float) -> str:
        share = f"{100 * abs(effect.change) / full:.0f}"
        token = f'<q title="id {effect.id}">{escape(effect.token, token=True)}</q>'
        return f'<li>{token}<i style="--w:{share}%"></i><span>{self._number(effect)}</span></li>'

    def _repr_html_(self) -> str:
        return fragment(f'<div class="dl-sides">{self.html()}</div>', "tokens.css", "cards.css")

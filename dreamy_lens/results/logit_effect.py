"""Direct effect of a feature on the logits: the tokens that it promotes and suppresses."""

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
    """Effect of a feature on the logit of one token.

    Attributes:
        id: Token id.
        token: Token, decoded by itself.
        change: Change of the token's logit, relative to the mean change over all tokens.
    """

    id: int
    token: str
    change: float


@dataclass(frozen=True, repr=False)
class LogitEffect:
    """Direct effect of a feature on the logits, from :func:`dreamy_lens.analysis.logit_effect`.

    It is false in a condition if the feature has no direct path to the logits.

    Attributes:
        feature: Label of the feature.
        promoted: Tokens whose logits rise most, the largest change first.
        suppressed: Tokens whose logits fall most, the largest change first.
        values: Change of every token's logit relative to the mean change, float32 `[d_vocab]`; NaN for rows without a
            token; None if there is no direct path.
        path: Description of the path that is followed and of what it leaves out; or the reason why there is no path.
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
        """Standard deviation of the changes over all tokens, a scale for single changes; NaN without a direct path."""
        return float("nan") if self.values is None else float(np.nanstd(self.values))

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row per promoted or suppressed token.

        The columns are kind ("promoted" or "suppressed"), rank, token, id and change.
        """
        import pandas as pd

        kinds = {"promoted": self.promoted, "suppressed": self.suppressed}
        rows = [(kind, i, e.token, e.id, e.change) for kind, effects in kinds.items() for i, e in enumerate(effects)]
        return pd.DataFrame(rows, columns=["kind", "rank", "token", "id", "change"])

    def __repr__(self) -> str:
        if not self:
            return f"LogitEffect({self.feature}: none)"
        strongest = (effects[0].token if effects else "" for effects in (self.promoted, self.suppressed))
        return "LogitEffect({}: promotes {!r} most, suppresses {!r})".format(self.feature, *strongest)

    def __str__(self) -> str:
        if not self:
            return self.path
        lines = []
        for kind, effects in (("promoted", self.promoted), ("suppressed", self.suppressed)):
            entries = (f"{visible(e.token, token=True)!r} {number(e.change, self.places, True)}" for e in effects)
            lines.append(f"{kind}: {', '.join(entries)}")
        return "\n".join([*lines, self.path])

    @property
    def places(self) -> int:
        """Number of decimal places of changes."""
        return decimals([e.change for e in (*self.promoted, *self.suppressed)], 3)

    def html(self) -> Html:
        """Return two columns of tokens with a bar for each change, and below them the description of the path."""
        if not self:
            return Html(f"<p>{escape(self.path)}</p>")
        largest = max(abs(e.change) for e in (*self.promoted, *self.suppressed)) or 1.0
        columns = ""
        for kind, down, effects in (("promoted", "", self.promoted), ("suppressed", " dl-down", self.suppressed)):
            rows = "".join(self._row(e, largest) for e in effects)
            columns += f'<div><h3>{kind}</h3><ol class="dl-effects{down}">{rows}</ol></div>'
        note = f'<p class="dl-note">{escape(self.path)}</p>'
        return Html(f'<div class="dl-effect">{columns}</div>{note}')

    def _number(self, effect: TokenEffect) -> str:
        """Format the change of one token."""
        return number(effect.change, self.places, True)

    def _row(self, effect: TokenEffect, largest: float) -> str:
        """Return one token as a list item. A change as large as `largest` has a full bar."""
        share = f"{100 * abs(effect.change) / largest:.0f}"
        token = f'<q title="id {effect.id}">{escape(effect.token, token=True)}</q>'
        return f'<li>{token}<i style="--w:{share}%"></i><span>{self._number(effect)}</span></li>'

    def _repr_html_(self) -> str:
        return fragment(f'<div class="dl-sides">{self.html()}</div>', "tokens.css", "cards.css")

"""Direct effect of a feature on the logits: the tokens that it promotes and suppresses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dreamy_lens.html.escaping import Html, escape, visible
from dreamy_lens.html.numbers import decimals, number
from dreamy_lens.html.page import fragment, python_details

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
    """Direct effect of a feature on the logits, from :func:`dreamy_lens.logit_effect`.

    It is false in a condition if the feature has no direct path to the logits.

    Attributes:
        feature: Label of the feature.
        promoted: Tokens whose logits rise most, the largest change first.
        suppressed: Tokens whose logits fall most, the largest change first.
        values: Change of every token's logit relative to the mean change, float32 `[d_vocab]`; NaN for rows without a
            token; None if there is no direct path.
        path: Description of the path that is followed and of what it leaves out; or the reason why there is no path.
        placebo_deviations: Standard deviation over all tokens of each placebo's changes, `[R]`.
        placebo_largest: Largest size of each placebo's changes, `[R]`.
        placebo_kind: What the placebos are, in words.
        code: Python code that makes the result again.
    """

    feature: str
    promoted: tuple[TokenEffect, ...]
    suppressed: tuple[TokenEffect, ...]
    values: np.ndarray | None = field(compare=False)
    path: str
    placebo_deviations: np.ndarray = field(default_factory=lambda: np.zeros(0), compare=False)
    placebo_largest: np.ndarray = field(default_factory=lambda: np.zeros(0), compare=False)
    placebo_kind: str = ""
    code: str = field(default="", compare=False)

    def __bool__(self) -> bool:
        return self.values is not None

    @property
    def deviation(self) -> float:
        """Standard deviation of the changes over all tokens, a scale for single changes; NaN without a direct path."""
        return float("nan") if self.values is None else float(np.nanstd(self.values))

    @property
    def largest(self) -> float:
        """Largest size of a change; NaN without a direct path."""
        return float("nan") if self.values is None else float(np.nanmax(np.abs(self.values)))

    @property
    def z(self) -> float:
        """Distance of the largest change from the mean of the placebos' largest, in their standard deviations.

        It is NaN with fewer than two placebos.
        """
        spread = float(self.placebo_largest.std(ddof=1)) if len(self.placebo_largest) > 1 else 0.0
        return (self.largest - float(self.placebo_largest.mean())) / spread if spread > 0 else float("nan")

    @property
    def share_below(self) -> float:
        """Share of the placebos whose largest change is smaller than that of the feature; NaN without placebos."""
        return float((self.placebo_largest < self.largest).mean()) if len(self.placebo_largest) else float("nan")

    @property
    def placebo_words(self) -> str:
        """Sentence that compares the effect with its placebos; "" without placebos."""
        if not len(self.placebo_largest) or self.values is None:
            return ""
        places = decimals([self.largest, *self.placebo_largest], 3)
        mean, deviation = float(self.placebo_largest.mean()), float(self.placebo_deviations.mean())
        return (
            f"Placebos, {len(self.placebo_largest)} {self.placebo_kind}: the largest change is "
            f"{number(self.largest, places)}, and theirs {number(mean, places)} on average "
            f"(z {number(self.z, 1, True)}; {100 * self.share_below:.0f} % of them are below); the standard deviation "
            f"over tokens is {self.deviation:.2g}, and theirs {deviation:.2g}."
        )

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
        return "\n".join([*lines, self.path, *([self.placebo_words] if self.placebo_words else [])])

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
        note = f'<p class="dl-note">{escape(" ".join([self.path, self.placebo_words]).strip())}</p>'
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
        return fragment(
            f'<div class="dl-sides">{self.html()}</div>{python_details(self.code)}', "tokens.css", "cards.css"
        )

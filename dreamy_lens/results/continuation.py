"""Continuation of a prompt: the text that a model writes after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.html.escaping import Html, escape
from dreamy_lens.html.page import fragment, python_details

if TYPE_CHECKING:
    import pandas as pd

ENDINGS = {
    "length": "the requested number of tokens",
    "end": "the model ended its text",
    "context": "the model's context is full",
}
"""Reasons why a continuation ends."""


@dataclass(frozen=True, eq=False, repr=False)
class Continuation:
    """Text that a model writes after a prompt, from :func:`dreamy_lens.generate`.

    Attributes:
        prompt: Text of the prompt, without BOS and template.
        prompt_ids: Token ids of the prompt, length n.
        text: Text that the model wrote. `str(continuation)` is the same.
        ids: Token ids that the model wrote, length m. A token that ends the text is not among them.
        tokens: Tokens that the model wrote, each decoded by itself, length m.
        log_probs: Log probability of each written token given everything before it, in nats, float32 `[m]`, at
            temperature 1.
        ended: Reason why the text ends, one of `ENDINGS`: "length", "end" or "context".
        model: Name of the model.
        temperature: Temperature of the sampling; 0 stands for the most probable token at each step.
        seed: Seed of the sampling; None at temperature 0.
        code: Python code that makes the continuation again.
    """

    prompt: str
    prompt_ids: tuple[int, ...]
    text: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    log_probs: np.ndarray
    ended: str
    model: str
    temperature: float
    seed: int | None
    code: str = ""

    @property
    def how(self) -> str:
        """How the tokens were chosen, such as "most probable tokens" or "sampled at temperature 0.7, seed 3"."""
        if self.temperature == 0:
            return "most probable tokens"
        return f"sampled at temperature {self.temperature:g}, seed {self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """Return the continuation as JSON values."""
        names = ("prompt", "text", "ended", "model", "temperature", "seed")
        lists = {name: list(getattr(self, name)) for name in ("prompt_ids", "ids", "tokens")}
        return {**{name: getattr(self, name) for name in names}, **lists, "log_probs": self.log_probs.tolist()}

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row per written token: token, id, log_prob."""
        import pandas as pd

        return pd.DataFrame({"token": list(self.tokens), "id": list(self.ids), "log_prob": self.log_probs})

    def html(self) -> Html:
        """Return the continuation as one line of HTML, each token with its probability as a tooltip."""
        tokens = "".join(
            f'<span title="probability {np.exp(p):.3g}">{escape(token)}</span>'
            for token, p in zip(self.tokens, self.log_probs, strict=True)
        )
        end = {"end": " ■", "length": "…", "context": "…"}[self.ended]
        return Html(f'<q class="dl-continues">{tokens}{end}</q>')

    def _repr_html_(self) -> str:
        note = f'<p class="dl-note">{escape(self.model)}, {escape(self.how)}; {ENDINGS[self.ended]}.</p>'
        line = f"<p><strong>{escape(self.prompt)}</strong> {self.html()}</p>"
        return fragment(f"{line}{note}{python_details(self.code)}", "tokens.css")

    def __len__(self) -> int:
        return len(self.ids)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Continuation({self.prompt!r} -> {self.text!r}, {self.how})"

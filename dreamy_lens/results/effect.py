"""Effects of an intervention on what a model predicts and on features, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamy_lens.html.escaping import visible
from dreamy_lens.html.numbers import number


@dataclass(frozen=True)
class TokenChange:
    """Change of the probability of one token as the next token.

    Attributes:
        id: Token id.
        token: Token, decoded by itself.
        before: Probability in the untouched model.
        after: Probability after the intervention.
        change: Change of the log-probability, in nats.
    """

    id: int
    token: str
    before: float
    after: float
    change: float


@dataclass(frozen=True)
class Effect:
    """What one pass gave, with or without an intervention.

    Attributes:
        strength: Strength of the intervention; None for the untouched model.
        coordinate: What the feature's vector multiplies, at the last position that is changed, after the intervention.
        kl: KL divergence of the next-token distribution from the untouched one, sum of p log(p / q), in nats.
        values: Value of the feature, and of each other feature that is read in the same pass.
        logits: Logits of the chosen tokens.
        log_probs: Log-probabilities of the chosen tokens, in nats.
        changes: Tokens whose probability rises most, the largest change first, and then those whose falls most.
        continuation: Text that the model writes after the prompt, most probable tokens first; "" if none is asked for.
        continuation_ids: Its token ids.
        cross_entropy: Mean cross-entropy of the continuation under the untouched model, in nats per token; None
            without a continuation.
    """

    strength: float | None
    coordinate: float
    kl: float
    values: tuple[float, ...]
    logits: tuple[float, ...] = ()
    log_probs: tuple[float, ...] = ()
    changes: tuple[TokenChange, ...] = ()
    continuation: str = ""
    continuation_ids: tuple[int, ...] = ()
    cross_entropy: float | None = None

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Effect:
        """Return the effect that `dataclasses.asdict` made JSON values of."""
        names = ("values", "logits", "log_probs", "continuation_ids")
        parts = {name: tuple(data[name]) for name in names}
        return cls(**{**data, **parts, "changes": tuple(TokenChange(**each) for each in data["changes"])})


def change_words(changes: Sequence[TokenChange], count: int = 4) -> str:
    """Return the tokens that change most as text: token, probability before, arrow, probability after."""
    some = sorted(changes, key=lambda each: -abs(each.after - each.before))[:count]
    return ", ".join(f"{visible(c.token, token=True)!r} {number(c.before, 3)} → {number(c.after, 3)}" for c in some)


def mean_of_known(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean over an axis without what is NaN; NaN where nothing is known."""
    known = np.isfinite(values)
    count = known.sum(axis)
    total = np.where(known, values, 0.0).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def without_nan(values: np.ndarray) -> Any:
    """Return an array as nested lists of JSON values, with None for what is no finite number."""
    if values.dtype.kind != "f":
        return values.tolist()
    found = values.astype(object)
    found[~np.isfinite(values)] = None
    return found.tolist()

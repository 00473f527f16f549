"""Prefix values: the value of a feature at every token of a prompt, as if the prompt ended there."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float32

from dreamy_lens.errors import DreamyLensError
from dreamy_lens.scoring.scorer import Scorer

Ids = tuple[int, ...]


def values_at_ends(
    rows: int, length: int, compute: Callable[[int], Float32[np.ndarray, " rows"]]
) -> Float32[np.ndarray, "rows length"]:
    """Collect the values of rows that are cut after each of their tokens.

    Args:
        rows: Number of rows.
        length: Number of tokens of a row.
        compute: Function that returns the values of all rows, cut after a given number of tokens.

    Returns:
        The values; NaN where the feature has none. A feature that reads position 5 has none at positions 0 to 4.
    """
    values = np.full((rows, length), np.nan, dtype=np.float32)
    for end in range(1, length + 1):
        try:
            values[:, end - 1] = compute(end)
        except DreamyLensError:
            continue
    return values


def values_at_tokens(scorer: Scorer, prompts: Iterable[Ids]) -> dict[Ids, Float32[np.ndarray, " n"]]:
    """Compute the value at every token of each prompt; NaN where the feature has none.

    Args:
        scorer: Scorer of the feature, used on the thread that may use the model. A scorer that scores prompts whole is
            faster here: see :meth:`Scorer.without_sharing`.
        prompts: Token ids of each prompt. Prompts of one length share their passes.

    Returns:
        The values at the tokens of each prompt, by the prompt's ids.
    """
    by_length: dict[int, list[Ids]] = {}
    for prompt in dict.fromkeys(prompts):
        by_length.setdefault(len(prompt), []).append(prompt)
    values: dict[Ids, np.ndarray] = {}
    for length, group in by_length.items():
        ids = np.array(group, dtype=np.int64)
        rows = values_at_ends(len(group), length, lambda end, ids=ids: scorer.values(ids[:, :end]))
        values.update(zip(group, rows, strict=True))
    return values

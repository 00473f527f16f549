"""The feature's value at every token of prompts: what it would be if the prompt ended there."""

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
    """Collect values of rows that are cut after each of their tokens.

    Args:
        rows: number of rows.
        length: tokens of a row.
        compute: gives the values of all rows cut after this many tokens.

    Returns:
        The values; NaN where the feature has none, as one that reads position 5 has none before it.
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
        scorer: for the feature; use it on the thread that may use the model. One that scores prompts whole is faster:
            see :meth:`Scorer.unshared`.
        prompts: ids of each prompt. Prompts of one length share their passes.
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

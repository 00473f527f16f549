"""The feature's value at every token of prompts: what it would be if the prompt ended there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from dreamy_lens.errors import DreamyLensError

if TYPE_CHECKING:
    from dreamy_lens.scoring.scorer import Scorer

Ids = tuple[int, ...]


def series(scorer: Scorer, prompts: Iterable[Ids]) -> dict[Ids, np.ndarray]:
    """Values at every token, float32 `[n]` for each prompt; NaN where the feature has none.

    Args:
        scorer: called where the model may be used; prompts of one length share their passes.
        prompts: ids of each.
    """
    rows: dict[int, list[Ids]] = {}
    for ids in dict.fromkeys(prompts):
        rows.setdefault(len(ids), []).append(ids)
    found: dict[Ids, np.ndarray] = {}
    for n, group in rows.items():
        ids = np.array(group, dtype=np.int64)
        values = np.full((len(group), n), np.nan, dtype=np.float32)
        for end in range(1, n + 1):
            try:
                values[:, end - 1] = scorer.values(ids[:, :end])
            except DreamyLensError:  # a feature that reads position 5 has no value before it
                continue
        found.update(zip(group, values, strict=True))
    return found

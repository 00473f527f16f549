"""Scoring of several features' prompts for all of these features: what one search tries, the others get to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from dreamy_lens.models.transfer import to_device, to_host
from dreamy_lens.scoring.forward import ForwardScorer
from dreamy_lens.scoring.joint import JointScorer
from dreamy_lens.scoring.scorer import Scorer

KEPT = 64
"""Largest number of calls whose scores are kept for features that have not been offered them yet."""


class Offer(NamedTuple):
    """Prompts that were scored for other features, with their scores for one feature.

    Attributes:
        ids: Token ids, int64 `[K, n]`.
        value: Values of the feature, float32 `[K]`.
        cross_entropy: Cross-entropies, float32 `[K]`, nats per token.
    """

    ids: Int64[np.ndarray, "K n"]
    value: Float32[np.ndarray, " K"]
    cross_entropy: Float32[np.ndarray, " K"]


class SharingScorer(JointScorer):
    """Joint scorer that computes every feature on every prompt, each of which goes through the model once.

    Args:
        scorers: Scorers that have one model, one fluency model, and one frame around the prompts.
    """

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        super().__init__(scorers)
        first = scorers[0].forward
        self._for_all = ForwardScorer([s.bound for s in scorers], first.frame, first.batches.size, first.share)
        for scorer in self.scorers:
            scorer.run_by = (self._for_all.passes, *(backward.passes for _, backward in self._backward))
        self._kept: list[tuple[int, np.ndarray, Tensor]] = []  # number of the call, prompts, and scores for everyone
        self._on_host: dict[int, np.ndarray] = {}
        self._calls, self._taken = 0, [0] * len(scorers)

    def release_graphs(self) -> None:
        """Free the memory of recorded passes; later passes record them anew."""
        super().release_graphs()
        self._for_all.passes.clear()

    def scores_on_device(self, ids: Mapping[int, Any]) -> dict[int, Tensor]:
        """Return values and cross-entropies `[2, B_i]` on the model's device, by the number of their scorer."""
        rows = {i: r for i, r in enumerate(self._rows(ids)) if i in ids}
        unique, place = np.unique(np.concatenate(list(rows.values())), axis=0, return_inverse=True)
        scores = self._for_all.score_for_all(unique)
        self._divide(self._for_all.work, {i: len(r) for i, r in rows.items()})
        self._calls += 1
        waited_for = [entry for entry in self._kept if entry[0] > min(self._taken)]
        self._kept = [*waited_for[1 - KEPT :], (self._calls, unique, scores)]
        places = np.split(place.reshape(-1), np.cumsum([len(r) for r in rows.values()])[:-1])
        found = {}
        for i, at in zip(rows, places, strict=True):
            at = to_device(at, scores.device)
            found[i] = torch.stack([scores[i, at], scores[-1, at]])
        return found

    def offer(self, number: int) -> Offer | None:
        """Return the prompts that were scored since the last offer to a scorer, with their scores for its feature."""
        new = [(call, ids, scores) for call, ids, scores in self._kept if call > self._taken[number]]
        self._taken[number] = self._calls
        missing = [(call, scores) for call, _, scores in new if call not in self._on_host]
        arrays = to_host(*(scores for _, scores in missing)) if missing else ()
        self._on_host |= {call: array for (call, _), array in zip(missing, arrays, strict=True)}
        self._on_host = {call: self._on_host[call] for call, *_ in self._kept if call in self._on_host}
        if not new:
            return None
        found = [self._on_host[call] for call, *_ in new]
        ids = np.concatenate([ids for _, ids, _ in new])
        return Offer(ids, *(np.concatenate([array[row] for array in found]) for row in (number, -1)))

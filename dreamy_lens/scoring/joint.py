"""Joint scoring: the prompts of several scorers of one model go through the same passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from dreamy_lens.errors import FeatureError
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.transfer import to_host
from dreamy_lens.scoring.backward import BackwardScorer
from dreamy_lens.scoring.forward import ForwardScorer
from dreamy_lens.scoring.scorer import Scorer, Scores
from dreamy_lens.scoring.token_gradient import Gradient
from dreamy_lens.scoring.work import Work


class JointScorer:
    """Scorer of several scorers' prompts in the same passes, each prompt for the feature of its own scorer.

    Args:
        scorers: Scorers that have one model, one fluency model, and one frame around the prompts.
    """

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        first = scorers[0]
        if any(s.model is not first.model or s.frame != first.frame for s in scorers):
            raise FeatureError("Scorers that work together must have one model, one fluency model, and one template.")
        self.scorers = tuple(scorers)
        for scorer in self.scorers:
            scorer.together = len(self.scorers)
        size, share = first.forward.batches.size, first.forward.share
        # Only features that read logits need every position to run through all layers, so they get passes of their own,
        # as do those whose rows end in different tokens.
        kinds: dict[tuple[bool, frozenset[HookedModel]], list[int]] = {}
        tails: dict[frozenset[HookedModel], list[int]] = {}
        for i, scorer in enumerate(self.scorers):
            ends = frozenset(model for model in scorer.bound.models if model.tail)
            kinds.setdefault((bool(scorer.bound.logits), ends), []).append(i)
            tails.setdefault(ends, []).append(i)
        self._forward = [
            (numbers, ForwardScorer([scorers[i].bound for i in numbers], first.frame, size, share))
            for _, numbers in sorted(kinds.items(), key=lambda kind: (kind[0][0], kind[1]))
        ]
        self._backward = [
            (numbers, BackwardScorer([scorers[i].bound for i in numbers], first.frame, size, share))
            for numbers in tails.values()
        ]
        for scorer in self.scorers:
            scorer.run_by = tuple(part.passes for _, part in (*self._forward, *self._backward))

    def release_graphs(self) -> None:
        """Free the memory of recorded passes; later passes record them anew."""
        for _, part in (*self._forward, *self._backward):
            part.passes.clear()

    def scores(self, ids: Mapping[int, np.ndarray]) -> dict[int, Scores]:
        """Score prompts `[B_i, n]`, given by the number of their scorer; all prompts have one length."""
        tensors = self.scores_on_device(ids)
        return {i: Scores(*array) for i, array in zip(tensors, to_host(*tensors.values()), strict=True)}

    def scores_on_device(self, ids: Mapping[int, Any]) -> dict[int, Tensor]:
        """Return values and cross-entropies `[2, B_i]` on the model's device, by the number of their scorer."""
        rows, scores = self._rows(ids), {}
        for numbers, forward in self._forward:
            if any(i in ids for i in numbers):
                results = zip(numbers, forward.score([rows[i] for i in numbers]), strict=True)
                scores |= {i: result.stack() for i, result in results if i in ids}
                self._divide(forward.work, {i: len(rows[i]) for i in numbers})
        return scores

    def gradients(self, ids: Mapping[int, Any]) -> dict[int, Gradient]:
        """Compute gradients for prompts `[B_i, n]`, given by the number of their scorer; all prompts have one length.

        Prompts given as tensors are on the model's device and are not checked; see :meth:`Scorer.gradient_on_device`.
        """
        rows, gradients = self._rows(ids), {}
        for numbers, backward in self._backward:
            if any(i in ids for i in numbers):
                gradients |= dict(zip(numbers, backward.gradient([rows[i] for i in numbers]), strict=True))
                self._divide(backward.work, {i: len(rows[i]) for i in numbers})
        return {i: gradients[i] for i in ids}

    def _divide(self, work: Work, prompts: Mapping[int, int]) -> None:
        """Divide the work of passes among the scorers, by the number of their prompts."""
        total = max(1, sum(prompts.values()))
        for i, count in prompts.items():
            self.scorers[i].work.token_layers += work.token_layers * count / total
        work.token_layers = 0.0

    def _rows(self, ids: Mapping[int, Any]) -> list[Any]:
        """Return the prompts of every scorer, none for a scorer without an entry; only arrays are checked."""
        first = next(iter(ids.values()))
        no_prompts = first[:0]
        if isinstance(first, Tensor):
            return [ids.get(i, no_prompts) for i in range(len(self.scorers))]
        return [s.check_prompts(ids[i]) if i in ids else no_prompts for i, s in enumerate(self.scorers)]

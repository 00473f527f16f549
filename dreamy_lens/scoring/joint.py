"""Several scorers of one model, whose prompts are scored in the same passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from dreamy_lens.errors import FeatureError
from dreamy_lens.models.transfer import to_host
from dreamy_lens.scoring.backward import BackwardScorer
from dreamy_lens.scoring.forward import ForwardScorer
from dreamy_lens.scoring.scorer import Scorer, Scores
from dreamy_lens.scoring.token_gradient import Gradient


class JointScorer:
    """Several scorers' prompts in the same passes, each prompt for its own scorer's feature.

    Args:
        scorers: of one model, one fluency model, and one frame around the prompts.
    """

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        first = scorers[0]
        if any(s.model is not first.model or s.frame != first.frame for s in scorers):
            raise FeatureError("Scorers that work together have one model, one fluency model, and one template.")
        self.scorers = tuple(scorers)
        size, share = first.forward.batches.size, first.forward.share
        # Features that read logits need places behind the prompt's last prediction run to the end; others do not.
        kinds = ([i for i, s in enumerate(scorers) if bool(s.bound.logits) is reads] for reads in (False, True))
        self._forward = [
            (numbers, ForwardScorer([scorers[i].bound for i in numbers], first.frame, size, share))
            for numbers in kinds
            if numbers
        ]
        models = tuple(dict.fromkeys(model for _, forward in self._forward for model in forward.models))
        bound = [s.bound for s in scorers]
        self._backward = BackwardScorer(bound, first.frame, models, size, share)

    def scores(self, ids: Mapping[int, np.ndarray]) -> dict[int, Scores]:
        """Scores of prompts `[B_i, n]`, by the number of the scorer they are for; all have one length."""
        tensors = self.scores_on_device(ids)
        return {i: Scores(*array) for i, array in zip(tensors, to_host(*tensors.values()), strict=True)}

    def scores_on_device(self, ids: Mapping[int, Any]) -> dict[int, Tensor]:
        """Values and cross-entropies left on the model's device, `[2, B_i]`, by the number of the scorer."""
        rows, out = self._rows(ids), {}
        for numbers, forward in self._forward:
            if any(i in ids for i in numbers):
                results = zip(numbers, forward.score([rows[i] for i in numbers]), strict=True)
                out |= {i: result.stack() for i, result in results if i in ids}
        return out

    def gradients(self, ids: Mapping[int, Any]) -> dict[int, Gradient]:
        """Gradients of prompts `[B_i, n]`, by the number of the scorer they are for; all have one length.

        Prompts that are tensors are on the model's device and known to be good; see :meth:`Scorer.gradient_on_device`.
        """
        gradients = self._backward.gradient(self._rows(ids))
        return {i: gradients[i] for i in ids}

    def _rows(self, ids: Mapping[int, Any]) -> list[Any]:
        """Prompts for every scorer, checked unless they are tensors; none for a scorer that has no entry."""
        first = next(iter(ids.values()))
        nothing = first[:0]
        if isinstance(first, Tensor):
            return [ids.get(i, nothing) for i in range(len(self.scorers))]
        return [s.check_prompts(ids[i]) if i in ids else nothing for i, s in enumerate(self.scorers)]

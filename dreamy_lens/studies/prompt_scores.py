"""Values of many features on given prompts, in one pass for all features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from dreamy_lens.features.expressions import Feature
from dreamy_lens.features.families import expressions
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.transfer import to_host
from dreamy_lens.scoring.feature_bank import given_order, make_banks
from dreamy_lens.scoring.prompts import PromptFrame
from dreamy_lens.scoring.window_scorer import WindowScorer


class PromptScores(NamedTuple):
    """Scores of B prompts for F features.

    Attributes:
        values: Values in the order of the features, float32 `[B, F]`.
        cross_entropy: Cross-entropies in nats per token, float32 `[B]`; NaN if they were not asked for.
    """

    values: Float32[np.ndarray, "B F"]
    cross_entropy: Float32[np.ndarray, " B"]


def prompt_scores(
    features: Sequence[Feature], model: HookedModel, rows: Int64[np.ndarray, "B n"], cross_entropy: bool = True
) -> PromptScores:
    """Compute the values of many features on prompts of one length.

    Args:
        features: Expressions; one that leaves an axis of units open stands for one feature per unit.
        model: Model.
        rows: Token ids.
        cross_entropy: Whether cross-entropies are computed, which needs all layers.

    >>> from dreamy_lens.features.parser import parse
    >>> from dreamy_lens.models.load import as_hooked
    >>> prompt_scores([parse("L2.N17"), parse("L3.N5")], as_hooked(), np.array([[5, 6, 7], [8, 9, 10]])).values.shape
    (2, 2)
    """
    banks = make_banks(expressions(list(features), model), model)
    frame = PromptFrame(model, model.prepends_bos)
    scorer = WindowScorer(banks, model, frame, rows.shape[1], cross_entropy)
    order = given_order(banks)
    values = np.empty((len(rows), len(order)), dtype=np.float32)
    losses = np.full(len(rows), np.nan, dtype=np.float32)
    with scorer.keep_hooks():
        for place, scores in scorer.passes(rows):
            parts = to_host(*scores.values)
            values[place] = np.concatenate(list(parts), axis=1)
            if scores.cross_entropy is not None:
                (losses[place],) = to_host(scores.cross_entropy)
    return PromptScores(values[:, order], losses)

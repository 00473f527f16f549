"""Score given prompts: `score()`."""

from __future__ import annotations

from typing import Any

import numpy as np

from dreamy_lens.features.parser import parse
from dreamy_lens.models.load import as_hooked
from dreamy_lens.scoring.prompts import as_ids
from dreamy_lens.scoring.scorer import Scorer, Scores


def score(
    feature: Any,
    prompts: Any,
    model: Any = None,
    *,
    fluency_model: Any = None,
    prepend_bos: bool | None = None,
    **options: Any,
) -> Scores:
    """Compute value and cross-entropy of any prompts.

    Args:
        feature: an expression or its text.
        prompts: one text, several texts of any lengths, or token ids `[n]` or `[B, n]` without BOS.
        model: a bridge, a Hugging Face id or folder; None is the embedded model.
        fluency_model: the model whose cross-entropy is measured; None is the model itself. It must share the tokenizer.
        prepend_bos: whether prompts follow a BOS; None is the model's convention.
        **options: as for :class:`~dreamy_lens.scoring.scorer.Scorer`: `prefix`, `suffix`, `batch_size`,
            `share_prefixes`.

    Returns:
        Scores, one per prompt, in the order given.

    Raises:
        PromptError: a prompt is empty, too long for the model, or has ids outside its vocabulary.

    >>> import dreamy_lens as dl
    >>> scores = dl.score('log_prob(" the")', ["Return a copy of", "pickle pickle"])
    >>> bool(scores.value[0] > scores.value[1])
    True
    """
    hooked, expression = as_hooked(model), parse(feature)
    fluency = None if fluency_model is None else as_hooked(fluency_model)
    scorer = Scorer(expression, hooked, fluency_model=fluency, prepend_bos=prepend_bos, **options)
    rows = as_ids(prompts, scorer.vocabulary)
    value = np.empty(len(rows), dtype=np.float32)
    cross_entropy = np.empty(len(rows), dtype=np.float32)
    for n in sorted({len(row) for row in rows}):
        at = [i for i, row in enumerate(rows) if len(row) == n]
        scores = scorer.score(np.stack([rows[i] for i in at]))
        value[at], cross_entropy[at] = scores.value, scores.cross_entropy
    return Scores(value, cross_entropy)

"""Scores of given prompts: `score()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dreamy_lens._host import working
from dreamy_lens.api.signatures import parse_first
from dreamy_lens.errors import names_keywords, warn
from dreamy_lens.models.load import as_hooked
from dreamy_lens.scoring.prompts import as_ids
from dreamy_lens.scoring.scorer import Scores
from dreamy_lens.search.frames import scorer_around


@names_keywords
def score(
    feature: Any,
    prompts: Any,
    model: Any = None,
    *,
    fluency_model: Any = None,
    prepend_bos: bool | None = None,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
    contexts: Any = None,
    batch_size: int | None = None,
    share_prefixes: bool | None = None,
) -> Scores:
    """Compute the feature's value and the cross-entropy of given prompts.

    Args:
        feature: Expression, or its text such as ``"L2.N17"``.
        prompts: One text, several texts of any lengths, or token ids `[n]` or `[B, n]`. A BOS is put before each by the
            model's convention; one that a prompt begins with is that one, and there are never two. Other special
            tokens in a text are tokens of the prompt.
        model: TransformerBridge, Hugging Face id, or folder of a model; None is the embedded model.
        fluency_model: Model whose cross-entropy is measured, with the same tokenizer; None is `model`.
        prepend_bos: Whether a BOS token stands before every prompt; None is the model's convention.
        prefix: Token ids of a template before every prompt.
        suffix: Token ids of a template after every prompt.
        contexts: Template, chat or several contexts, from :mod:`dreamy_lens.constraints`, in place of `prefix` and
            `suffix`.
        batch_size: Most prompts in one forward pass; None chooses the number.
        share_prefixes: Whether prompts with a common beginning share its computation. None shares it where the numbers
            are the same; False scores whole prompts.

    Returns:
        Scores of the prompts, in the given order: `.value`, float32 `[B]`, in the feature's units; `.cross_entropy`,
        float32 `[B]`, in nats per token (Eq. 1 of the paper); and `.perplexity`, its exponential.

    Raises:
        FeatureError: The feature does not fit the model.
        PromptError: A prompt is empty, too long for the model, or has ids outside its vocabulary.
        ModelError: A weight of the model is NaN or infinite.

    >>> import dreamy_lens as dl
    >>> scores = dl.score('log_prob(" the")', ["Return a copy of", "pickle pickle"])
    >>> bool(scores.value[0] > scores.value[1])
    True
    """
    expression = parse_first(feature, prompts if isinstance(prompts, str) else 0, "score(feature, prompts)")
    hooked = as_hooked(model)
    settings: dict[str, Any] = {
        "fluency_model": None if fluency_model is None else as_hooked(fluency_model),
        "prepend_bos": prepend_bos,
        "batch_size": batch_size,
        "share_prefixes": share_prefixes,
    }
    scorer = scorer_around(contexts, expression, hooked, prefix, suffix, **settings)
    rows = as_ids(prompts, scorer.vocabulary, scorer.frame.bos)
    value = np.empty(len(rows), dtype=np.float32)
    cross_entropy = np.empty(len(rows), dtype=np.float32)
    with working(f"Scoring {len(rows):,} prompt{'s' * (len(rows) != 1)}"):
        for length in sorted({len(row) for row in rows}):
            indices = [i for i, row in enumerate(rows) if len(row) == length]
            scores = scorer.score(np.stack([rows[i] for i in indices]))
            value[indices], cross_entropy[indices] = scores.value, scores.cross_entropy
    odd = int((~(np.isfinite(value) & np.isfinite(cross_entropy))).sum())
    if odd:
        coarse = scorer.model.dtype.itemsize < 4 or scorer.fluency.dtype.itemsize < 4
        advice = "try float32" if coarse else "check the feature's arithmetic"
        warn(
            f"{odd} of the {len(rows)} prompts have a value or cross-entropy that is NaN or infinite; {advice}.",
            RuntimeWarning,
        )
    return Scores(value, cross_entropy)

"""Attribute one prompt: `attribution()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dreamy_lens.analysis.attribution import attribute
from dreamy_lens.features.parser import parse
from dreamy_lens.models.load import as_hooked
from dreamy_lens.results.attribution import Attribution
from dreamy_lens.scoring.scorer import Scorer


def attribution(
    feature: Any,
    prompt: Any,
    model: Any = None,
    k: int = 32,
    *,
    weight: float = 0.0,
    prepend_bos: bool | None = None,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
    fluency_model: Any = None,
    batch_size: int | None = None,
) -> Attribution:
    """Show which tokens carry a feature: what the k most promising substitutes do, one position at a time.

    Args:
        feature: an expression or its text.
        prompt: one text, ids `[n]`, or a Prompt.
        model: a bridge, a Hugging Face id or folder; None is the embedded model.
        k: substitutes tried at each position: those the gradient ranks highest, as EPO's proposals are ranked.
        weight: λ in the objective whose gradient ranks them; at 0, only the value counts.
        prepend_bos: whether the prompt follows a BOS; None is the model's convention.
        prefix: ids of a template before the prompt; they are not substituted.
        suffix: ids of a template after the prompt; they are not substituted.
        fluency_model: the model whose cross-entropy is reported; None is the model itself.
        batch_size: most prompts in one pass; None chooses.

    Returns:
        An Attribution: candidates, their values and cross-entropies `[n, k]`, and for each position the drop to the
        worst and to the best of them (differences of values, in the feature's units).

    Raises:
        NoGradientError: the value does not depend on the tokens differentiably.

    >>> import dreamy_lens as dl
    >>> result = dl.attribution('log_prob(" the")', "Return a copy of", k=4)
    >>> result.values.shape
    (4, 4)
    >>> bool((result.drop_to_worst >= result.drop_to_best).all())
    True
    """
    hooked, expression = as_hooked(model), parse(feature)
    scorer = Scorer(
        expression,
        hooked,
        fluency_model=None if fluency_model is None else as_hooked(fluency_model),
        prefix=prefix,
        suffix=suffix,
        prepend_bos=prepend_bos,
        batch_size=batch_size,
    )
    return attribute(scorer, prompt, k, weight=weight)

"""Token-substitution attribution: which tokens carry the feature (Figure 1 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dreamy_lens.errors import PromptError, SettingsError
from dreamy_lens.models.access import standing
from dreamy_lens.models.transfer import to_device, to_host
from dreamy_lens.results.attribution import Attribution
from dreamy_lens.scoring.prompts import as_ids
from dreamy_lens.scoring.scorer import Scorer, Scores
from dreamy_lens.search.proposals import candidates


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
    """What the k most promising substitutes do at each position, one position at a time.

    Args:
        feature: an expression or its text.
        prompt: one text, ids `[n]`, or a Prompt.
        model: a bridge, a Hugging Face id or folder; None is the embedded model.
        k: substitutes tried at each position: those the gradient ranks highest, as EPO's proposals are ranked.
        weight: λ in the objective whose gradient ranks them; at 0, only the value counts.
        prepend_bos: whether the prompt follows a BOS; None is the model's convention.
        prefix: ids of a template before the prompt; they are not substituted.
        suffix: ids after it.
        fluency_model: whose cross-entropy is reported; None is the model itself.
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
    scorer = Scorer(
        feature,
        model,
        fluency_model=fluency_model,
        prefix=prefix,
        suffix=suffix,
        prepend_bos=prepend_bos,
        batch_size=batch_size,
    )
    return attribute(scorer, prompt, k, weight=weight)


def attribute(
    scorer: Scorer,
    prompt: Any,
    k: int = 32,
    *,
    weight: float = 0.0,
    allowed: np.ndarray | None = None,
    renew: bool = True,
) -> Attribution:
    """The same with a scorer that exists already.

    Args:
        scorer: for the feature.
        prompt: one text, ids `[n]`, or a Prompt.
        k: substitutes tried at each position.
        weight: λ in the objective whose gradient ranks them.
        allowed: bool `[d_vocab]`, the tokens to choose from; None is all that may stand in a prompt.
        renew: whether to find out anew how prefixes are shared, because the model may have been changed since.
    """
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise SettingsError(f"k is {k!r}; it is how many substitutes to try at each position, at least 1.")
    given = as_ids(prompt, scorer.vocabulary)
    if len(given) != 1:
        raise PromptError(f"Attribution is of one prompt; got {len(given)}. Call it once for each.")
    ids = given[0]
    allowed = scorer.allowed if allowed is None else allowed
    if renew:
        scorer.renew()
    with standing(scorer.models):
        chosen, scores = _tried(scorer, ids, int(k), weight, allowed)
    n, width = chosen.shape
    vocabulary = scorer.vocabulary
    return Attribution(
        ids=ids,
        tokens=tuple(vocabulary.tokens(ids)),
        value=float(scores.value[0]),
        cross_entropy=float(scores.cross_entropy[0]),
        candidates=chosen,
        candidate_tokens=tuple(tuple(vocabulary.tokens(row)) for row in chosen),
        values=scores.value[1:].reshape(n, width),
        cross_entropies=scores.cross_entropy[1:].reshape(n, width),
        feature=scorer.bound.feature.label,
    )


def _tried(scorer: Scorer, ids: np.ndarray, k: int, weight: float, allowed: np.ndarray) -> tuple[np.ndarray, Scores]:
    """The substitutes at each position, `[n, k]`, and the scores of the prompt and of the prompt with each of them."""
    n = len(ids)
    gradient = scorer.gradient(ids[None])
    device = scorer.model.device
    objective = gradient.objective(
        torch.zeros(1, dtype=torch.long, device=device), torch.full((1,), float(weight), device=device)
    )
    members = to_device(ids[None], device)
    count = int(allowed[: objective.shape[-1]].sum())
    (chosen,) = to_host(candidates(objective, members, to_device(allowed, device), k, count)[0])
    width = chosen.shape[1]
    rows = np.broadcast_to(ids, (n, width, n)).copy()
    rows[np.arange(n)[:, None], np.arange(width)[None], np.arange(n)[:, None]] = chosen
    return chosen, scorer.score(np.concatenate([ids[None], rows.reshape(-1, n)]))

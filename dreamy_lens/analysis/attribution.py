"""Token-substitution attribution: which tokens carry the feature (Figure 1 of the paper)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from dreamy_lens.errors import PromptError, SettingsError
from dreamy_lens.models.hooked_model import keep_hooks
from dreamy_lens.models.transfer import to_device, to_host
from dreamy_lens.results.attribution import Attribution
from dreamy_lens.scoring.prompts import as_ids
from dreamy_lens.scoring.scorer import Scorer
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
    return next(attributions(scorer, prompt, [k], weight=weight, allowed=allowed, renew=renew))


def attributions(
    scorer: Scorer,
    prompt: Any,
    ks: Sequence[int],
    *,
    weight: float = 0.0,
    allowed: np.ndarray | None = None,
    renew: bool = True,
) -> Iterator[Attribution]:
    """The same with more and more substitutes, each time when it is asked for: the first few are known much sooner.

    They are ranked once, and none is scored twice, so the last takes little longer than it would alone.

    Args:
        scorer: for the feature.
        prompt: one text, ids `[n]`, or a Prompt.
        ks: how many substitutes each of the attributions has at each position, ascending.
        weight: as above, like what follows.
        allowed: bool `[d_vocab]`.
        renew: before the first.
    """
    for k in ks:
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise SettingsError(f"k is {k!r}; it is how many substitutes to try at each position, at least 1.")
    given = as_ids(prompt, scorer.vocabulary)
    if len(given) != 1:
        raise PromptError(f"Attribution is of one prompt; got {len(given)}. Call it once for each.")
    ids = given[0]
    allowed = scorer.allowed if allowed is None else allowed
    if renew:
        scorer.invalidate_cache()
    vocabulary, n, scores, done = scorer.vocabulary, len(ids), [], 0
    with keep_hooks(scorer.models):
        chosen = _chosen(scorer, ids, int(max(ks)), weight, allowed)
    for k in ks:
        with keep_hooks(scorer.models):
            scores.append(scorer.score(np.concatenate([ids[None], _changed(ids, chosen[:, done:k])])))
        done = k
        yield Attribution(
            ids=ids,
            tokens=tuple(vocabulary.tokens(ids)),
            value=float(scores[0].value[0]),
            cross_entropy=float(scores[0].cross_entropy[0]),
            candidates=chosen[:, :k],
            candidate_tokens=tuple(tuple(vocabulary.tokens(row)) for row in chosen[:, :k]),
            values=np.concatenate([some.value[1:].reshape(n, -1) for some in scores], axis=1),
            cross_entropies=np.concatenate([some.cross_entropy[1:].reshape(n, -1) for some in scores], axis=1),
            feature=scorer.bound.feature.label,
        )


def _chosen(scorer: Scorer, ids: np.ndarray, k: int, weight: float, allowed: np.ndarray) -> np.ndarray:
    """The substitutes at each position, most promising first, `[n, k]`."""
    gradient = scorer.gradient(ids[None])
    device = scorer.model.device
    objective = gradient.objective(
        torch.zeros(1, dtype=torch.long, device=device), torch.full((1,), float(weight), device=device)
    )
    members = to_device(ids[None], device)
    count = int(allowed[: objective.shape[-1]].sum())
    return to_host(candidates(objective, members, to_device(allowed, device), k, count)[0])[0]


def _changed(ids: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The prompt with each of the substitutes `[n, k]` in its place, `[n k, n]`."""
    n, width = chosen.shape
    rows = np.broadcast_to(ids, (n, width, n)).copy()
    rows[np.arange(n)[:, None], np.arange(width)[None], np.arange(n)[:, None]] = chosen
    return rows.reshape(-1, n)

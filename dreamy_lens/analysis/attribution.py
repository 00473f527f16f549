"""Token-substitution attribution: the tokens that carry the feature (Figure 1 of the paper)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Int64

from dreamy_lens.errors import PromptError, SettingsError, quoted
from dreamy_lens.models.hooked_model import keep_hooks
from dreamy_lens.models.transfer import to_device, to_host
from dreamy_lens.results.attribution import Attribution
from dreamy_lens.scoring.candidates import AllowedTokens, rank_candidates
from dreamy_lens.scoring.prompts import as_ids
from dreamy_lens.scoring.scorer import Scorer, Scores
from dreamy_lens.search.frames import summary_of_contexts


def attribute(
    scorer: Scorer,
    prompt: Any,
    k: int = 32,
    *,
    weight: float = 0.0,
    allowed: Bool[np.ndarray, " d_vocab"] | None = None,
    renew: bool = True,
) -> Attribution:
    """Attribute one prompt: try the k most promising substitutes at each position, one position at a time.

    Args:
        scorer: Scorer of the feature.
        prompt: One text, ids `[n]`, or a Prompt.
        k: Number of substitutes tried at each position.
        weight: λ in the objective whose gradient ranks the substitutes.
        allowed: Tokens to choose from; None allows every token that may stand in a prompt.
        renew: Whether to forget first what was found out about the model, because the model may have changed.

    Raises:
        NoGradientError: The value does not depend on the tokens differentiably.
        PromptError: There is not exactly one prompt, or it cannot be scored.
        SettingsError: k is not a whole number, at least 1.
    """
    return next(attributions(scorer, prompt, [k], weight=weight, allowed=allowed, renew=renew))


def attributions(
    scorer: Scorer,
    prompt: Any,
    ks: Sequence[int],
    *,
    weight: float = 0.0,
    allowed: Bool[np.ndarray, " d_vocab"] | None = None,
    renew: bool = True,
) -> Iterator[Attribution]:
    """Attribute one prompt with a growing number of substitutes, so that a first result is available early.

    Substitutes are ranked once, and none is scored twice, so the last attribution takes little longer than it would
    alone.

    Args:
        scorer: Scorer of the feature.
        prompt: One text, ids `[n]`, or a Prompt.
        ks: Number of substitutes at each position, for each of the attributions, ascending.
        weight: λ in the objective whose gradient ranks the substitutes.
        allowed: Tokens to choose from; None allows every token that may stand in a prompt.
        renew: Whether to forget first what was found out about the model, because the model may have changed.

    Yields:
        An attribution for each of `ks`, computed on demand.

    Raises:
        NoGradientError: The value does not depend on the tokens differentiably.
        PromptError: There is not exactly one prompt, or it cannot be scored.
        SettingsError: One of `ks` is not a whole number, at least 1.
    """
    for k in ks:
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise SettingsError(f"k is {quoted(k)}; it is how many substitutes to try at each position, at least 1.")
    prompts = as_ids(prompt, scorer.vocabulary, scorer.frame.bos)
    if len(prompts) != 1:
        raise PromptError(f"Attribution takes one prompt; got {len(prompts)}. Call it once for each prompt.")
    ids = prompts[0]
    allowed = scorer.allowed if allowed is None else allowed
    if renew:
        scorer.invalidate_cache()
    vocabulary = scorer.vocabulary
    with keep_hooks(scorer.models):
        substitutes = _rank_substitutes(scorer, ids, int(max(ks)), weight, allowed)  # [n, k]
    scores: list[Scores] = []
    scored = 0
    for k in ks:
        with keep_hooks(scorer.models):
            scores.append(scorer.score(np.concatenate([ids[None], _substitute(ids, substitutes[:, scored:k])])))
        scored = k
        yield Attribution(
            ids=ids,
            tokens=tuple(vocabulary.tokens(ids)),
            value=float(scores[0].value[0]),
            cross_entropy=float(scores[0].cross_entropy[0]),
            candidates=substitutes[:, :k],
            candidate_tokens=tuple(tuple(vocabulary.tokens(row)) for row in substitutes[:, :k]),
            values=_grid([part.value for part in scores], len(ids)),
            cross_entropies=_grid([part.cross_entropy for part in scores], len(ids)),
            feature=str(scorer.bound.feature),
            model=scorer.model.name,
            prepend_bos=scorer.prepend_bos,
            prefix=tuple(map(int, scorer.prefix)),
            suffix=tuple(map(int, scorer.suffix)),
            contexts=summary_of_contexts(scorer.origin),
        )


def _rank_substitutes(
    scorer: Scorer, ids: Int64[np.ndarray, " n"], k: int, weight: float, allowed: Bool[np.ndarray, " d_vocab"]
) -> Int64[np.ndarray, "n k"]:
    """Return the substitutes for each position, the most promising first."""
    device = scorer.model.device
    (substitutes,) = to_host(
        rank_candidates(
            scorer.gradient(ids[None]),
            torch.zeros(1, dtype=torch.long, device=device),
            torch.full((1,), float(weight), device=device),
            to_device(ids[None], device),
            AllowedTokens(allowed, device),
            k,
        )
    )
    return substitutes[0]


def _substitute(ids: Int64[np.ndarray, " n"], substitutes: Int64[np.ndarray, "n k"]) -> Int64[np.ndarray, "n*k n"]:
    """Return a copy of the prompt for each substitute, put at its position."""
    rows = repeat(ids, "n -> at k n", at=len(ids), k=substitutes.shape[1]).copy()
    positions = np.arange(len(ids))
    rows[positions, :, positions] = substitutes
    return rearrange(rows, "at k n -> (at k) n")


def _grid(parts: Sequence[np.ndarray], n: int) -> np.ndarray:
    """Join scores of substitutes to a table `[n, k]`; each part begins with the prompt's own score."""
    return np.concatenate([rearrange(part[1:], "(n k) -> n k", n=n) for part in parts], axis=1)

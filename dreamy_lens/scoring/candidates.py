"""Candidates: which tokens a gradient ranks highest at each position of a prompt."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from dreamy_lens.models.transfer import to_device
from dreamy_lens.scoring.token_gradient import Gradient


class AllowedTokens:
    """Which tokens may be proposed, on the host and on a device.

    Args:
        mask: one entry for each token of the vocabulary.
        device: where gradients are.
    """

    def __init__(self, mask: Bool[np.ndarray, " d_vocab"], device: torch.device) -> None:
        self._mask = mask
        self.on_device = to_device(mask, device)

    def count(self, width: int) -> int:
        """Number of allowed tokens among the first `width`; nothing waits for the device to tell."""
        return int(self._mask[:width].sum())


def rank_candidates(
    gradient: Gradient,
    rows: Int64[Tensor, " M"],
    lambdas: Float[Tensor, " M"],
    members: Int64[Tensor, "M n"],
    allowed: AllowedTokens,
    top_k: int,
) -> Int64[Tensor, "M n k"]:
    """Rank the candidates of each member by the gradient of its own objective (Eq. 1); they stay on the device.

    Args:
        gradient: of the members' prompts.
        rows: which prompt of the gradient each member is.
        lambdas: each member's λ.
        members: their ids.
        allowed: tokens that may be proposed.
        top_k: k; less where fewer tokens are allowed.
    """
    objective = gradient.objective(rows, lambdas)
    return top_candidates(objective, members, allowed.on_device, top_k, allowed.count(objective.shape[-1]))


def top_candidates(
    gradient: Float[Tensor, "M n d_vocab"],
    members: Int64[Tensor, "M n"],
    allowed: Bool[Tensor, " tokens"],
    top_k: int,
    count: int | None = None,
) -> Int64[Tensor, "M n k"]:
    """Select the k most promising tokens at each position of each member, best first.

    Args:
        gradient: of the full objective; it is overwritten.
        members: the present tokens, which are no candidates.
        allowed: tokens that may be proposed; of a larger vocabulary than the gradient's, perhaps.
        top_k: k; less where fewer tokens are allowed.
        count: how many tokens of the gradient's are allowed, if that is known: counting waits for the device.
    """
    width = gradient.shape[-1]
    # Entries that are not finite first: however bad, an allowed token stays above every other.
    limit = torch.finfo(gradient.dtype).max
    gradient.nan_to_num_(nan=-limit, posinf=limit, neginf=-limit)
    gradient.masked_fill_(~allowed[:width], -torch.inf)
    gradient.scatter_(-1, members[..., None], -torch.inf)
    # All allowed tokens but the present one can be chosen, and constraints see to it that there are two.
    count = int(allowed[:width].sum()) if count is None else count
    return gradient.topk(min(top_k, count - 1), dim=-1).indices

"""Candidates: the tokens that a gradient ranks highest at each position of a prompt."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from dreamy_lens.models.transfer import to_device
from dreamy_lens.scoring.token_gradient import Gradient


class AllowedTokens:
    """Mask of the tokens that may be proposed, on the host and on a device.

    Args:
        mask: Whether each token of the vocabulary may be proposed.
        device: Device of the gradients.
    """

    def __init__(self, mask: Bool[np.ndarray, " d_vocab"], device: torch.device) -> None:
        self._mask = mask
        self.on_device = to_device(mask, device)

    def count(self, width: int) -> int:
        """Return the number of allowed tokens among the first `width`, without waiting for the device."""
        return int(self._mask[:width].sum())


def rank_candidates(
    gradient: Gradient,
    rows: Int64[Tensor, " M"],
    lambdas: Float[Tensor, " M"],
    members: Int64[Tensor, "M n"],
    allowed: AllowedTokens,
    top_k: int,
) -> Int64[Tensor, "M n k"]:
    """Rank the candidates of each member by the gradient of its own objective (Eq. 1).

    Args:
        gradient: Gradient for the distinct prompts of the members.
        rows: Row of the gradient that holds each member's prompt.
        lambdas: λ of each member.
        members: Token ids of each member.
        allowed: Tokens that may be proposed.
        top_k: Number of candidates (k) at each position; fewer are returned if fewer tokens are allowed.

    Returns:
        The candidates, best first, on the device.
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
        gradient: Gradient of the full objective; it is overwritten.
        members: Present tokens, which are never candidates.
        allowed: Whether each token may be proposed; the vocabulary may be larger than the gradient's.
        top_k: Number of candidates (k) at each position; fewer are returned if fewer tokens are allowed.
        count: Number of allowed tokens in the gradient's vocabulary, if known; counting them waits for the device.
    """
    width = gradient.shape[-1]
    # Entries that are not finite are replaced first: even the worst allowed token must rank above forbidden ones.
    limit = torch.finfo(gradient.dtype).max
    gradient.nan_to_num_(nan=-limit, posinf=limit, neginf=-limit)
    gradient.masked_fill_(~allowed[:width], -torch.inf)
    gradient.scatter_(-1, members[..., None], -torch.inf)
    # The present token cannot be chosen, and constraints guarantee at least two allowed tokens.
    count = int(allowed[:width].sum()) if count is None else count
    return gradient.topk(min(top_k, count - 1), dim=-1).indices

"""Donors: prompts whose beginnings are put before the ends of others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dreamy_lens.models.transfer import to_device
from dreamy_lens.search.lengths import EMPTY


class Donors(NamedTuple):
    """Prompts whose beginnings are offered to parents.

    Attributes:
        ids: Token ids, int64 `[D, n]`.
        surprisal: -log p of every token given what stands before it, in nats: for each prompt `[n, d_vocab]`, in one
            tensor or in a list.
        own: -log p of the prompts' own tokens.
    """

    ids: Int64[np.ndarray, "D n"]
    surprisal: Tensor | list[Tensor]
    own: Float[Tensor, "D n"]

    @classmethod
    def of(cls, ids: Int64[np.ndarray, "D n"], surprisal: Float[Tensor, "D n d_vocab"]) -> Donors:
        """Return donors, with the surprisals at the places 0, 1, ... of each prompt, which is itself right-aligned."""
        empty = (ids == EMPTY).sum(axis=1)
        rows = to_device(ids, surprisal.device)
        if empty.any():
            at = np.arange(ids.shape[1]) - empty[:, None]
            surprisal = surprisal[torch.arange(len(ids))[:, None], to_device(np.maximum(at, 0), surprisal.device)]
            surprisal = surprisal.masked_fill((rows == EMPTY)[..., None], torch.inf)
        own = surprisal.gather(-1, rows.clamp(min=0)[..., None])[..., 0]
        return cls(ids, surprisal, own.masked_fill(rows == EMPTY, 0.0) if empty.any() else own)

    def junctions(self, ids: Int64[Tensor, "P n"]) -> Float[Tensor, "P D n"]:
        """Return -log p of every token of other prompts, behind the donors' beginnings of the same length."""
        where = torch.arange(ids.shape[1], device=ids.device)
        if isinstance(self.surprisal, Tensor):
            return self.surprisal[:, where, ids].transpose(0, 1)
        return torch.stack([one[where, ids] for one in self.surprisal], dim=1)

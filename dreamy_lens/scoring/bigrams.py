"""Bigrams of a language model: its predictions after a single token."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dreamy_lens.models.hooked_model import HookedModel

LARGEST = 1 << 28
"""Largest number of bytes of a table; a model with a larger vocabulary gets none."""
CHUNK = 512
LEAST = -50.0
"""Smallest log p that a table holds, so that differences of its entries are finite."""


class Bigrams(NamedTuple):
    """Tables of log p of a token after a single token, at least :data:`LEAST`; tokens that are missing have that value.

    Attributes:
        after: For every token (rows), every next token (columns), float32.
        before: For every next token (rows), every token before it (columns): the transposed table, also contiguous.
    """

    after: Float[Tensor, "d_vocab d_vocab"]
    before: Float[Tensor, "d_vocab d_vocab"]


@torch.no_grad()
def bigram_tables(model: HookedModel, prepend_bos: bool, width: int) -> Bigrams | None:
    """Compute log p of every next token after every token, behind a BOS if there is one.

    Args:
        model: Model to ask.
        prepend_bos: Whether a BOS stands before the first token.
        width: Number of tokens that the tables are about.

    Returns:
        The tables on the model's device, or None for a vocabulary that is too large.
    """
    if 4 * width * width > LARGEST:
        return None
    before, device, size = model.bos(prepend_bos), model.device, min(width, model.vocabulary.size)
    table = torch.full((width, width), LEAST, device=device)
    with model.lock:
        for start in range(0, size, CHUNK):
            tokens = torch.arange(start, min(start + CHUNK, size), device=device)[:, None]
            found = torch.log_softmax(_last(model, before, tokens), -1)[:, :size]
            table[start : start + len(tokens), : found.shape[1]] = found.clamp(min=LEAST)
    return Bigrams(table, table.T.contiguous())


def _last(model: HookedModel, before: list[int], tokens: Tensor) -> Tensor:
    """Return the logits after each token, float32 `[B, d_vocab]`."""
    head = torch.tensor(before, dtype=torch.int64, device=tokens.device).expand(len(tokens), -1)
    _, logits = model.run(torch.cat([head, tokens], 1))
    assert logits is not None
    return logits[:, -1].float()

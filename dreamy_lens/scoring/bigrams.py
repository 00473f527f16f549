"""Bigrams of a language model: its predictions after a single token."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dreamy_lens.models.hooked_model import HookedModel

LARGEST = 1 << 28
"""Largest number of bytes of a table; a model with a larger vocabulary gets none."""
CHUNK = 512
LEAST = -50.0
"""Smallest log p that a table holds, so that differences of its entries are finite."""


@torch.no_grad()
def bigram_table(model: HookedModel, prepend_bos: bool) -> Float[Tensor, "d_vocab d_vocab"] | None:
    """Compute log p of every next token (rows) after every token (columns), behind a BOS if there is one.

    Args:
        model: Model to ask.
        prepend_bos: Whether a BOS stands before the first token.

    Returns:
        The table on the model's device, or None for a vocabulary that is too large.
    """
    size = model.vocabulary.size
    if 4 * size * size > LARGEST:
        return None
    before, device = model.bos(prepend_bos), model.device
    table = torch.empty(size, size, device=device)
    with model.lock:
        for start in range(0, size, CHUNK):
            tokens = torch.arange(start, min(start + CHUNK, size), device=device)[:, None]
            table[start : start + len(tokens)] = torch.log_softmax(_last(model, before, tokens)[:, :size], -1)
    return table.T.clamp(min=LEAST).contiguous()


def _last(model: HookedModel, before: list[int], tokens: Tensor) -> Tensor:
    """Return the logits after each token, float32 `[B, d_vocab]`."""
    head = torch.tensor(before, dtype=torch.int64, device=tokens.device).expand(len(tokens), -1)
    _, logits = model.run(torch.cat([head, tokens], 1))
    assert logits is not None
    return logits[:, -1].float()

"""Bigrams of a language model: its predictions after a single token."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.transfer import to_device

LARGEST = 8192
"""Largest vocabulary that has tables. For a larger one, those of its frequent tokens were tried, and gave nothing."""
ENTRIES = 1 << 25
"""Largest number of logits that are computed at once."""
LEAST = -50.0
"""Smallest log p that a table holds, so that differences of its entries are finite."""


@dataclass(frozen=True, eq=False)
class Bigrams:
    """Tables of log p of a token after a single token, at least :data:`LEAST`.

    Attributes:
        after: For every token (rows), every next token (columns), float32.
        before: For every next token (rows), every token before it (columns): the transposed table, also contiguous.
    """

    after: Float[Tensor, "d_vocab d_vocab"]
    before: Float[Tensor, "d_vocab d_vocab"]

    def to(self, device: torch.device) -> Bigrams:
        """Return the tables on a device."""
        return Bigrams(to_device(self.after, device), to_device(self.before, device))


_FOUND: weakref.WeakKeyDictionary[HookedModel, tuple[Any, Bigrams]] = weakref.WeakKeyDictionary()


@torch.no_grad()
def bigram_tables(model: HookedModel, prepend_bos: bool, width: int) -> tuple[Bigrams | None, int]:
    """Compute log p of every next token after every token, behind a BOS if there is one.

    The tables are computed once for a model, and again after an edit of its weights.

    Args:
        model: Model to ask.
        prepend_bos: Whether a BOS stands before the first token.
        width: Number of tokens that the tables are about; those beyond the model's vocabulary count as never predicted.

    Returns:
        The tables, on the model's device, or None for a vocabulary that is too large; and the number of tokens that the
        model read for them, 0 if it had them already.
    """
    if width > LARGEST:
        return None, 0
    with model.lock:
        if model.is_hooked:  # a hook of the user may do anything at any time
            return _compute(model, model.bos(prepend_bos), width)
        state = (prepend_bos, width, model.state, model.weights_digest)
        known, tables = _FOUND.get(model, (None, None))
        if tables is not None and state == known:
            return tables, 0
        tables, computed = _compute(model, model.bos(prepend_bos), width)
        _FOUND[model] = (state, tables)
        return tables, computed


def forget_bigrams(model: HookedModel) -> None:
    """Forget the tables of a model, so that they are computed when they are needed again."""
    _FOUND.pop(model, None)


def _compute(model: HookedModel, head: list[int], width: int) -> tuple[Bigrams, int]:
    """Compute the tables, and count the tokens that the model reads for them."""
    size, device = min(width, model.vocabulary.size), model.device
    table = torch.full((width, width), LEAST, device=device)
    before = torch.tensor(head, dtype=torch.int64, device=device)
    chunk = max(1, ENTRIES // (model.vocabulary.size * (len(head) + 1)))
    for start in range(0, size, chunk):
        tokens = torch.arange(start, min(start + chunk, size), device=device)[:, None]
        _, logits = model.run(torch.cat([before.expand(len(tokens), -1), tokens], 1))
        assert logits is not None
        log_p = torch.log_softmax(logits[:, -1].float(), -1)[:, :size]
        table[start : start + len(tokens), : log_p.shape[1]] = log_p.clamp(min=LEAST)
    return Bigrams(table, table.T.contiguous()), size * (len(head) + 1)

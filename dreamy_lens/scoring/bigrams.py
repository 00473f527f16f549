"""Bigrams of a language model: its predictions after a single token."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.transfer import to_device

LARGEST = 8192
"""Largest vocabulary of which the tables hold every token."""
FREQUENT = 4096
"""Number of tokens that the tables of a larger vocabulary hold: those that the model predicts most."""
PROBES = 512
"""Number of tokens after which the model is asked in order to find them."""
ENTRIES = 1 << 25
"""Largest number of logits that are computed at once."""
LEAST = -50.0
"""Smallest log p that a table holds, so that differences of its entries are finite."""


@dataclass(frozen=True, eq=False)
class Bigrams:
    """Tables of log p of a token after a single token, at least :data:`LEAST`.

    Attributes:
        after: For every token (rows), every next token (columns), float32. If there is an `index`, the last row stands
            for all tokens without a row of their own: it is the mean prediction. And the last column is what each of
            the tokens without a column has on average.
        before: For every next token (rows), every token before it (columns): the transposed table, also contiguous.
        index: Row and column of every token of the vocabulary; None if the tables hold every token.
    """

    after: Float[Tensor, "F F"]
    before: Float[Tensor, "F F"]
    index: Int64[Tensor, " d_vocab"] | None = None

    def following(self, tokens: Int64[Tensor, "*B"]) -> Float[Tensor, "*B d_vocab"]:
        """Return log p of every token after each of these tokens."""
        return self._rows(self.after, tokens)

    def preceding(self, tokens: Int64[Tensor, "*B"]) -> Float[Tensor, "*B d_vocab"]:
        """Return log p of each of these tokens after every token."""
        return self._rows(self.before, tokens)

    def _rows(self, table: Tensor, tokens: Tensor) -> Tensor:
        return table[tokens] if self.index is None else table[self.index[tokens]][..., self.index]

    def to(self, device: torch.device) -> Bigrams:
        """Return the tables on a device."""
        index = None if self.index is None else to_device(self.index, device)
        return Bigrams(to_device(self.after, device), to_device(self.before, device), index)


_FOUND: weakref.WeakKeyDictionary[HookedModel, tuple[Any, Bigrams]] = weakref.WeakKeyDictionary()


@torch.no_grad()
def bigram_tables(model: HookedModel, prepend_bos: bool, width: int) -> tuple[Bigrams, int]:
    """Compute log p of every next token after every token, behind a BOS if there is one.

    The tables are computed once for a model, and again after an edit of its weights.

    Args:
        model: Model to ask.
        prepend_bos: Whether a BOS stands before the first token.
        width: Number of tokens that the tables are about; those beyond the model's vocabulary count as never predicted.

    Returns:
        The tables, on the model's device: of every token, or of the frequent ones of a large vocabulary. And the number
        of tokens that the model read for them, 0 if it had them already.
    """
    with model.lock:
        asker = _Asker(model, model.bos(prepend_bos))
        if model.is_hooked:  # a hook of the user may do anything at any time
            return _compute(asker, width), asker.computed
        state = (prepend_bos, width, model.state, model.weights_digest)
        known, tables = _FOUND.get(model, (None, None))
        if tables is None or state != known:
            tables = _compute(asker, width)
            _FOUND[model] = (state, tables)
        return tables, asker.computed


def forget_bigrams(model: HookedModel) -> None:
    """Forget the tables of a model, so that they are computed when they are needed again."""
    _FOUND.pop(model, None)


class _Asker:
    """Source of predictions after single tokens, which counts the tokens that the model reads."""

    def __init__(self, model: HookedModel, head: list[int]) -> None:
        self.model, self.head, self.computed = model, head, 0

    def __call__(self, tokens: Int64[Tensor, " K"]) -> Iterator[tuple[slice, Float[Tensor, "B d_vocab"]]]:
        """Yield, batch by batch, the numbers of the tokens, and log p of what follows each."""
        chunk = max(1, ENTRIES // (self.model.vocabulary.size * (len(self.head) + 1)))
        before = torch.tensor(self.head, dtype=torch.int64, device=tokens.device)
        for start in range(0, len(tokens), chunk):
            some = tokens[start : start + chunk, None]
            rows = torch.cat([before.expand(len(some), -1), some], 1)
            self.computed += rows.numel()
            _, logits = self.model.run(rows)
            assert logits is not None
            yield slice(start, start + len(some)), torch.log_softmax(logits[:, -1].float(), -1)


def _compute(asker: _Asker, width: int) -> Bigrams:
    """Compute the tables."""
    size, device = min(width, asker.model.vocabulary.size), asker.model.device
    if width <= LARGEST:
        table = torch.full((width, width), LEAST, device=device)
        for rows, log_p in asker(torch.arange(size, device=device)):
            table[rows, : min(size, log_p.shape[1])] = log_p[:, :size].clamp(min=LEAST)
        return Bigrams(table, table.T.contiguous())
    tokens = _frequent(asker, size)
    count = len(tokens)
    table = torch.full((count + 1, count + 1), LEAST, device=device)
    for rows, log_p in asker(tokens):
        found = log_p[:, tokens]
        rest = (1 - found.exp().sum(1)).clamp(min=0) / max(1, size - count)
        table[rows, :count], table[rows, count] = found, rest.log()
    table[count] = table[:count].logsumexp(0) - math.log(count)
    table.clamp_(min=LEAST)
    index = torch.full((width,), count, device=device)
    index[tokens] = torch.arange(count, device=device)
    return Bigrams(table, table.T.contiguous(), index)


def _frequent(asker: _Asker, size: int) -> Int64[Tensor, " F"]:
    """Return the tokens that the model predicts most after a token, in ascending order."""
    device = asker.model.device
    tokens = torch.arange(0, size, max(1, size // PROBES), device=device)
    # First after tokens of all kinds, and then after those that it predicts most.
    for count in (PROBES, FREQUENT):
        total = torch.zeros(size, device=device)
        for _, log_p in asker(tokens):
            known = log_p[:, :size]
            total[: known.shape[1]] += known.exp().sum(0)
        tokens = total.topk(min(count, size)).indices.sort().values
    return tokens

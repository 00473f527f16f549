"""Cached prefix of a template: keys, values, activations and logits, computed once for many backward passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dreamy_lens.models.hooked_model import HookedModel


def empty_cache() -> Any:
    """Return an empty key-value cache of the kind that Hugging Face models take."""
    from transformers import DynamicCache

    return DynamicCache()


class KVPrefix:
    """Keys, values, activations and logits of the tokens that stand before every prompt.

    Args:
        model: Model that reads the tokens.
        ids: Token ids of BOS and prefix, `[1, P]`.
        capture: Hook points whose activations are kept.
        logits: Whether logits are kept.
    """

    def __init__(self, model: HookedModel, ids: Tensor, capture: Sequence[str], logits: bool) -> None:
        self.length = ids.shape[1]
        with torch.no_grad():
            self._activations, self._logits = model.run(ids, capture, logits=logits)
            self._layers = model.key_values(ids)

    def cache(self, batch: int) -> Any:
        """Return a key-value cache of the kind that Hugging Face models take, for rows that continue this prefix."""
        cache = empty_cache()
        for number, (keys, values) in enumerate(self._layers):
            cache.update(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1), number)
        return cache

    def prepend(
        self, activations: dict[str, Tensor], logits: Tensor | None, rest: int
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Put the prefix before the activations and logits of the rows' last `rest` tokens, `[batch, rest, ...]`."""
        rows = {name: self._joined(self._activations[name], tensor, rest) for name, tensor in activations.items()}
        return rows, None if logits is None or self._logits is None else self._joined(self._logits, logits, rest)

    @staticmethod
    def _joined(known: Tensor, new: Tensor, rest: int) -> Tensor:
        """Concatenate the prefix's part of a tensor and the part of the tokens after it, along positions."""
        if new.shape[1] != rest or known.shape[2:] != new.shape[2:]:
            raise ValueError("an activation whose first axis is not the positions cannot be put together from parts")
        return torch.cat([known.expand(len(new), *known.shape[1:]), new], 1)

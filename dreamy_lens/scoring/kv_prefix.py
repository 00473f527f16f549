"""A template's prefix, computed once: what backward passes over many prompts need of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dreamy_lens.models.hooked_model import HookedModel


def empty_cache() -> Any:
    """A cache of keys and values, as Hugging Face models take one, with nothing in it."""
    from transformers import DynamicCache

    return DynamicCache()


class KVPrefix:
    """Keys, values, activations and logits of the tokens that stand before every prompt.

    Args:
        model: whose they are.
        ids: BOS and prefix, `[1, P]`.
        capture: hook points whose activations are kept.
        logits: whether logits are.
    """

    def __init__(self, model: HookedModel, ids: Tensor, capture: Sequence[str], logits: bool) -> None:
        self.length = ids.shape[1]
        with torch.no_grad():
            self._activations, self._logits = model.run(ids, capture, logits=logits)
            self._layers = model.key_values(ids)

    def cache(self, batch: int) -> Any:
        """A cache of keys and values, as Hugging Face models take one, for a batch of rows that go on from here."""
        cache = empty_cache()
        for number, (keys, values) in enumerate(self._layers):
            cache.update(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1), number)
        return cache

    def before(
        self, found: dict[str, Tensor], logits: Tensor | None, rest: int
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Activations and logits of whole rows, from those of their last `rest` tokens, `[batch, rest, ...]`."""
        whole = {name: self._joined(self._activations[name], tensor, rest) for name, tensor in found.items()}
        return whole, None if logits is None or self._logits is None else self._joined(self._logits, logits, rest)

    @staticmethod
    def _joined(known: Tensor, new: Tensor, rest: int) -> Tensor:
        if new.shape[1] != rest or known.shape[2:] != new.shape[2:]:
            raise ValueError("an activation whose first axis is not of positions cannot be put together from parts")
        return torch.cat([known.expand(len(new), *known.shape[1:]), new], 1)

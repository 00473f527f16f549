"""Backend for the `HookedTransformer` of TransformerLens 3, which is no Hugging Face model but one of its own.

Its parameters are tensors named `W_E`, `W_out`, `W_O`, its embedding's hook point is `hook_embed`, and it has no
components that could be skipped. So prompts are scored whole on it. A `TransformerBridge` of the same weights, as
:func:`dreamy_lens.load_model` returns it, is faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamy_lens.models.bridge_passes import BridgePasses


class HookedTransformerBackend(BridgePasses):
    """Backend that runs a `HookedTransformer`; it takes the arguments of :class:`BridgePasses`."""

    def key_values(self, ids: Int[Tensor, "1 pos"]) -> list[tuple[Tensor, Tensor]]:
        """Raise NotImplementedError: prefixes are computed in every pass."""
        raise NotImplementedError("A HookedTransformer takes no cache of keys and values from Hugging Face.")

    @property
    def embedding_weight(self) -> Float[Tensor, "d_vocab d_embed"] | None:
        """Weight matrix of the embedding."""
        return getattr(self.bridge.embed, "W_E", None)

    def settings(self) -> Mapping[str, Any]:
        """Return the settings of the architecture; those of how the model was made do not change its values."""
        plain = (str, int, float, bool, type(None), list, tuple)
        made = (
            "device",
            "dtype",
            "seed",
            "init_mode",
            "initializer_range",
            "model_name",
            "tokenizer_name",
            "n_devices",
        )
        return {k: v for k, v in vars(self.bridge.cfg).items() if isinstance(v, plain) and k not in made}

    def component(self, name: str) -> torch.nn.Module | None:
        """Return the module named, for example, `blocks.0.mlp.out`, `ln_final` or `unembed`; None if there is none.

        The linear maps of MLPs, and the last ones of attentions, are no modules here; they are made from their weights.
        """
        *path, last = name.split(".")
        module: Any = self.bridge
        for part in path:
            module = module[int(part)] if part.isdigit() else getattr(module, part, None)
            if module is None:
                return None
        weights = getattr(module, _WEIGHTS.get(last, ""), None)
        if isinstance(weights, Tensor):
            return _linear(weights.reshape(-1, weights.shape[-1]))
        return module._modules.get(last)

    def is_same_hook(self, name: str, other: str) -> bool:
        """Return whether two names refer to the same hook point; an unknown `other` refers to none."""
        points = self.bridge.hook_dict
        return points[name] is points.get(other)

    @property
    def parallel_blocks(self) -> bool:
        """True if attention and MLP of a block read the same residual stream."""
        return bool(getattr(self.bridge.cfg, "parallel_attn_mlp", False))


_WEIGHTS = {"in": "W_in", "gate": "W_gate", "out": "W_out", "o": "W_O"}
"""Attributes that hold the weights of linear maps, by the name of the map."""


def _linear(weight: Float[Tensor, "d_in d_out"]) -> torch.nn.Linear:
    """Return the linear map `x @ weight`."""
    layer = torch.nn.Linear(*weight.shape, bias=False, device="meta")
    layer.weight = torch.nn.Parameter(weight.detach().T, requires_grad=False)
    return layer

"""Backend for TransformerLens: plain and faster passes of a bridge, and the structure of its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamy_lens.models.bridge_passes import BridgePasses
from dreamy_lens.models.bypass import Bypass
from dreamy_lens.models.packed_forward import WAYS, PackedModel


class TransformerLensBackend(BridgePasses):
    """Backend that runs a `TransformerBridge`; it takes the arguments of :class:`BridgePasses`."""

    packed_ways = WAYS
    has_aliases = True

    def settings(self) -> Mapping[str, Any]:
        """Return the configuration of the Hugging Face model that the bridge wraps."""
        config = getattr(getattr(self.bridge, "original_model", None), "config", None)
        return getattr(config, "to_dict", dict)()

    @property
    def end_tokens(self) -> Sequence[int]:
        """Return the ids that the configurations of the model and of its generation name; chats end with others."""
        wrapped = getattr(self.bridge, "original_model", None)
        configurations = (getattr(wrapped, name, None) for name in ("config", "generation_config"))
        stated = [getattr(configuration, "eos_token_id", None) for configuration in configurations]
        return [i for ids in stated for i in (ids if isinstance(ids, (list, tuple)) else [ids]) if i is not None]

    def bypass(self, keep_attention: bool = False) -> Bypass:
        """Return the bridge's components that passes can skip."""
        attentions = [getattr(block, "attn", None) for block in getattr(self.bridge, "blocks", ())]
        return Bypass(self.bridge, attentions if keep_attention else ())

    def packed(self, model: Any, way: str) -> PackedModel:
        """Return a runner of packed passes in one of `packed_ways`.

        Raises:
            NotPackable: The model is not one stack of blocks with attention.
        """
        return PackedModel(model, way)

    def key_values(self, ids: Int[Tensor, "1 pos"]) -> list[tuple[Tensor, Tensor]]:
        """Return keys and values of each layer, from the Hugging Face model's own cache."""
        cache = self.bridge.original_model(input_ids=ids, use_cache=True).past_key_values
        return [(layer.keys, layer.values) for layer in cache.layers]

    def component(self, name: str) -> torch.nn.Module | None:
        """Return the module named, for example, `blocks.0.mlp.out`, `ln_final` or `unembed`; None if there is none."""
        *path, last = name.split(".")
        module: Any = self.bridge
        for part in path:
            module = module[int(part)] if part.isdigit() else getattr(module, part)
        # A bridge's own children only: its attributes reach into the Hugging Face module that it wraps.
        return module._modules.get(last)

    def output_logits(self, raw: Float[Tensor, "... d_vocab"]) -> Float[Tensor, "... d_vocab"]:
        """Return the model's logits for outputs of its unembedding: capped or scaled as the architecture says."""
        transform = getattr(getattr(self.bridge, "adapter", None), "apply_output_logits_transform", None)
        return raw if transform is None else transform(raw)

    def is_same_hook(self, name: str, other: str) -> bool:
        """Return whether two names refer to the same hook point; an unknown `other` refers to none."""
        points = self.bridge.hook_dict
        return points[name] is points.get(other)

    @property
    def normalisation(self) -> str | None:
        """Kind of the norms that read the residual stream, "layer" or "rms", by TransformerLens' name for it."""
        named = str(getattr(self.bridge.cfg, "normalization_type", None))
        return {"LN": "layer", "LNPre": "layer", "RMS": "rms", "RMSPre": "rms"}.get(named)

    def value_bias(self, layer: int) -> Tensor | None:
        """Return the bias of the attention's values in a layer, in any shape; None if there is none."""
        try:
            return self.bridge.blocks[layer].attn.b_V
        except (AttributeError, IndexError, KeyError, NotImplementedError):
            return None

    @property
    def parallel_blocks(self) -> bool:
        """True if attention and MLP of a block read the same residual stream."""
        return bool(getattr(self.bridge.cfg, "parallel_attn_mlp", False))

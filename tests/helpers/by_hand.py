"""What a model computes, from the plain Hugging Face model's own modules: forward hooks and arithmetic, no bridge.

`Pass` is one forward pass over `[batch, total]` ids, or over embeddings in their place, so that everything here is also
differentiable. Attention is computed again from the projections' outputs: queries and keys split into heads, rotated,
scaled, capped, masked, shared among groups.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tests.helpers.models import Family


class Pass:
    """One forward pass of a family's plain model.

    Args:
        family: whose.
        ids: `[batch, total]`, BOS included.
        embeds: `[batch, total, d_model]` to use instead of the ids' own embeddings.
        raw: the plain model, if not the family's own (one in another precision).
    """

    def __init__(
        self, family: Family, ids: Tensor | None = None, embeds: Tensor | None = None, raw: Any = None
    ) -> None:
        self.name = "llama" if family.name == "stories" else family.name
        self.raw = family.raw if raw is None else raw
        self.cfg = self.raw.config
        self.seen: dict[Any, tuple[Any, Any]] = {}

        def look(module: Any, args: Any, kwargs: Any, out: Any) -> None:
            first = args[0] if args else kwargs["hidden_states"]
            self.seen[module] = first, out[0] if isinstance(out, tuple) else out

        watched = [m for block in self.blocks for m in block.modules()]
        handles = [m.register_forward_hook(look, with_kwargs=True) for m in watched]
        try:
            given = {"input_ids": ids} if embeds is None else {"inputs_embeds": embeds}
            self.logits: Tensor = self.raw(**given, use_cache=False).logits
        finally:
            for handle in handles:
                handle.remove()

    @property
    def blocks(self) -> Any:
        inner = self.raw.base_model
        return inner.h if self.name == "gpt2" else inner.layers

    def attention(self, layer: int) -> Any:
        return getattr(self.blocks[layer], {"gpt2": "attn", "neox": "attention"}.get(self.name, "self_attn"))

    # The residual stream, [batch, position, d_model].

    def resid_pre(self, layer: int) -> Tensor:
        return self.seen[self.blocks[layer]][0]

    def resid_mid(self, layer: int) -> Tensor:
        norm = {"gpt2": "ln_2", "llama": "post_attention_layernorm", "gemma2": "pre_feedforward_layernorm"}[self.name]
        return self.seen[getattr(self.blocks[layer], norm)][0]

    def resid_post(self, layer: int) -> Tensor:
        return self.seen[self.blocks[layer]][1]

    # The MLPs, [batch, position, d_mlp].

    def mlp_pre(self, layer: int) -> Tensor:
        into = {"gpt2": "c_fc", "neox": "dense_h_to_4h"}.get(self.name, "gate_proj")
        return self.seen[getattr(self.blocks[layer].mlp, into)][1]

    def mlp_post(self, layer: int) -> Tensor:
        if self.name in ("gpt2", "neox"):
            return torch.nn.functional.gelu(self.mlp_pre(layer), approximate="tanh" if self.name == "gpt2" else "none")
        gate, up = self.mlp_pre(layer), self.seen[self.blocks[layer].mlp.up_proj][1]
        gated = gate * gate.sigmoid() if self.name == "llama" else torch.nn.functional.gelu(gate, approximate="tanh")
        return gated * up

    # Attention: q [batch, position, head, d_head], k and v with as many heads as there are groups.

    @cached_property
    def heads(self) -> int:
        return self.cfg.num_attention_heads

    def qkv(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        attention = self.attention(layer)
        if self.name == "gpt2":
            return tuple(x.unflatten(-1, (self.heads, -1)) for x in self.seen[attention.c_attn][1].chunk(3, -1))  # pyright: ignore
        if self.name == "neox":
            return self.seen[attention.query_key_value][1].unflatten(-1, (self.heads, -1)).chunk(3, -1)  # pyright: ignore
        parts = (self.seen[getattr(attention, f"{x}_proj")][1] for x in "qkv")
        width = getattr(self.cfg, "head_dim", None) or self.cfg.hidden_size // self.heads
        return tuple(x.unflatten(-1, (-1, width)) for x in parts)  # pyright: ignore[reportReturnType]

    def _rotated(self, x: Tensor) -> Tensor:
        if self.name == "gpt2":
            return x
        width = int(x.shape[-1] * (0.5 if self.name == "neox" else 1.0))
        half = width // 2
        angles = torch.arange(x.shape[1])[:, None] * 10000.0 ** (-torch.arange(half) / half)
        cos, sin = angles.cos().to(x)[:, None], angles.sin().to(x)[:, None]  # [position, 1, half]
        a, b, rest = x[..., :half], x[..., half:width], x[..., width:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)

    def scores(self, layer: int) -> Tensor:
        """`[batch, head, query, key]`, scaled and capped, not masked."""
        q, k, _ = self.qkv(layer)
        q, k = self._rotated(q), self._rotated(k)
        k = k.repeat_interleave(q.shape[2] // k.shape[2], 2)
        scale = self.cfg.query_pre_attn_scalar if self.name == "gemma2" else q.shape[-1]
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(scale)
        cap = getattr(self.cfg, "attn_logit_softcapping", None)
        return scores if cap is None else cap * (scores / cap).tanh()

    def visible(self, layer: int, total: int) -> Tensor:
        """bool `[query, key]`: causal, and on Gemma-2's sliding layers not too long ago."""
        ago = torch.arange(total)[:, None] - torch.arange(total)
        sliding = self.name == "gemma2" and self.cfg.layer_types[layer] == "sliding_attention"
        return (ago >= 0) & (ago < (self.cfg.sliding_window if sliding else total))

    def pattern(self, layer: int) -> Tensor:
        scores = self.scores(layer)
        return scores.masked_fill(~self.visible(layer, scores.shape[-1]), -torch.inf).softmax(-1)

    def z(self, layer: int) -> Tensor:
        """`[batch, position, head, d_head]`."""
        pattern, v = self.pattern(layer), self.qkv(layer)[2]
        return torch.einsum("bhqk,bkhd->bqhd", pattern, v.repeat_interleave(pattern.shape[1] // v.shape[2], 2))

    # The output.

    def log_probs(self) -> Tensor:
        return self.logits - self.logits.exp().sum(-1, keepdim=True).log()

    def cross_entropy(self, targets: Tensor) -> Tensor:
        """Eq. 1 `[batch]`, charging the last m tokens.

        Args:
            targets: these tokens' ids `[batch, m]`, or weights `[batch, m, d_vocab]`.
        """
        if targets.dim() == 2:
            targets = torch.nn.functional.one_hot(targets, self.logits.shape[-1]).to(self.logits)
        count = targets.shape[1]
        total = self.logits.shape[1]
        return -(self.log_probs()[:, total - 1 - count : total - 1] * targets).sum(-1).mean(-1)

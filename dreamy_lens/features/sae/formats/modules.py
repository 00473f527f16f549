"""Hook points for the names of modules in Hugging Face models, by which most other libraries name places.

A library that puts a hook on a module reads its output, or for a transcoder its input. The hook points here are those
of exactly these tensors: the output of `layers.3` is the residual stream after block 3, and the output of
`layers.3.mlp` is `blocks.3.mlp.hook_out`, which on models with a norm behind the MLP is not `blocks.3.hook_mlp_out`.
"""

from __future__ import annotations

import re

_BLOCK = re.compile(r"(?:[A-Za-z_]+\.){0,4}(?:layers|layer|blocks|block|h)\.([0-9]{1,6})(?:\.([A-Za-z0-9_.]+))?")
_EMBEDDING = re.compile(r"(?:[A-Za-z_]+\.){0,4}(?:embed_tokens|wte|embed_in|word_embeddings)")

_PARTS = {
    "": ("hook_resid_pre", "hook_resid_post"),
    **dict.fromkeys(("mlp", "feed_forward", "ffn", "block_sparse_moe"), ("mlp.hook_in", "mlp.hook_out")),
    **dict.fromkeys(("attn", "self_attn", "attention", "self_attention"), ("attn.hook_in", "attn.hook_out")),
    **dict.fromkeys(("self_attn.o_proj", "attn.c_proj", "attention.dense"), ("attn.hook_z", "attn.hook_out")),
    "pre_feedforward_layernorm": ("hook_resid_mid", "ln2.hook_out"),
    "post_feedforward_layernorm": ("mlp.hook_out", "hook_mlp_out"),
}
"""Input and output of the parts of a block."""


def hook_of_module(name: str, output: bool) -> str | None:
    """Return the hook point of a module's output or input, or None if the name is not that of a known module.

    A name of a hook point, such as `blocks.3.hook_resid_pre`, is not that of a module.

    Args:
        name: Name of the module in the model, in the part of it without a head, or as a path with slashes.
        output: True for the output of the module, False for its input.

    >>> hook_of_module("layers.3", output=True), hook_of_module("transformer.h.1.mlp", output=False)
    ('blocks.3.hook_resid_post', 'blocks.1.mlp.hook_in')
    """
    if _EMBEDDING.fullmatch(name):
        return "hook_embed" if output else None
    found = _BLOCK.fullmatch(name)
    part = _PARTS.get(found[2] or "") if found else None
    return f"blocks.{int(found[1])}.{part[output]}" if found and part else None

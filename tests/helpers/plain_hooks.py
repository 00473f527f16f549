"""Interventions on plain Hugging Face models, by forward hooks on their own modules: no bridge, no hook points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Change = Callable[[Tensor], Tensor]


def modules_of(raw: Any, layer: int) -> dict[str, Any]:
    """The modules of one block: "block", "attn", "mlp", what writes them to the stream, and their last linear maps.

    "attn" and "mlp" are the modules whose output is added to the stream: the norms after them where there are some.
    """
    inner = raw.base_model
    block = (inner.h if hasattr(inner, "h") else inner.layers)[layer]
    attn = next(getattr(block, n) for n in ("attn", "attention", "self_attn", "self_attention") if hasattr(block, n))
    mlp = block.mlp
    heads = next(getattr(attn, n) for n in ("c_proj", "dense", "o_proj", "out_proj") if hasattr(attn, n))
    neurons = next(getattr(mlp, n) for n in ("c_proj", "dense_4h_to_h", "down_proj", "fc_out") if hasattr(mlp, n))
    after = hasattr(block, "pre_feedforward_layernorm")  # Gemma 2
    return {
        "block": block,
        "attn": block.post_attention_layernorm if after else attn,
        "mlp": block.post_feedforward_layernorm if after else mlp,
        "heads": heads,
        "neurons": neurons,
    }


def run_changed(
    raw: Any,
    ids: list[int] | Tensor,
    inputs: Mapping[Any, Change] | None = None,
    outputs: Mapping[Any, Change] | None = None,
    read: Any = None,
) -> tuple[Tensor, Tensor | None]:
    """Run a plain model with inputs and outputs of modules changed; return its logits and the output of a module."""
    handles, seen = [], {}

    def before(change: Change) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> Any:
            if args:
                return (change(args[0].clone()), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"].clone())}

        return hook

    def after(change: Change) -> Any:
        def hook(module: Any, args: Any, out: Any) -> Any:
            return (change(out[0].clone()), *out[1:]) if isinstance(out, tuple) else change(out.clone())

        return hook

    def look(module: Any, args: Any, out: Any) -> None:
        seen["out"] = out[0] if isinstance(out, tuple) else out

    rows = torch.as_tensor(ids)
    rows = rows[None] if rows.ndim == 1 else rows
    try:
        for module, change in (inputs or {}).items():
            handles.append(module.register_forward_pre_hook(before(change), with_kwargs=True))
        for module, change in (outputs or {}).items():
            handles.append(module.register_forward_hook(after(change)))
        if read is not None:
            handles.append(read.register_forward_hook(look))
        with torch.no_grad():
            logits = raw(rows, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits, seen.get("out")

"""Processing of a model's weights after loading, measured on the model itself.

TransformerLens can rewrite the weights of a model so that its logits stay the same and its activations do not: writing
weights are centred, norms and value biases are folded. No model says afterwards which of these were done, so each is
measured.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from dreamy_lens.models.hooked_model import HookedModel

_NOT_ZERO = {torch.float64: 1e-6, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@torch.no_grad()
def writes_centred(model: HookedModel, ids: Int[Tensor, "batch pos"]) -> bool:
    """Return whether the weights that write to the residual stream are centred: embeddings have a mean of zero."""
    embeddings = model.embed(ids).float()
    largest = embeddings.mean(-1).abs().max() / embeddings.norm(dim=-1).max().clamp_min(1e-30)
    return float(largest) * embeddings.shape[-1] ** 0.5 < _NOT_ZERO.get(model.dtype, 1e-5)


@torch.no_grad()
def ignores_mean(model: HookedModel, ids: Int[Tensor, "batch pos"]) -> bool:
    """Return whether no block reads the mean of the residual stream.

    If a number is added to all units of the embedding, the residual stream after the last block then has exactly this
    number more. Centred weights thus give the same residual stream without its mean, and nothing else changes. A norm
    behind the embedding, norms behind the blocks, and norms without centring do not pass.
    """
    last = f"blocks.{model.n_layers - 1}.hook_resid_post"
    if last not in model.hook_names():
        return False
    embeddings = model.embed(ids)
    step = embeddings.float().std()
    plain, shifted = (
        model.run(ids, [last], logits=False, embeddings=embeddings + more)[0][last].float() for more in (0 * step, step)
    )
    off = (shifted - plain - step).abs().max()
    return bool(off <= 100 * _NOT_ZERO.get(model.dtype, 1e-5) * torch.maximum(step, plain.abs().max()))

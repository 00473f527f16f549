"""The settings of a model's configuration are computed as the plain Hugging Face model computes it, or refused."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.errors import ModelError
from tests.helpers.models import new_bridge, tokenizer

BODY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = {**BODY, "num_key_value_heads": 2}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}

STATED = {
    "tied embeddings": ("Llama", {**GROUPED, "tie_word_embeddings": True}),
    "rope_scaling": ("Llama", {**GROUPED, "rope_parameters": YARN}),
    "biases and epsilon": ("Llama", {**GROUPED, "attention_bias": True, "mlp_bias": True, "rms_norm_eps": 0.1}),
    "head_dim": ("Llama", {**GROUPED, "head_dim": 12}),
    "sliding_window": ("Mistral", {**GROUPED, "sliding_window": 3}),
    "serial blocks": ("GPTNeoX", {**BODY, "use_parallel_residual": False}),
    "scaling by layer": ("GPT2", {**GPT2, "scale_attn_by_inverse_layer_idx": True}),
    "another nonlinearity": ("GPT2", {**GPT2, "activation_function": "relu", "layer_norm_epsilon": 0.1}),
}


def made(kind: str, settings: dict[str, Any]) -> tuple[Any, Any]:
    """A plain model with jittered norms, and a bridge over a copy of it."""
    import transformers as hf

    sizes: dict[str, Any] = {"vocab_size": len(tokenizer()) + 5, "initializer_range": 0.25}
    config = getattr(hf, f"{kind}Config")(**sizes | {"bos_token_id": 0, "eos_token_id": 0} | settings)
    config._attn_implementation = "eager"
    raw = getattr(hf, "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in raw.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return raw, new_bridge("x", copy.deepcopy(raw))


@pytest.mark.parametrize("what", STATED)
def test_a_stated_setting_is_computed(what):
    raw, bridge = made(*STATED[what])
    ids = torch.randint(5, 300, (5, 12), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        out = raw(torch.cat([torch.zeros(5, 1, dtype=torch.long), ids], 1), output_hidden_states=True)
    log_probs = out.logits[:, :-1].log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    logit = dl.score(dl.logit(7), ids, bridge, prepend_bos=True)
    np.testing.assert_allclose(logit.value, out.logits[:, -1, 7].numpy(), atol=2e-5)
    np.testing.assert_allclose(logit.cross_entropy, -log_probs.mean(1).numpy(), atol=2e-5)
    unit = dl.score("blocks.0.hook_resid_post[-1, 3]", ids, bridge, prepend_bos=True)
    np.testing.assert_allclose(unit.value, out.hidden_states[1][:, -1, 3].numpy(), atol=2e-5)


def test_a_setting_that_would_be_ignored_is_refused():
    _, bridge = made("GPT2", {**GPT2, "scale_attn_weights": False})
    with pytest.raises(ModelError, match=r"scale_attn_weights = False .*which TransformerLens ignores"):
        dl.score("L0.N0", [5, 6], bridge)


def test_two_files_that_name_different_bos_tokens_are_said():
    _, bridge = made("GPT2", {**GPT2, "bos_token_id": 9})
    with pytest.warns(UserWarning, match=r"states the BOS 9 in config.json, and its tokenizer the BOS 0.*follow 0"):
        dl.score("L0.N0", [5, 6], bridge)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dl.score("L0.N0", [5, 6], bridge)  # once for each model
        dl.score("L0.N0", [5, 6], made("GPT2", GPT2)[1])

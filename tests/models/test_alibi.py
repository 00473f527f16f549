"""Models with ALiBi, which add the distance of a key to its score, share prefixes and have the raw model's numbers."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from tests.helpers import models


@cache
def alibi_model(name: str) -> tuple[Any, Any]:
    """Return a plain model with jittered random weights, and a bridge over a copy of it."""
    import transformers as hf

    size: dict[str, Any] = {"vocab_size": len(models.tokenizer()) + models.PADDED, "bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(4)
    if name == "bloom":
        raw: Any = hf.BloomForCausalLM(hf.BloomConfig(**size, hidden_size=32, n_layer=2, n_head=4))
    elif name == "falcon":
        shape: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True}
        raw = hf.FalconForCausalLM(hf.FalconConfig(**size, **shape, new_decoder_architecture=False))
    else:
        raw = hf.MptForCausalLM(hf.MptConfig(**size, d_model=32, n_layers=2, n_heads=4, max_seq_len=64))
    raw.eval()
    with torch.no_grad():
        for parameter in raw.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    raw.config.architectures, raw.config._attn_implementation = [type(raw).__name__], "eager"
    return raw, models.new_bridge(name, raw)


@pytest.mark.parametrize("name", ["bloom", "falcon", "mpt"])
@pytest.mark.parametrize("feature", ["logit(9)", "L1.N3", "blocks.0.attn.hook_pattern[1, -1, 2]"])
@pytest.mark.parametrize("prefix", [[], [7, 9, 11]])
def test_prefixes_are_shared_and_numbers_are_those_of_the_raw_model(name, feature, prefix):
    raw, bridge = alibi_model(name)
    ids = torch.randint(1, 300, (6, 9), generator=torch.Generator().manual_seed(1))
    ids[1:, :5] = ids[0, :5]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a model that is scored whole warns
        scores = dl.score(feature, ids.numpy(), bridge, prepend_bos=False, prefix=prefix)
    rows = torch.cat([torch.tensor([prefix] * 6, dtype=torch.long).view(6, -1), ids], 1)
    with torch.no_grad():
        out = raw(rows, output_attentions=True)
    start = max(len(prefix), 1)
    losses = torch.nn.functional.cross_entropy(
        out.logits[:, start - 1 : -1].flatten(0, 1), rows[:, start:].flatten(), reduction="none"
    )
    np.testing.assert_allclose(scores.cross_entropy, losses.view(6, -1).mean(1), atol=1e-5)
    if feature == "logit(9)":
        np.testing.assert_allclose(scores.value, out.logits[:, -1, 9], atol=1e-5)
    elif "pattern" in feature:
        np.testing.assert_allclose(scores.value, out.attentions[0][:, 1, -1, 2], atol=1e-5)
    else:
        whole = dl.score(feature, ids.numpy(), bridge, prepend_bos=False, prefix=prefix, share_prefixes=False)
        np.testing.assert_allclose(scores.value, whole.value, atol=1e-5)


@pytest.mark.parametrize("name", ["bloom", "falcon", "mpt"])
def test_a_search_runs_without_a_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = dl.dream("L1.N3", alibi_model(name)[1], iterations=2, population=2, children=6, length=6)
    ids = run.history.ids.astype(np.int64)
    whole = dl.score("L1.N3", ids, alibi_model(name)[1], share_prefixes=False, prepend_bos=run.provenance.prepend_bos)
    np.testing.assert_allclose(run.history.value, whole.value, atol=1e-5)
    np.testing.assert_allclose(run.history.cross_entropy, whole.cross_entropy, atol=1e-5)

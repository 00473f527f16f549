"""Small models with random weights, one per architecture, each as a bridge and as the plain Hugging Face model.

Norm weights and biases are jittered: with fresh ones (all 1 and 0), a norm that is folded, centred or forgotten goes
unnoticed.
"""

from __future__ import annotations

import copy
import os
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

FAMILIES = ("gpt2", "neox", "llama", "gemma2")
STORIES = "stories"
BOS = "<|endoftext|>"
PADDED = 5
"""Rows of every embedding that no token has."""

_SENTENCES = (
    "The dog runs over the hill and the cat sleeps in the house.",
    "A dog and a cat are friends; the dogs bark, the cats do not.",
    "She said that the big red house over there was her own house.",
    "Over and over the little bird sings its song to the morning sun.",
    "He went to the house of the king and asked for bread and water.",
    "The sun is over the hill, and the birds are singing in the trees.",
) * 4


@dataclass(frozen=True)
class Family:
    """A model twice: as a bridge, and as the plain Hugging Face model that knows nothing of bridges."""

    name: str
    bridge: Any
    raw: Any
    tokenizer: Any

    @property
    def bos(self) -> int:
        """The id of the BOS token."""
        return self.tokenizer.bos_token_id


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of some 330 tokens, trained here; id 0 is BOS, EOS and the only special token."""
    bpe = Tokenizer(tokenizer_models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=[BOS], initial_alphabet=alphabet, min_frequency=2, show_progress=False
    )
    bpe.train_from_iterator(_SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BOS, eos_token=BOS, add_bos_token=True, name_or_path="local"
    )


def raw_model(name: str) -> Any:
    """A fresh plain Hugging Face model of a family, in evaluation mode and float32; the same numbers every time."""
    import transformers as hf

    sizes: dict[str, Any] = {"vocab_size": len(tokenizer()) + PADDED, "initializer_range": 0.25}
    sizes |= {"bos_token_id": 0, "eos_token_id": 0}
    body: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
    body |= {"num_attention_heads": 4, "max_position_embeddings": 64}
    if name == "gpt2":
        gpt2: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 40, "n_positions": 64}
        gpt2 |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        config, make = hf.GPT2Config(**sizes, **gpt2), hf.GPT2LMHeadModel
    elif name == "neox":
        rotary: Any = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
        config, make = hf.GPTNeoXConfig(**sizes, **body, rope_parameters=rotary), hf.GPTNeoXForCausalLM
    elif name == "llama":
        config, make = hf.LlamaConfig(**sizes, **body, num_key_value_heads=2), hf.LlamaForCausalLM
    elif name == "gemma2":
        body |= {"num_key_value_heads": 2, "head_dim": 6, "sliding_window": 4, "query_pre_attn_scalar": 10}
        body |= {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0}
        body |= {"pad_token_id": len(tokenizer())}  # padding embeds to zero, so it must not be the BOS
        config, make = hf.Gemma2Config(**sizes, **body), hf.Gemma2ForCausalLM
    else:
        raise ValueError(name)
    config._attn_implementation = "eager"
    torch.manual_seed(FAMILIES.index(name))
    model: Any = make(config)  # pyright: ignore[reportArgumentType]
    model.eval().float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@cache
def family(name: str) -> Family:
    """One of `FAMILIES`, or the trained model of the folder `shared_folder()` if `STORIES` is asked for."""
    if name == STORIES:
        return _stories()
    raw = raw_model(name)
    return Family(name, new_bridge(name, raw), raw, tokenizer())


def new_bridge(name: str, raw: Any, dtype: torch.dtype = torch.float32) -> Any:
    """A bridge over a copy of a plain model, for booting takes the model it is given apart."""
    from transformer_lens.model_bridge import TransformerBridge

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridge = TransformerBridge.boot_transformers(
            f"tiny-{name}", hf_model=copy.deepcopy(raw).to(dtype), tokenizer=tokenizer(), device="cpu", dtype=dtype
        )
    return bridge.eval()


@cache
def compatible(name: str) -> Family:
    """The same model with its bridge in compatibility mode: norms folded, weights centred, hook points renamed."""
    plain = family(name)
    bridge = new_bridge(name, plain.raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridge.enable_compatibility_mode()
    return Family(name, bridge, plain.raw, plain.tokenizer)


def shared_folder() -> Path:
    """The folder of material beside the checkout, or wherever DREAMY_LENS_SHARED says it is."""
    given = os.environ.get("DREAMY_LENS_SHARED")
    return Path(given) if given else Path(__file__).resolve().parents[3] / "shared"


def _stories() -> Family:
    import pytest
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from dreamy_lens.models import load_model

    folder = shared_folder() / "models" / "stories260K"
    if not (folder / "config.json").is_file():
        pytest.skip(f"no trained model at {folder}; DREAMY_LENS_SHARED names the folder that holds models/stories260K")
    raw = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    return Family(STORIES, load_model(folder, device="cpu"), raw, AutoTokenizer.from_pretrained(folder))

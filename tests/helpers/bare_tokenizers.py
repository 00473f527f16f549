"""Tokenizers without BOS of every kind, and a small model with random weights for each, in memory or in a folder."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

LETTERS = sorted(set("thedogandthecatrunoverthehillahouse"))


def _bytes() -> tuple[Tokenizer, dict[str, str]]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "d"), ("o", "g"), ("Ġd", "og"), ("Ġ", "the"), ("a", "n"), ("an", "d")]
    tokens = [*alphabet, *(left + right for left, right in merges)]
    t = Tokenizer(tokenizer_models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return t, {}


def _word_pieces() -> tuple[Tokenizer, dict[str, str]]:
    tokens = ["[UNK]", *LETTERS, *(f"##{c}" for c in LETTERS), "the", "dog", "and", "over", "##ill", "##ouse"]
    t = Tokenizer(tokenizer_models.WordPiece(vocab={token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    t.pre_tokenizer, t.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    return t, {"unk_token": "[UNK]"}


def _unigram() -> tuple[Tokenizer, dict[str, str]]:
    pieces = [("<unk>", 0.0), ("▁", -3.0), *((c, -4.0) for c in LETTERS), ("▁the", -2.0), ("▁dog", -2.0), ("an", -5.0)]
    t = Tokenizer(tokenizer_models.Unigram(pieces, unk_id=0))
    t.pre_tokenizer, t.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return t, {"unk_token": "<unk>"}


def _characters() -> tuple[Tokenizer, dict[str, str]]:
    letters = {c: i for i, c in enumerate([" ", *LETTERS])}
    t = Tokenizer(tokenizer_models.BPE(vocab=letters, merges=[]))
    t.decoder = decoders.Fuse()
    return t, {}


def _characters_and_unknown() -> tuple[Tokenizer, dict[str, str]]:
    letters = {c: i for i, c in enumerate(["[UNK]", " ", *LETTERS])}
    t = Tokenizer(tokenizer_models.BPE(vocab=letters, merges=[], unk_token="[UNK]"))
    t.decoder = decoders.Fuse()
    return t, {"unk_token": "[UNK]"}


KINDS = {
    "byte-level BPE": _bytes,
    "WordPiece": _word_pieces,
    "Unigram": _unigram,
    "characters": _characters,
    "characters with [UNK]": _characters_and_unknown,
}


def bare_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A new tokenizer of one of `KINDS`, which declares neither BOS nor EOS."""
    tokenizer, names = KINDS[kind]()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)  # pyright: ignore[reportArgumentType]


def raw_gpt2(rows: int) -> Any:
    """A plain Hugging Face GPT-2 with an embedding of some rows."""
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=rows, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=None, eos_token_id=None
    )
    config._attn_implementation = "eager"
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def bridged(raw: Any, tokenizer: Any) -> Any:
    """A bridge over a copy of a plain model, made as users make it; TransformerLens changes the tokenizer."""
    from transformer_lens.model_bridge import TransformerBridge

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TransformerBridge.boot_transformers(
            "tiny", hf_model=copy.deepcopy(raw), tokenizer=tokenizer, device="cpu", dtype=torch.float32
        )


def saved(raw: Any, tokenizer: Any, folder: Path) -> Path:
    """A folder with a plain model and its tokenizer."""
    raw.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

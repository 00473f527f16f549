"""Undo what TransformerLens does to a tokenizer: the BOS, EOS and padding tokens that it puts in for missing ones.

When a bridge is made, TransformerLens gives a tokenizer without EOS the token "<|endoftext|>", and a tokenizer without
BOS its EOS. A vocabulary that lacks "<|endoftext|>" then grows by a token that no row of the embedding was trained for,
or, if it has a token for unknown text, the BOS becomes that one. A model never saw such a token before its texts.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from dreamy_lens.errors import TokenizerError

STAND_IN = "<|endoftext|>"
"""Text of the token that TransformerLens puts in for a missing EOS."""


def without_stand_ins(tokenizer: Any) -> Any:
    """Return a tokenizer as it was before TransformerLens put in tokens that it lacks.

    The tokenizer itself is left as it is: it belongs to the user.

    Args:
        tokenizer: Tokenizer of a bridge. What it declares are the names in its files, or the arguments that it was
            made with. A token that was assigned later, and that TransformerLens would not have put in, counts too.

    Returns:
        The same object if nothing was put in, or else a changed copy.

    Raises:
        TokenizerError: The token that was put in cannot be taken out again.
    """
    declared = getattr(tokenizer, "init_kwargs", None)
    if not isinstance(declared, Mapping):
        return tokenizer
    names = {n: getattr(tokenizer, n, None) for n in ("bos_token", "eos_token", "pad_token")}
    added = names["eos_token"] == STAND_IN and declared.get("eos_token") is None and not _has_own(tokenizer, declared)
    put_in = [n for n in ("bos_token", "pad_token") if declared.get(n) is None and names[n] == names["eos_token"]]
    put_in = [n for n in put_in if names[n] is not None] + ["eos_token"] * added
    if not put_in:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    for name in put_in:
        setattr(tokenizer, name, None)
    # A declared BOS or padding token can be this one too, and then it is part of the vocabulary.
    if added and STAND_IN in tokenizer.get_vocab() and STAND_IN not in tokenizer.all_special_tokens:
        return _take_out(tokenizer, STAND_IN)
    return tokenizer


def _has_own(tokenizer: Any, declared: Mapping[str, Any]) -> bool:
    """Return whether the stand-in's text is a token of the vocabulary itself."""
    vocabulary = tokenizer.get_vocab()
    token = vocabulary.get(STAND_IN)
    if token is None:
        return False
    loaded = declared.get("added_tokens_decoder")
    if isinstance(loaded, Mapping):  # the added tokens of the files
        added = {str(content) for content in loaded.values()}
        return STAND_IN in added or token not in getattr(tokenizer, "added_tokens_decoder", {})
    # A tokenizer that was made in memory: the token that was put in came last.
    return token not in getattr(tokenizer, "added_tokens_decoder", {}) or token != max(vocabulary.values())


def _take_out(tokenizer: Any, text: str) -> Any:
    """Return a copy of a tokenizer without an added token, for which Hugging Face has no function."""
    from transformers import PreTrainedTokenizerFast

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] != text]
        special = {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
        splits = bool(getattr(tokenizer, "split_special_tokens", False))
        plain = PreTrainedTokenizerFast(
            tokenizer_object=type(backend).from_str(json.dumps(state)), split_special_tokens=splits, **special
        )
        if plain.get_vocab().keys() == tokenizer.get_vocab().keys() - {text}:
            return plain
    raise TokenizerError(
        f"TransformerLens added {text!r} to the tokenizer, which has no end-of-text token, and it cannot be taken out "
        "again. Declare the tokenizer's own tokens before the model is made: eos_token= and bos_token=, in "
        "tokenizer_config.json or as arguments of the tokenizer."
    )

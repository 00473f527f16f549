"""Evaluation of a trained model: bits per byte of texts, and continuations of prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from training.recipe import END_OF_TEXT_ID

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def bits_per_byte(model: Any, tokenizer: Tokenizer, texts: Sequence[str], batch: int = 16) -> float:
    """Negative log2 probability of all texts together, divided by the UTF-8 bytes of all texts.

    Args:
        model: Hugging Face causal language model.
        tokenizer: Tokenizer of the `tokenizers` library.
        texts: Texts to predict; at least one, none empty.
        batch: Windows per forward pass.
    """
    return sum(bits(model, tokenizer, texts, batch)) / sum(len(text.encode()) for text in texts)


@torch.no_grad()
def bits(model: Any, tokenizer: Tokenizer, texts: Sequence[str], batch: int = 16) -> list[float]:
    """Negative log2 probability of each text.

    Each text is predicted after an end-of-text token. A text longer than the context is read in windows that overlap by
    half, and every token is charged once, in the first window that holds it.

    Args:
        model: Hugging Face causal language model.
        tokenizer: Tokenizer of the `tokenizers` library.
        texts: Texts to predict.
        batch: Windows per forward pass.
    """
    context = model.config.max_position_embeddings
    windows: list[tuple[list[int], int, int]] = []  # ids, how many of the last ids are charged, index of the text
    for which, text in enumerate(texts):
        ids = [END_OF_TEXT_ID, *tokenizer.encode(text, add_special_tokens=False).ids]
        windows.append((ids[:context], min(len(ids), context) - 1, which))
        end = context
        while end < len(ids):
            new_end = min(end + context // 2, len(ids))
            windows.append((ids[max(0, new_end - context) : new_end], new_end - end, which))
            end = new_end
    windows.sort(key=lambda window: len(window[0]))
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    total = [0.0] * len(texts)
    for start in range(0, len(windows), batch):
        part = windows[start : start + batch]
        width = max(len(ids) for ids, _, _ in part)
        rows = torch.full((len(part), width), END_OF_TEXT_ID)
        charged = torch.zeros(len(part), width, dtype=torch.bool)
        for i, (ids, count, _) in enumerate(part):
            rows[i, : len(ids)] = torch.tensor(ids)
            charged[i, len(ids) - count : len(ids)] = True
        logits = model(rows.to(device), use_cache=False).logits[:, :-1].float()
        losses = F.cross_entropy(logits.transpose(1, 2), rows[:, 1:].to(device), reduction="none").cpu().double()
        nats = losses.masked_fill(~charged[:, 1:], 0.0).sum(1)
        for (_, _, which), n in zip(part, nats.tolist(), strict=True):
            total[which] += n / math.log(2)
    model.train(was_training)
    return total


@torch.no_grad()
def continuation(
    model: Any, tokenizer: Tokenizer, prompt: str, tokens: int, temperature: float, seed: int = 0
) -> tuple[str, bool]:
    """Continue a prompt with the model: greedily at temperature 0, by sampling at any other temperature.

    Args:
        model: Hugging Face causal language model.
        tokenizer: Tokenizer of the `tokenizers` library.
        prompt: Text to continue; it stands after an end-of-text token.
        tokens: Largest number of tokens to write.
        temperature: Number that divides the logits.
        seed: Seed of the samples.

    Returns:
        The text after the prompt, and whether the model ended the text by itself.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    ids = [END_OF_TEXT_ID, *tokenizer.encode(prompt, add_special_tokens=False).ids]
    start = len(ids)
    while len(ids) < start + tokens:
        logits = model(torch.tensor([ids], device=device), use_cache=False).logits[0, -1].float().cpu()
        if temperature == 0:
            token = int(logits.argmax())
        else:
            token = int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))
        if token == END_OF_TEXT_ID:
            return tokenizer.decode(ids[start:]), True
        ids.append(token)
    return tokenizer.decode(ids[start:]), False

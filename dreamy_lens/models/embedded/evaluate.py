"""Held-out bits per byte, and continuations, of the embedded model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from dreamy_lens.models.embedded.recipe import END_OF_TEXT_ID

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@torch.no_grad()
def bits_per_byte(model: Any, tokenizer: Tokenizer, texts: list[str], batch: int = 16) -> float:
    """Mean negative log2 probability of the texts per UTF-8 byte.

    Each text is predicted after an end-of-text token. One longer than the context is read in windows that overlap by
    half, and every token is charged once, in the first window that holds it.

    Args:
        model: a Hugging Face causal language model.
        tokenizer: of the `tokenizers` library.
        texts: the held-out texts.
        batch: windows per forward pass.

    Returns:
        Bits per byte over all texts together.
    """
    context = model.config.max_position_embeddings
    windows: list[tuple[list[int], int]] = []  # ids, and how many of the last are charged
    for text in texts:
        ids = [END_OF_TEXT_ID, *tokenizer.encode(text, add_special_tokens=False).ids]
        windows.append((ids[:context], min(len(ids), context) - 1))
        end = context
        while end < len(ids):
            new_end = min(end + context // 2, len(ids))
            windows.append((ids[max(0, new_end - context) : new_end], new_end - end))
            end = new_end
    windows.sort(key=lambda w: len(w[0]))
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    nats = 0.0
    for start in range(0, len(windows), batch):
        part = windows[start : start + batch]
        width = max(len(ids) for ids, _ in part)
        rows = torch.full((len(part), width), END_OF_TEXT_ID)
        charged = torch.zeros(len(part), width, dtype=torch.bool)
        for i, (ids, count) in enumerate(part):
            rows[i, : len(ids)] = torch.tensor(ids)
            charged[i, len(ids) - count : len(ids)] = True
        logits = model(rows.to(device), use_cache=False).logits[:, :-1].float()
        losses = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten().to(device), reduction="none").cpu()
        nats += losses[charged[:, 1:].flatten()].double().sum().item()
    model.train(was_training)
    return nats / torch.log(torch.tensor(2.0)).item() / sum(len(t.encode()) for t in texts)


@torch.no_grad()
def continuation(model: Any, tokenizer: Tokenizer, prompt: str, tokens: int, temperature: float, seed: int = 0) -> str:
    """What the model writes after a prompt: greedy at temperature 0, sampled otherwise; ends at end-of-text."""
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
            break
        ids.append(token)
    return tokenizer.decode(ids[start:])

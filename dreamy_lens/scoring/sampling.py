"""Samples of a language model: prompts drawn token by token from its own predictions."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from dreamy_lens.models.causality import check_causal
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.transfer import to_device
from dreamy_lens.scoring.kv_prefix import empty_cache
from dreamy_lens.scoring.prefix_sharing import is_close
from dreamy_lens.scoring.prompts import PromptFrame

CHECKED = 4
"""Number of samples whose predictions are computed again without a cache of keys and values."""


class Samples(NamedTuple):
    """Prompts drawn from a model, on its device.

    Attributes:
        ids: Token ids of the prompts, int64 `[B, n]`.
        surprisal: -log p of every token at every position of the first prompts, given what stands before it, in nats,
            float32 `[K, n, d_vocab]`. At a position before which no token stands, it is 0. For tokens that the model
            does not have, it is infinite.
        computed: Number of tokens that went through the model.
    """

    ids: Int64[Tensor, "B n"]
    surprisal: Float[Tensor, "K n d_vocab"]
    computed: int


@torch.no_grad()
def draw_samples(
    model: HookedModel,
    frame: PromptFrame,
    count: int,
    length: int,
    allowed: Bool[np.ndarray, " d_vocab"],
    fixed: Mapping[int, int],
    seed: int,
    keep: int,
) -> Samples:
    """Draw prompts from a model's predictions at temperature 1, restricted to allowed tokens.

    Args:
        model: Model to draw from.
        frame: Tokens around every prompt. The samples continue BOS and prefix; the suffix is not read.
        count: Number of prompts (B).
        length: Number of tokens (n) of a prompt.
        allowed: Tokens that may be drawn.
        fixed: Tokens that never change, by position.
        seed: Seed of the random numbers, which are the same on every device.
        keep: Number of prompts (K) whose surprisals are kept.

    Raises:
        ModelError: The model is not causal, so its predictions are not those of a next token.
    """
    check_causal(model)
    before = torch.tensor([*model.bos(frame.prepend_bos), *frame.prefix], dtype=torch.int64, device=model.device)
    uniform = np.random.default_rng(seed).random((length, count), dtype=np.float32)
    with model.lock:
        if len(before):
            with contextlib.suppress(Exception):  # an architecture may refuse a cache in any way
                samples = _draw(model, before, count, length, allowed, fixed, uniform, keep, cached=True)
                if _is_right(model, before, samples):
                    return samples._replace(computed=samples.computed + CHECKED * (len(before) + length))
        return _draw(model, before, count, length, allowed, fixed, uniform, keep, cached=False)


def _draw(
    model: HookedModel,
    before: Int64[Tensor, " P"],
    count: int,
    length: int,
    allowed: Bool[np.ndarray, " d_vocab"],
    fixed: Mapping[int, int],
    uniform: Float32[np.ndarray, "n B"],
    keep: int,
    cached: bool,
) -> Samples:
    """Draw the prompts position by position, with or without a cache of keys and values."""
    width = len(allowed)
    rows, last = before.expand(count, -1), int(np.flatnonzero(allowed)[-1])
    excluded = to_device(~allowed, model.device)
    surprisal = torch.zeros(min(keep, count), length, width, device=model.device)
    past, unread, computed = (empty_cache() if cached else None), rows, 0
    for position in range(length):
        scores = torch.zeros(count, width, device=model.device)
        if rows.shape[1]:
            inputs = unread if cached else rows
            computed += inputs.numel()
            _, logits = model.run(inputs, past=past)
            assert logits is not None
            scores = fit(torch.log_softmax(logits[:, -1, :width].float(), -1), width, -torch.inf)
            surprisal[:, position] = -scores[: len(surprisal)]
        likely = torch.softmax(scores, -1).masked_fill_(excluded, 0).cumsum_(-1)
        drawn = to_device(uniform[position], model.device)[:, None] * likely[:, -1:]
        unread = torch.searchsorted(likely, drawn, right=True).clamp_(max=last)  # the inverse of the distribution
        if position in fixed:
            unread = torch.full_like(unread, fixed[position])
        rows = torch.cat([rows, unread], 1)
    return Samples(rows[:, len(before) :], surprisal, computed)


def fit(table: Tensor, width: int, missing: float) -> Tensor:
    """Return a table with this many columns: those beyond are left out, and missing ones are filled."""
    extra = width - table.shape[-1]
    return table[..., :width] if extra <= 0 else torch.nn.functional.pad(table, (0, extra), value=missing)


def _is_right(model: HookedModel, before: Int64[Tensor, " P"], samples: Samples) -> bool:
    """Return whether predictions that were made with a cache are those of whole rows."""
    some = min(CHECKED, len(samples.surprisal))
    if not some:
        return True
    rows = torch.cat([before.expand(some, -1), samples.ids[:some]], 1)
    _, logits = model.run(rows)
    assert logits is not None
    width, start = samples.surprisal.shape[-1], len(before) - 1
    plain = -torch.log_softmax(logits[:, start:-1, :width].float(), -1)
    return is_close(samples.surprisal[:some, :, : plain.shape[-1]], plain, model.dtype)

"""The strongest of many values, of equal ones the first: in every row of a matrix, on whichever device."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

NOBODY = (1 << 63) - 1
"""The number, and the hash, of no window."""


def first(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest of each row of float32 `[F, B]` and where they stand, of equal ones the first: `[F, count]` both.

    As a stable sort of everything would give them, in less than half the time: value and place are one integer.
    """
    values = values + 0.0  # of the two zeros, the integers of which differ, leave one
    if values.shape[1] <= count or values.dtype != torch.float32:
        order = values.sort(dim=1, descending=True, stable=True)
        return order.values[:, :count], order.indices[:, :count]
    bits = values.contiguous().view(torch.int32)
    rising = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).long()
    last = (1 << 32) - 1
    keys = (rising << 32) | (last - torch.arange(values.shape[1], device=values.device))
    at = last - (keys.topk(count, dim=1).values & last)
    return values.gather(1, at), at


def best_of(value: Tensor, window: Tensor, hashes: Tensor, k: int) -> Iterable[Tensor]:
    """The k strongest of each row `[F, m]`, of equals the first, where no text is there twice."""
    best, at = first(value, min(k, value.shape[1]))
    return best, window.gather(1, at), hashes.gather(1, at)


def strongest_of(value: Tensor, window: Tensor, hashes: Tensor, k: int) -> Iterable[Tensor]:
    """The k strongest of each row `[F, m]`, whose windows are in order of number among equal values; no text twice."""
    order = value.sort(dim=1, descending=True, stable=True).indices
    value, window, hashes = (x.gather(1, order) for x in (value, window, hashes))
    by_text = hashes.sort(dim=1, stable=True)
    again = torch.zeros_like(hashes, dtype=torch.bool)
    again[:, 1:] = (by_text.values[:, 1:] == by_text.values[:, :-1]) & (by_text.values[:, 1:] != NOBODY)
    if bool(again.any()):
        repeated = torch.zeros_like(again).scatter(1, by_text.indices, again)
        value = value.masked_fill(repeated, -torch.inf)
        window, hashes = window.masked_fill(repeated, NOBODY), hashes.masked_fill(repeated, NOBODY)
        order = value.sort(dim=1, descending=True, stable=True).indices
        value, window, hashes = (x.gather(1, order) for x in (value, window, hashes))
    return value[:, :k].contiguous(), window[:, :k].contiguous(), hashes[:, :k].contiguous()

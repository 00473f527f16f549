"""Causal attention over a packed row, in which every token sees its own row's tokens up to itself.

This is an attention function of transformers' `AttentionInterface`: a Hugging Face attention module makes queries, keys
and values for the nodes of a :class:`~dreamy_lens.models.prefix_tree.PrefixTree` in its own way (projections, norms,
rotation) and hands them over here together with what else its architecture asks for: scale, soft cap, sliding window,
sinks.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dreamy_lens.models.prefix_tree import PrefixTree
from dreamy_lens.models.transfer import to_device

NAME = "dreamy_lens_tree"
"""By which transformers knows this attention."""

TOGETHER = 2
"""Groups in one product: a few more queries than are needed, for half as many calls."""

_IGNORED = {"use_cache", "position_ids", "cache_position", "output_attentions", "is_causal", "layer_past"}
"""Arguments of Hugging Face's attention functions that change nothing here."""


class UnsupportedAttention(Exception):
    """The architecture asks for something that is not done here; another way must be taken."""


@dataclass
class Current:
    """What the attention of the pass that is running needs to know.

    Attributes:
        packing: of the layer's input.
        before: keys and values `[1, heads, P, d_head]` of the known prefix, or None.
        kept: where the layer's own keys and values are to be left, if they are wanted.
    """

    packing: PrefixTree
    before: tuple[Tensor, Tensor] | None = None
    kept: list[tuple[Tensor, Tensor]] | None = field(default=None)


class _ThreadState(threading.local):
    current: Current | None = None


RUNNING = _ThreadState()
"""The pass that this thread is in."""


def register() -> None:
    """Make the function known to transformers; again does no harm."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, tree_attention)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)


def tree_attention(
    module: Any,
    query: Float[Tensor, "1 head node d_head"],
    key: Float[Tensor, "1 key_head node d_head"],
    value: Float[Tensor, "1 key_head node d_head"],
    attention_mask: Any = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **other: Any,
) -> tuple[Float[Tensor, "1 node head d_head"], None]:
    """Attention of packed nodes, in the form that transformers calls.

    Args:
        module: the attention module; not used.
        query: queries of the nodes.
        key: keys of the nodes; several heads may share a key head.
        value: values of the nodes; several heads may share them in the same way.
        attention_mask: ignored: the packing says who sees whom.
        scaling: of the scores; None is `d_head ** -0.5`.
        dropout: ignored: models are in evaluation mode.
        sliding_window: how many tokens back a token sees, itself counted; None sees all.
        softcap: `c` in `c tanh(scores / c)`.
        **other: nothing else that would change the result.

    Returns:
        What each head gives at each node, and None in place of the weights.

    Raises:
        UnsupportedAttention: an argument is not known here.
    """
    strange = sorted(k for k, v in other.items() if v is not None and k not in _IGNORED)
    current = RUNNING.current
    if current is None or strange:
        raise UnsupportedAttention(f"{type(module).__name__} wants {', '.join(strange) or 'no packed pass'}")
    if current.kept is not None:
        current.kept.append((key, value))
    if current.before is not None:
        key, value = (torch.cat(pair, 2) for pair in zip(current.before, (key, value), strict=True))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    way = _by_groups if query.device.type == "cpu" else _by_rows
    return way(query[0], key[0], value[0], current.packing, float(scale), softcap, sliding_window)[None], None


def _by_groups(
    q: Tensor, k: Tensor, v: Tensor, packing: PrefixTree, scale: float, softcap: float | None, window: int | None
) -> Tensor:
    """For a processor: only the queries that are needed, in blocks of equal shape. Returns `[T, heads, d_head]`."""
    heads, nodes, width = q.shape
    if not packing.groups:  # all that there is was known before
        return v.new_zeros(nodes, heads, v.shape[-1])
    plan, length = _plan(packing, heads, k.shape[0]), packing.length
    asked = q.reshape(-1, width).index_select(0, plan.queries)
    k_rows, v_rows = (x.reshape(-1, x.shape[-1]).index_select(0, plan.keys) for x in (k, v))
    blocks = list(zip(plan.ends[:-1], plan.ends[1:], plan.key_ends[:-1], plan.key_ends[1:], plan.own, strict=True))

    def product(out: Tensor, left: Tensor, right: Tensor, at: slice, size: int) -> Tensor:
        """A batched product into a part of `out`, or beside it where gradients are wanted."""
        if torch.is_grad_enabled():
            return torch.bmm(left, right).view(-1, out.shape[-1])
        part = out[at]
        torch.bmm(left, right, out=part.view(-1, size, out.shape[-1]))
        return part

    scores = q.new_empty(len(asked), length)
    parts = [
        product(
            scores,
            asked[a:b].view(-1, own, width),
            k_rows[c:d].view(-1, length, width).transpose(1, 2),
            slice(a, b),
            own,
        )
        for a, b, c, d, own in blocks
    ]
    scores = torch.cat(parts) * scale if torch.is_grad_enabled() else scores.mul_(scale)
    scores = scores.float()
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    mask = plan.mask(window)
    weights = _softmax(scores + mask if torch.is_grad_enabled() else scores.add_(mask)).to(v.dtype)
    found = v.new_empty(len(asked), v.shape[-1])
    parts = [
        product(found, weights[a:b].view(-1, own, length), v_rows[c:d].view(-1, length, v.shape[-1]), slice(a, b), own)
        for a, b, c, d, own in blocks
    ]
    found = torch.cat(parts) if torch.is_grad_enabled() else found
    return found.index_select(0, plan.back).view(nodes, heads, -1)


def _softmax(scores: Tensor) -> Tensor:
    """Over the last axis; `scores` is used up. torch's own is slow where rows are shorter than a register."""
    if scores.shape[-1] >= 16 or torch.is_grad_enabled():
        return scores.softmax(-1)
    weights = scores.sub_(scores.amax(-1, keepdim=True)).exp_()
    return weights.div_(weights.sum(-1, keepdim=True))


@dataclass
class _Plan:
    """Where the blocks of :func:`_by_groups` are: some groups after others, head by head, row by row.

    Attributes:
        queries: of each query in this order, its place in `[heads T]`.
        keys: of each key, its place in `[key heads (P + T)]`.
        back: of each place in `[T heads]`, the query in this order.
        ends: where the queries of each block begin, and the last end.
        key_ends: where its keys do.
        own: how many queries each row of them has.
        positions: of each query.
        length: n.
    """

    queries: Tensor
    keys: Tensor
    back: Tensor
    ends: list[int]
    key_ends: list[int]
    own: list[int]
    positions: Tensor
    length: int
    _masks: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None) -> Tensor:
        """What is added to the scores, `[queries, n]`."""
        if window not in self._masks:
            self._masks[window] = _mask(self.length, window, "cpu")[self.positions]
        return self._masks[window]


def _plan(packing: PrefixTree, heads: int, key_heads: int) -> _Plan:
    plans = packing.__dict__.setdefault("_plans", {})  # not a field: it says nothing that the packing does not
    if (heads, key_heads) not in plans:
        plans[heads, key_heads] = _planned(packing, heads, key_heads)
    return plans[heads, key_heads]


def _planned(packing: PrefixTree, heads: int, key_heads: int) -> _Plan:
    nodes, known, length = packing.nodes, packing.known, packing.length
    head, key_head = np.arange(heads)[:, None], (np.arange(heads) * key_heads // heads)[:, None]
    queries, keys, positions, own = [], [], [], []
    for i in range(0, len(packing.groups), TOGETHER):
        groups = packing.groups[i : i + TOGETHER]  # by start; rows of later ones ask for a token that is another row's
        rows = np.concatenate([group.keys.reshape(-1, length) for group in groups])
        count = length - groups[0].start
        wanted = rows[:, groups[0].start :] - known
        queries.append((head * nodes + wanted.reshape(-1)).reshape(-1))
        keys.append((key_head * (known + nodes) + rows.reshape(-1)).reshape(-1))
        positions.append(np.tile(np.arange(groups[0].start, length), heads * len(rows)))
        own.append(count)
    asked = np.concatenate(queries)
    back = np.zeros(heads * nodes, dtype=np.int64)
    back[asked % nodes * heads + asked // nodes] = np.arange(len(asked))
    return _Plan(
        torch.from_numpy(asked),
        torch.from_numpy(np.concatenate(keys)),
        torch.from_numpy(back),
        np.cumsum([0, *map(len, queries)]).tolist(),
        np.cumsum([0, *map(len, keys)]).tolist(),
        own,
        torch.from_numpy(np.concatenate(positions)),
        length,
    )


def _by_rows(
    q: Tensor, k: Tensor, v: Tensor, packing: PrefixTree, scale: float, softcap: float | None, window: int | None
) -> Tensor:
    """For an accelerator: whole rows in one call, since a launch costs more than the queries that nobody needs."""
    shared, length = q.shape[0] // k.shape[0], packing.length
    index = to_device(packing.index, q.device)
    k_rows, v_rows = (x[:, index].transpose(0, 1).repeat_interleave(shared, 1) for x in (k, v))
    asked = q[:, (index - packing.known).clamp_min(0)].transpose(0, 1)  # those of a known prefix are not used
    if softcap is None:
        mask = None if window is None or window >= length else _mask(length, window, str(q.device)).to(q.dtype)
        found = F.scaled_dot_product_attention(
            asked, k_rows, v_rows, attn_mask=mask, is_causal=mask is None, scale=scale
        )
    else:
        scores = torch.matmul(asked, k_rows.transpose(-1, -2)).float() * scale
        scores = softcap * (scores / softcap).tanh() + _mask(length, window, str(q.device))
        found = torch.matmul(scores.softmax(-1).to(v.dtype), v_rows)
    return found.transpose(1, 2).flatten(0, 1)[to_device(packing.owners, q.device)]


@functools.lru_cache(maxsize=16)
def _mask(length: int, window: int | None, device: str) -> Tensor:
    """What is added to scores `[query, key]`: minus infinity where a token does not see a position."""
    ago = torch.arange(length)[:, None] - torch.arange(length)
    seen = (ago >= 0) & (ago < (length if window is None else window))
    return to_device(torch.zeros(seen.shape).masked_fill(~seen, -torch.inf), device)

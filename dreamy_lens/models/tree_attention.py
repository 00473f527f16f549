"""Causal attention over a packed row, in which every token attends to its own row's tokens up to itself.

:func:`tree_attention` is an attention function of transformers' `AttentionInterface`. A Hugging Face attention module
computes queries, keys and values for the nodes of a :class:`~dreamy_lens.models.prefix_tree.PrefixTree` (projections,
norms, rotation) and passes them to this function with other settings of its architecture, such as scale, soft cap,
sliding window and sinks.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dreamy_lens.models import tree_kernel
from dreamy_lens.models.prefix_tree import PrefixTree
from dreamy_lens.models.transfer import to_device

NAME = "dreamy_lens_tree"
"""Name of this attention in transformers."""

TOGETHER = 2
"""Number of groups in one product: it computes a few unneeded queries but halves the number of calls."""

_IGNORED = {"use_cache", "position_ids", "cache_position", "output_attentions", "is_causal", "layer_past"}
"""Arguments of Hugging Face's attention functions that do not change the result."""


class UnsupportedAttention(Exception):
    """Error for an architecture that needs an unsupported setting; its attention must be replaced in another way."""


@dataclass
class Current:
    """State of the running pass that attention needs.

    Attributes:
        packing: Tree of the layer's input.
        before: Keys and values `[1, heads, P, d_head]` of the known prefix, or None.
        kept: List to which the layer appends its own keys and values, or None.
    """

    packing: PrefixTree
    before: tuple[Tensor, Tensor] | None = None
    kept: list[tuple[Tensor, Tensor]] | None = field(default=None)


class _ThreadState(threading.local):
    current: Current | None = None
    by_kernel: bool = False


RUNNING = _ThreadState()
"""Running pass of this thread."""


@contextlib.contextmanager
def kernel_used() -> Iterator[None]:
    """Compute attention on an accelerator by :mod:`~dreamy_lens.models.tree_kernel` within the context."""
    former, RUNNING.by_kernel = RUNNING.by_kernel, True
    try:
        yield
    finally:
        RUNNING.by_kernel = former


def register() -> None:
    """Register the attention function with transformers; it may be registered repeatedly."""
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
    """Compute attention of packed nodes, with the signature that transformers requires.

    Args:
        module: Attention module, used only in error messages.
        query: Queries of the nodes.
        key: Keys of the nodes; several heads may share a key head.
        value: Values of the nodes; several heads may share a key head's values.
        attention_mask: Ignored; the tree determines which tokens attend to which.
        scaling: Factor of the scores; None means `d_head ** -0.5`.
        dropout: Ignored; models are in evaluation mode.
        sliding_window: Number of last tokens, itself included, that a token attends to; None means all.
        softcap: Constant `c` in `c tanh(scores / c)`; None for no soft cap.
        **other: Further arguments of transformers; one that could change the result raises an error.

    Returns:
        Output of each head at each node, and None in place of the attention weights.

    Raises:
        UnsupportedAttention: An argument is not supported, or no packed pass is running.
    """
    unsupported = sorted(k for k, v in other.items() if v is not None and k not in _IGNORED)
    current = RUNNING.current
    if current is None or unsupported:
        caller = type(module).__name__
        if unsupported:
            raise UnsupportedAttention(f"{caller} passes {', '.join(unsupported)}, which packed attention cannot use")
        raise UnsupportedAttention(f"{caller} calls packed attention outside a packed pass")
    if current.kept is not None:
        current.kept.append((key, value))
    if current.before is not None:
        key, value = (torch.cat(pair, 2) for pair in zip(current.before, (key, value), strict=True))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    way = _by_groups if query.device.type == "cpu" else _by_kernel if RUNNING.by_kernel else _by_rows
    return way(query[0], key[0], value[0], current.packing, float(scale), softcap, sliding_window)[None], None


def _by_groups(
    q: Tensor, k: Tensor, v: Tensor, packing: PrefixTree, scale: float, softcap: float | None, window: int | None
) -> Tensor:
    """Compute attention on a CPU: only needed queries, in blocks of equal shape. Return `[T, heads, d_head]`."""
    heads, nodes, width = q.shape
    if not packing.groups:  # an earlier pass computed all nodes
        return v.new_zeros(nodes, heads, v.shape[-1])
    plan, length = _plan(packing, heads, k.shape[0]), packing.length
    asked = q.reshape(-1, width).index_select(0, plan.queries)
    k_rows, v_rows = (x.reshape(-1, x.shape[-1]).index_select(0, plan.keys) for x in (k, v))
    blocks = list(zip(plan.ends[:-1], plan.ends[1:], plan.key_ends[:-1], plan.key_ends[1:], plan.own, strict=True))

    def product(out: Tensor, left: Tensor, right: Tensor, at: slice, size: int) -> Tensor:
        """Return a batched product, written into a part of `out` unless gradients are enabled."""
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
    outputs = v.new_empty(len(asked), v.shape[-1])
    parts = [
        product(
            outputs, weights[a:b].view(-1, own, length), v_rows[c:d].view(-1, length, v.shape[-1]), slice(a, b), own
        )
        for a, b, c, d, own in blocks
    ]
    outputs = torch.cat(parts) if torch.is_grad_enabled() else outputs
    return outputs.index_select(0, plan.back).view(nodes, heads, -1)


def _softmax(scores: Tensor) -> Tensor:
    """Return the softmax over the last axis, overwriting `scores`; torch's softmax is slow for very short rows."""
    if scores.shape[-1] >= 16 or torch.is_grad_enabled():
        return scores.softmax(-1)
    weights = scores.sub_(scores.amax(-1, keepdim=True)).exp_()
    return weights.div_(weights.sum(-1, keepdim=True))


@dataclass
class _Plan:
    """Layout of the blocks of :func:`_by_groups`, ordered by groups, then heads, then rows.

    Attributes:
        queries: Index in `[heads T]` of each query in block order.
        keys: Index in `[key heads (P + T)]` of each key in block order.
        back: Index in block order of the query for each element of `[T heads]`.
        ends: Index of the first query of each block, followed by the total number of queries.
        key_ends: Index of the first key of each block, followed by the total number of keys.
        own: Number of queries of each row, for each block.
        positions: Position of each query in its row.
        length: Number n of positions in a row.
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
        """Return the mask that is added to the scores, `[queries, n]`."""
        if window not in self._masks:
            self._masks[window] = _mask(self.length, window, "cpu")[self.positions]
        return self._masks[window]


def _plan(packing: PrefixTree, heads: int, key_heads: int) -> _Plan:
    plans = packing.__dict__.setdefault("_plans", {})  # a cache and not a field: it is derived from the tree
    if (heads, key_heads) not in plans:
        plans[heads, key_heads] = _planned(packing, heads, key_heads)
    return plans[heads, key_heads]


def _planned(packing: PrefixTree, heads: int, key_heads: int) -> _Plan:
    nodes, known, length = packing.nodes, packing.known, packing.length
    head, key_head = np.arange(heads)[:, None], (np.arange(heads) * key_heads // heads)[:, None]
    queries, keys, positions, own = [], [], [], []
    for i in range(0, len(packing.groups), TOGETHER):
        groups = packing.groups[i : i + TOGETHER]  # sorted by start; later groups compute some nodes twice
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
    """Compute attention on an accelerator: full rows in one call, as a launch costs more than unneeded queries."""
    shared, length = q.shape[0] // k.shape[0], packing.length
    index = to_device(packing.index, q.device)
    k_rows, v_rows = (x[:, index].transpose(0, 1).repeat_interleave(shared, 1) for x in (k, v))
    asked = q[:, (index - packing.known).clamp_min(0)].transpose(0, 1)  # queries of a known prefix are not used
    if softcap is None:
        mask = None if window is None or window >= length else _mask(length, window, str(q.device)).to(q.dtype)
        outputs = F.scaled_dot_product_attention(
            asked, k_rows, v_rows, attn_mask=mask, is_causal=mask is None, scale=scale
        )
    else:
        scores = torch.matmul(asked, k_rows.transpose(-1, -2)).float() * scale
        scores = softcap * (scores / softcap).tanh() + _mask(length, window, str(q.device))
        outputs = torch.matmul(scores.softmax(-1).to(v.dtype), v_rows)
    return outputs.transpose(1, 2).flatten(0, 1)[to_device(packing.owners, q.device)]


def _by_kernel(
    q: Tensor, k: Tensor, v: Tensor, packing: PrefixTree, scale: float, softcap: float | None, window: int | None
) -> Tensor:
    """Compute attention on a GPU: each node reads the keys and values of its own prefix, in one kernel."""
    index, owners = to_device(packing.index, q.device), to_device(packing.owners, q.device)
    return tree_kernel.attend(q, k, v, index, owners, scale, softcap, window)


@functools.lru_cache(maxsize=16)
def _mask(length: int, window: int | None, device: str) -> Tensor:
    """Return the mask added to scores `[query, key]`: minus infinity where a token does not attend to a position."""
    ago = torch.arange(length)[:, None] - torch.arange(length)
    seen = (ago >= 0) & (ago < (length if window is None else window))
    return to_device(torch.zeros(seen.shape).masked_fill(~seen, -torch.inf), device)

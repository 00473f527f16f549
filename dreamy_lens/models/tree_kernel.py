"""Attention over a prefix tree as one kernel of a GPU, written in Triton, which comes with torch for CUDA.

:func:`~dreamy_lens.models.tree_attention.tree_attention` otherwise spreads queries, keys and values to whole rows, so
that torch's attention can run, and gathers the outputs: five kernels in each layer, which compute the queries of shared
prefixes once for every row. This kernel reads, for each node and head, the keys and values of the node's own prefix.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

MOST_POSITIONS = 128
"""Longest row for this kernel: it reads each node's whole prefix, which long rows share in faster memory."""

BLOCK = 16
"""Number of positions that the kernel reads at a time."""

tl: Any = None
"""`triton.language`, once :func:`compiled_kernel` has imported it; Triton looks names up in this module."""


def is_available() -> bool:
    """Return whether Triton is installed."""
    spec = importlib.util.find_spec("triton")
    return spec is not None and spec.origin is not None  # a folder of this name is not the package


def attend(
    q: Float[Tensor, "head node d_head"],
    k: Float[Tensor, "key_head known_and_node d_head"],
    v: Float[Tensor, "key_head known_and_node d_value"],
    index: Int64[Tensor, "row pos"],
    owners: Int64[Tensor, " node"],
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
) -> Float[Tensor, "node head d_value"]:
    """Compute causal attention of the nodes of a prefix tree.

    Args:
        q: Queries of the nodes.
        k: Keys of the known prefix, then of the nodes; several heads may share a key head.
        v: Values of the known prefix, then of the nodes.
        index: Node of every row and position, as in `PrefixTree.index`.
        owners: A place of each node, as `row * positions + position`, as in `PrefixTree.owners`.
        scale: Factor of the scores.
        softcap: Constant `c` in `c tanh(scores / c)`; None for no soft cap.
        window: Number of last positions, its own included, that a node attends to; None means all.
    """
    heads, nodes, width = q.shape
    out = torch.empty(nodes, heads, v.shape[-1], dtype=v.dtype, device=v.device)
    power = _power_of_two(max(width, v.shape[-1]))
    compiled_kernel()[nodes, heads](
        q,
        k,
        v,
        index,
        owners,
        out,
        *q.stride(),
        *k.stride(),
        *v.stride(),
        index.stride(0),
        out.stride(0),
        heads // k.shape[0],
        scale,
        0.0 if softcap is None else softcap,
        index.shape[1] if window is None else window,
        index.shape[1],
        width,
        v.shape[-1],
        D=power,
        BLOCK=BLOCK,
        CAPPED=softcap is not None,
        num_warps=1 if power <= 64 else 2,
    )
    return out


def _power_of_two(size: int) -> int:
    """Return the smallest power of two that is at least a size, and at least 16.

    >>> _power_of_two(5), _power_of_two(64), _power_of_two(80)
    (16, 64, 128)
    """
    return max(16, 1 << (size - 1).bit_length())


def _tree_attention(
    q,
    k,
    v,
    index,
    owners,
    out,
    q_head,
    q_node,
    q_d,
    k_head,
    k_node,
    k_d,
    v_head,
    v_node,
    v_d,
    index_row,
    out_node,
    shared,
    scale,
    cap,
    window,
    length,
    width,
    value_width,
    D: tl.constexpr,  # pyright: ignore[reportInvalidTypeForm]
    BLOCK: tl.constexpr,  # pyright: ignore[reportInvalidTypeForm]
    CAPPED: tl.constexpr,  # pyright: ignore[reportInvalidTypeForm]
):
    """Compute one head at one node; Triton compiles this function."""
    node = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    place = tl.load(owners + node)
    row = place // length
    position = (place - row * length).to(tl.int32)
    d = tl.arange(0, D)
    query = tl.load(q + head * q_head + node * q_node + d * q_d, mask=d < width, other=0.0).to(tl.float32)
    keys = k + (head // shared) * k_head + d[None, :] * k_d
    values = v + (head // shared) * v_head + d[None, :] * v_d
    first = tl.maximum(position - window + 1, 0)
    # Softmax over blocks of positions: the maximum so far, the sum of exponentials, and the weighted values.
    most = tl.full([], -float("inf"), tl.float32)
    total = tl.full([], 0.0, tl.float32)
    result = tl.zeros([D], dtype=tl.float32)
    for start in range((first // BLOCK) * BLOCK, position + 1, BLOCK):
        at = start + tl.arange(0, BLOCK)
        seen = (at >= first) & (at <= position)
        path = tl.load(index + row * index_row + at, mask=seen, other=0)
        inside = seen[:, None] & (d[None, :] < width)
        key = tl.load(keys + path[:, None] * k_node, mask=inside, other=0.0).to(tl.float32)
        scores = tl.sum(key * query[None, :], axis=1) * scale
        if CAPPED:
            # tanh(x) = 1 - 2 / (exp(2 x) + 1), which has no overflow that matters
            scores = cap * (1.0 - 2.0 / (tl.exp(2.0 * scores / cap) + 1.0))
        scores = tl.where(seen, scores, -float("inf"))
        highest = tl.maximum(most, tl.max(scores, axis=0))
        weights = tl.exp(scores - highest)
        shrink = tl.exp(most - highest)
        inside = seen[:, None] & (d[None, :] < value_width)
        value = tl.load(values + path[:, None] * v_node, mask=inside, other=0.0).to(tl.float32)
        result = result * shrink + tl.sum(weights[:, None] * value, axis=0)
        total = total * shrink + tl.sum(weights, axis=0)
        most = highest
    result = result / total
    tl.store(out + node * out_node + head * value_width + d, result.to(out.dtype.element_ty), mask=d < value_width)


@functools.cache
def compiled_kernel() -> Any:
    """Return the compiled kernel; Triton is imported here, because it is installed only where there may be a GPU."""
    global tl
    import triton  # pyright: ignore[reportMissingImports]
    import triton.language  # pyright: ignore[reportMissingImports]

    tl = triton.language
    return triton.jit(_tree_attention)

"""Checks of a model's weights: they are finite numbers, and those with which a saved run was made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from dreamy_lens._host import versions
from dreamy_lens.errors import ModelError

SAMPLE = 1 << 14
"""Largest number of a parameter's entries that the digest reads."""


def check_finite(named: Iterable[tuple[str, Tensor]], whose: str) -> None:
    """Check that parameters are finite numbers: a NaN or an infinite one turns results into nonsense without an error.

    Args:
        named: Names and parameters; only floating-point numbers are looked at.
        whose: Name of the model, for messages.

    Raises:
        ModelError: A parameter has an entry that is NaN or infinite.
    """
    floats = list(_floats(named))
    # A sum is one pass over the memory without a copy, and is finite only if every entry is.
    sums = [_numbers(t).sum(dtype=torch.float32 if t.dtype.itemsize < 4 else None) for _, t in floats]
    for (name, tensor), total in zip(floats, sums, strict=True):
        if bool(total.isfinite()):
            continue
        bad = int((~_numbers(tensor).isfinite()).sum())
        if bad:  # a sum of finite numbers can be infinite too
            raise ModelError(
                f"The weights of {whose} are damaged: {bad:,} of the {tensor.numel():,} numbers of {name} are NaN or "
                f"infinite, in {str(tensor.dtype).removeprefix('torch.')}. Download or save the model again; if it was "
                "converted to float16, which is infinite above 65,504, load it with dtype='bfloat16' or 'float32'."
            )


def weights_digest(module: torch.nn.Module, mode: Any) -> str:
    """Return a digest of a model's floating-point parameters, by which a fine-tuned model is told from the first one.

    It reads up to :data:`SAMPLE` entries of each parameter, spread over all of it. So it is ready in milliseconds, and
    notices every change that touches whole matrices, but not every change of single rows of a large one.

    Args:
        module: Model.
        mode: State that changes parameters, such as folded norms.

    Returns:
        Two parts with a space between them. Digests can be compared only if the first parts, which depend on the
        version of TransformerLens and on `mode`, are equal: other versions split parameters in other ways.
    """
    digest = hashlib.sha256()
    with torch.no_grad():
        for _, tensor in _floats(module.named_parameters()):
            flat = _numbers(tensor).reshape(-1)
            # An odd stride, so that the sample is not a few columns of a matrix.
            sample = flat[:: (len(flat) // SAMPLE) | 1][: 2 * SAMPLE]
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(sample.contiguous().view(torch.uint8).cpu().numpy().tobytes())
    library = versions("transformer-lens").get("transformer-lens")
    kind = hashlib.sha256(repr((library, mode)).encode()).hexdigest()[:8]
    return f"{kind} {digest.hexdigest()[:16]}"


def have_changed(before: str | None, after: str | None) -> bool:
    """Return whether two digests can be compared, and differ; None is an unknown digest."""
    if not before or not after:
        return False
    (kind, weights), (other_kind, other_weights) = before.split(" "), after.split(" ")
    return kind == other_kind and weights != other_weights


def _floats(named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Return the floating-point tensors that hold numbers, each once."""
    seen: set[int] = set()
    for name, tensor in named:
        if id(tensor) not in seen and tensor.is_floating_point() and not tensor.is_meta and tensor.numel():
            seen.add(id(tensor))
            yield name, tensor


def _numbers(tensor: Tensor) -> Tensor:
    """Return a parameter's numbers as a plain tensor: quantised weights have few operations of their own."""
    plain = tensor.detach()
    if not is_traceable_wrapper_subclass(plain):
        return plain
    try:
        return plain.dequantize()
    except (NotImplementedError, RuntimeError, AttributeError):  # not quantised: a wrapper of another kind
        return plain

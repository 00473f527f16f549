"""Faster torch routines for a model's linear layers and activation functions, used for the duration of a pass.

torch multiplies float32 matrices on a CPU with MKL, which uses only AVX2 on processors that are not made by Intel.
oneDNN, which is also part of torch, uses AVX-512 on them and is about twice as fast (benchmarks/README.md has the
figures). Models are not changed: only inside :meth:`Kernels.used` do their linear layers call oneDNN. Both routines sum
in float32, so results differ as little as they do between any two batch sizes.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


@functools.cache
def _onednn_linear() -> Callable[..., Tensor] | None:
    """Return oneDNN's float32 `linear` if it is faster on this processor and its results are correct; else None."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkl.is_available():
        return None
    if not torch.backends.mkldnn.is_available() or _is_intel():
        return None
    try:
        linear = functools.partial(torch.ops.mkldnn._linear_pointwise.default, attr="none", scalars=[], algorithm="")
        x, w, b = torch.randn(5, 7), torch.randn(3, 7), torch.randn(3)
        is_correct = torch.allclose(linear(x, w, b), F.linear(x, w, b), atol=1e-5)
        is_correct = is_correct and torch.allclose(linear(x, w.t().contiguous().t(), None), F.linear(x, w), atol=1e-5)
    except Exception:  # the operator is private to torch: if it is absent or changed, F.linear is used
        return None
    return linear if is_correct else None


def _is_intel() -> bool:
    """Return whether the processor is made by Intel, so that MKL uses AVX-512; a timing would not be repeatable."""
    import platform

    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return "GenuineIntel" in file.read(4096)
    except OSError:
        return "Intel" in platform.processor()


@functools.cache
def _keep_heap() -> None:
    """Make glibc keep the memory of one pass for the next.

    glibc returns free memory at the end of its heap to the system when it exceeds twice the largest block ever freed
    (up to a limit). The system clears every page before it hands it out again, which takes a tenth of a small model's
    pass. Freeing one untouched block of the largest size that counts raises the threshold permanently.
    """
    torch.empty((32 << 20) - 8192, dtype=torch.uint8)


class _Linear(torch.autograd.Function):
    """Linear layer `x @ weight.T + bias` by oneDNN, differentiable in x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        linear = _onednn_linear()
        assert linear is not None
        return linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        (weight,) = ctx.saved_tensors
        linear = _onednn_linear()
        assert linear is not None
        return linear(grads[0].contiguous(), weight.t(), None), None, None


def _fits(x: Any, weight: Any, bias: Any) -> bool:
    """Return whether oneDNN can compute the layer: float32 on the CPU, and weights that need no gradient."""
    tensors = [t for t in (x, weight, bias) if t is not None]
    return (
        all(isinstance(t, Tensor) and t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)
        and weight.dim() == 2
        and (weight.is_contiguous() or weight.t().is_contiguous())  # oneDNN is a hundred times slower on other layouts
        and x.numel() > 0
        and not (torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad)))
    )


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    linear = _onednn_linear()
    if linear is None or not _fits(x, weight, bias):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Linear.apply(x, weight, bias)  # pyright: ignore[reportReturnType]
    return linear(x, weight, bias)


def matmul_t(x: Float[Tensor, "*row d"], weight: Float[Tensor, "m d"]) -> Float[Tensor, "*row m"]:
    """Return `x @ weight.T`, computed by the fastest available routine."""
    return _linear(x, weight)


class Kernels:
    """Faster replacements for the `forward` methods of a model's modules.

    Args:
        model: Model whose modules are replaced where a faster routine exists.
    """

    def __init__(self, model: Any) -> None:
        _keep_heap()
        self._faster: list[tuple[Any, Any]] = []
        for module in model.modules():
            kind = type(module).__name__
            if type(module) is torch.nn.Linear and _onednn_linear() is not None:
                self._faster.append((module, functools.partial(_linear_forward, module)))
            elif kind == "Conv1D" and hasattr(module, "nf") and _onednn_linear() is not None:
                self._faster.append((module, functools.partial(_conv1d_forward, module)))
            elif kind in ("NewGELUActivation", "FastGELUActivation"):
                self._faster.append((module, functools.partial(_gelu, module)))

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Use the faster routines within the context; modules whose `forward` is already replaced keep it."""
        replaced = []
        try:
            for module, function in self._faster:
                if "forward" not in module.__dict__:
                    module.__dict__["forward"] = function
                    replaced.append(module)
            yield
        finally:
            for module in replaced:
                module.__dict__.pop("forward", None)


def _linear_forward(module: Any, x: Tensor) -> Tensor:
    return _linear(x, module.weight, module.bias)


def _conv1d_forward(module: Any, x: Tensor) -> Tensor:
    """Compute GPT-2's linear layer, whose weight is stored transposed."""
    return _linear(x, module.weight.t(), module.bias)


def _gelu(module: Any, x: Tensor) -> Tensor:
    """Return `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))` in one operation instead of Hugging Face's eight."""
    if x.dtype != torch.float32:  # in lower precision, rounding once instead of eight times changes the result
        return type(module).forward(module, x)
    return F.gelu(x, approximate="tanh")

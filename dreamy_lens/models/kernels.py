"""The same arithmetic by faster routines of torch, for the length of a pass.

torch multiplies float32 matrices on a CPU with MKL, which keeps to AVX2 on processors that are not Intel's. oneDNN, which
torch has too, uses AVX-512 there and is about twice as fast (`benchmarks/README.md` has the figures). Models are not
touched: inside :func:`fast_kernels`, calls of `linear` and of GPT-2's `addmm` are sent the other way. Both sum in
float32, so results differ as they do between any two batch sizes.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["fast_kernels", "matmul_t"]


@functools.cache
def _onednn_linear() -> Callable[..., Tensor] | None:
    """oneDNN's float32 `linear`, where it is the better one and gives what it should; else None."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkl.is_available():
        return None
    if not torch.backends.mkldnn.is_available() or _is_intel():
        return None
    try:
        found = functools.partial(torch.ops.mkldnn._linear_pointwise.default, attr="none", scalars=[], algorithm="")
        x, w, b = torch.randn(5, 7), torch.randn(3, 7), torch.randn(3)
        good = torch.allclose(found(x, w, b), F.linear(x, w, b), atol=1e-5)
        good = good and torch.allclose(found(x, w.t().contiguous().t(), None), F.linear(x, w), atol=1e-5)
    except Exception:  # the operator is torch's own affair: absent or changed, the ordinary one serves
        return None
    return found if good else None


def _is_intel() -> bool:
    """Whether MKL finds a processor that it uses AVX-512 on. Decided by name: a timing would not be repeatable."""
    import platform

    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return "GenuineIntel" in file.read(4096)
    except OSError:
        return "Intel" in platform.processor()


class _Linear(torch.autograd.Function):
    """`x @ weight.T + bias` by oneDNN, differentiable in x."""

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
    """Whether oneDNN may take this: plain float32 on the CPU, and weights that take no gradient."""
    tensors = [t for t in (x, weight, bias) if t is not None]
    return (
        all(isinstance(t, Tensor) and t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)
        and weight.dim() == 2
        and (weight.is_contiguous() or weight.t().is_contiguous())  # others it multiplies a hundred times slower
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


def matmul_t(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight.T` for x `[..., d]` and weight `[m, d]`, by the best routine there is."""
    return _linear(x, weight)


class _Redirect(TorchFunctionMode):
    """Sends `linear` and `addmm` to :func:`_linear`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            return _linear(*args, **(kwargs or {}))
        if func is torch.addmm and not kwargs and len(args) == 3 and args[0].dim() == 1 and args[1].dim() == 2:
            return _linear(args[1], args[2].t(), args[0])  # Conv1D of GPT-2
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def fast_kernels(modules: Any = ()) -> Iterator[None]:
    """Faster routines inside, where there are any.

    Args:
        modules: the model's, of which some activation functions are written out in a dozen operations.
    """
    slow = [m for m in modules if type(m).__name__ in ("NewGELUActivation", "FastGELUActivation")]
    try:
        for module in slow:
            module.__dict__["forward"] = _gelu
        with _Redirect() if _onednn_linear() is not None else contextlib.nullcontext():
            yield
    finally:
        for module in slow:
            module.__dict__.pop("forward", None)


def _gelu(x: Tensor) -> Tensor:
    """`0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`, which Hugging Face's `gelu_new` takes eight operations for."""
    return F.gelu(x, approximate="tanh")


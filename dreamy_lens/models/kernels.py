"""The same arithmetic by faster routines of torch, for the length of a pass.

torch multiplies float32 matrices on a CPU with MKL, which keeps to AVX2 on processors that are not Intel's. oneDNN,
which torch has too, uses AVX-512 there and is about twice as fast (benchmarks/README.md has the figures). Models are
not changed: inside :meth:`Kernels.used`, their linear layers compute the other way. Both sum in float32, so results
differ as they do between any two batch sizes.
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
    """Find oneDNN's float32 `linear`, where it is the better one and gives what it should; else None."""
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


@functools.cache
def _keep_heap() -> None:
    """Have glibc keep the memory of one pass for the next.

    It gives what is free at the end of its heap back to the system beyond twice the largest block that was ever freed,
    up to a limit, and the system clears every page again that it is asked for: a tenth of a small model's pass. One
    block of the largest size that counts, freed untouched, raises the bound for good.
    """
    torch.empty((32 << 20) - 8192, dtype=torch.uint8)


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


def matmul_t(x: Float[Tensor, "*row d"], weight: Float[Tensor, "m d"]) -> Float[Tensor, "*row m"]:
    """`x @ weight.T`, by the best routine there is."""
    return _linear(x, weight)


class Kernels:
    """The modules of a model that compute faster another way.

    Args:
        model: to look through.
    """

    def __init__(self, model: Any) -> None:
        _keep_heap()
        self._faster: list[tuple[Any, Any]] = []
        for module in model.modules():
            kind = type(module).__name__
            if type(module) is torch.nn.Linear and _onednn_linear() is not None:
                self._faster.append((module, functools.partial(_of_linear, module)))
            elif kind == "Conv1D" and hasattr(module, "nf") and _onednn_linear() is not None:
                self._faster.append((module, functools.partial(_of_conv1d, module)))
            elif kind in ("NewGELUActivation", "FastGELUActivation"):
                self._faster.append((module, functools.partial(_gelu, module)))

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Compute the faster way inside. Modules whose `forward` somebody else has replaced are left alone."""
        done = []
        try:
            for module, function in self._faster:
                if "forward" not in module.__dict__:
                    module.__dict__["forward"] = function
                    done.append(module)
            yield
        finally:
            for module in done:
                module.__dict__.pop("forward", None)


def _of_linear(module: Any, x: Tensor) -> Tensor:
    return _linear(x, module.weight, module.bias)


def _of_conv1d(module: Any, x: Tensor) -> Tensor:
    """GPT-2's linear layer, whose weight is the other way round."""
    return _linear(x, module.weight.t(), module.bias)


def _gelu(module: Any, x: Tensor) -> Tensor:
    """`0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`, in one operation instead of Hugging Face's eight."""
    if x.dtype != torch.float32:  # rounding once instead of eight times would show
        return type(module).forward(module, x)
    return F.gelu(x, approximate="tanh")

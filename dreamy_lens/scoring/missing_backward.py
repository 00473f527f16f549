"""Operations of a backward pass that let no gradient through, which torch notes only as a warning."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch._C import DispatchKey
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")

_NOT_REGISTERED = re.compile(r"(\S+): an autograd kernel was not registered to the Autograd key")

_DIFFERENTIABLE = [
    *(key for name, key in DispatchKey.__members__.items() if name.startswith("Autograd")),
    DispatchKey.CompositeImplicitAutograd,
]
"""Keys of torch's dispatcher; an operation with a kernel at one of them has a backward pass."""


def noting_missing_backward(compute: Callable[[], T]) -> tuple[T, list[str]]:
    """Compute gradients, and note the operations without a backward pass through which a gradient should have gone.

    Kernels of other libraries may lack one, such as those of bitsandbytes for 4 bits on a processor. torch takes the
    gradient there as zero, and warns. Warnings, however, can only be recorded for all threads of a program at once,
    which takes them from the threads of the user. They are therefore recorded only where a first computation, watched
    in this thread alone, enters an operation that lacks a backward pass. It ends there, and `compute` is called again.

    Args:
        compute: Forward and backward pass, without side effects.

    Returns:
        What `compute` returned, and the names of the operations.

    >>> noting_missing_backward(lambda: torch.ones(3, requires_grad=True).sum().backward())
    (None, [])
    """
    try:
        with _Watch():
            return compute(), []
    except Exception:  # an operation was found, or cannot be watched, or fails, which it will do below again
        return _recording(compute)


class _FoundError(Exception):
    """A tensor with a gradient entered an operation without a backward pass."""


class _Watch(TorchDispatchMode):
    """Raise _FoundError where a tensor with a gradient enters an operation without a backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[Any, bool] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in self._known:
            self._known[func] = not isinstance(func, OpOverload) or any(
                map(func.has_kernel_for_dispatch_key, _DIFFERENTIABLE)
            )
        if not self._known[func] and torch.is_grad_enabled():
            for each in tree_leaves((args, kwargs)):
                if isinstance(each, torch.Tensor) and each.requires_grad:
                    raise _FoundError(func.name())
        return func(*args, **(kwargs or {}))


def _recording(compute: Callable[[], T]) -> tuple[T, list[str]]:
    """Compute, and read the names from the warnings of torch; other warnings are given at the end, as usual."""
    names: list[str] = []
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            result = compute()
    finally:
        torch.set_warn_always(always)
    for warning in found:
        match = _NOT_REGISTERED.match(str(warning.message))
        if match is None:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        elif match[1] not in names:
            names.append(match[1])
    return result, names

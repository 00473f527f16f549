"""Operations of a backward pass that let no gradient through, which torch notes only as a warning."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from dreamy_lens._warnings import hear_warnings

T = TypeVar("T")

_NOT_REGISTERED = re.compile(r"(\S+): an autograd kernel was not registered to the Autograd key")


def noting_missing_backward(compute: Callable[[], T]) -> tuple[T, list[str]]:
    """Compute gradients, and note the operations without a backward pass through which a gradient should have gone.

    Kernels of other libraries may lack one, such as those of bitsandbytes for 4 bits on a processor. torch takes the
    gradient there as zero, and warns.

    Args:
        compute: Forward and backward pass, without side effects.

    Returns:
        What `compute` returned, and the names of the operations.

    >>> import torch
    >>> noting_missing_backward(lambda: torch.ones(3, requires_grad=True).sum().backward())
    (None, [])
    """
    result, found = hear_warnings(compute, _NOT_REGISTERED)
    return result, list(dict.fromkeys(match[1] for match in found))

"""Operations of a backward pass that let no gradient through, which torch notes only as a warning."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_NOT_REGISTERED = re.compile(r"(\S+): an autograd kernel was not registered to the Autograd key")


@contextmanager
def noting_missing_backward() -> Iterator[list[str]]:
    """Note the operations without a backward pass through which a gradient should have gone.

    Kernels of other libraries may lack one, such as those of bitsandbytes for 4 bits on a processor. torch takes the
    gradient there as zero, and warns. Other warnings are given at the end, as usual.

    Yields:
        Names of the operations, which are there at the end.

    >>> with noting_missing_backward() as names:
    ...     torch.ones(3, requires_grad=True).sum().backward()
    >>> names
    []
    """
    names: list[str] = []
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            yield names
    finally:
        torch.set_warn_always(always)
    for warning in found:
        match = _NOT_REGISTERED.match(str(warning.message))
        if match is None:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        elif match[1] not in names:
            names.append(match[1])

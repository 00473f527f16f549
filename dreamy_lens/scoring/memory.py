"""Work in batches that fit: halve them when memory runs out, and remember what fitted."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from dreamy_lens.errors import OutOfMemoryError, SettingsError

T = TypeVar("T")

TOKENS = {"cpu": 1 << 13, "cuda": 1 << 16}
"""Tokens of the rows that go into one pass at first, by kind of device; prefixes that rows share are counted in each."""


class Batches:
    """Runs a function over slices of rows.

    Args:
        size: most rows at once; None sets no limit before memory does.
        what: what a row is called in messages.
    """

    def __init__(self, size: int | None, what: str = "prompts") -> None:
        if size is not None and size < 1:
            raise SettingsError(f"batch_size is {size}; it must be at least 1, or None to choose it automatically.")
        self.size = size
        self.what = what

    def fitting(self, model: Any, total: int, shared: bool) -> int:
        """How many rows of `total` tokens to try at once."""
        return max(1, TOKENS.get(model.device.type, TOKENS["cpu"]) // total) if shared else 1 << 30

    def map(self, function: Callable[[slice], T], rows: int, at_most: int | None = None) -> list[T]:
        """`function(slice)` for consecutive slices of `range(rows)`; an out-of-memory slice is tried again in halves.

        Args:
            function: of a slice.
            rows: how many there are.
            at_most: rows at once where no size was given.
        """
        out: list[T] = []
        start = 0
        while start < rows:
            size = min(self.size or at_most or rows, rows - start)
            try:
                out.append(function(slice(start, start + size)))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise OutOfMemoryError(
                        "A single prompt does not fit into the device's memory. Use a shorter prompt, a smaller dtype, "
                        "or another device."
                    ) from error
            else:
                start += size
                continue
            # Here, the exception is gone, and with it the frames that kept the failed pass's tensors alive.
            self._halve(size)
        return out

    def _halve(self, size: int) -> None:
        self.size = size // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        warnings.warn(
            f"Out of memory with {size} {self.what} at once; going on with batches of {self.size}. "
            f"batch_size={self.size} avoids trying.",
            RuntimeWarning,
            stacklevel=4,
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception is torch's way of saying so, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)

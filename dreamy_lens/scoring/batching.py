"""Work in batches that fit: grow them while there is room, halve them when there is none, and remember what fitted."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from dreamy_lens.errors import OutOfMemoryError, SettingsError
from dreamy_lens.models.hooked_model import HookedModel

T = TypeVar("T")

TOKENS = {"cpu": 1 << 13, "cuda": 1 << 16}
"""Tokens in one pass at first, by kind of device. On a processor larger passes gain nothing, and leave its caches."""


@dataclass
class MemoryBudget:
    """How much one pass of a model can take on its device, as far as is known.

    Attributes:
        tokens: tokens in all rows of one pass; prefixes that rows share count in each row.
        grows: whether more is tried where this much fitted.
    """

    tokens: int
    grows: bool

    def rows(self, row_tokens: int) -> int:
        """How many rows of this many tokens to try at once."""
        return max(1, self.tokens // row_tokens)


_BUDGETS: weakref.WeakKeyDictionary[Any, dict[tuple[str, ...], MemoryBudget]] = weakref.WeakKeyDictionary()


def memory_budget(model: HookedModel, kind: str) -> MemoryBudget:
    """Return the budget of a model on the device where it is now; all scorers of the model share it.

    Args:
        model: the model that is run.
        kind: "scoring" or "gradients"; each kind of pass takes another amount of memory for a token.
    """
    budgets = _BUDGETS.setdefault(model.source, {})
    device = model.device
    key = (str(device), str(model.dtype), kind)
    if key not in budgets:
        budgets[key] = MemoryBudget(TOKENS.get(device.type, TOKENS["cpu"]), device.type == "cuda")
    return budgets[key]


class BatchRunner:
    """Runs a function over slices of rows.

    Args:
        size: most rows at once; None sets no limit before memory does.
        noun: what rows are called in messages.
    """

    def __init__(self, size: int | None, noun: str = "prompts") -> None:
        if size is not None and size < 1:
            raise SettingsError(f"batch_size is {size}; it must be at least 1, or None to choose it automatically.")
        self.size = size
        self.noun = noun

    def map(
        self,
        function: Callable[[slice], T],
        rows: int,
        default_size: int | None = None,
        budget: MemoryBudget | None = None,
        row_tokens: int = 1,
    ) -> list[T]:
        """`function(slice)` for consecutive slices of `range(rows)`; an out-of-memory slice is tried again in halves.

        Args:
            function: called with each slice.
            rows: how many rows there are.
            default_size: most rows at once where no size was given.
            budget: memory budget of the model, which is kept up to date; it also bounds a size that was given.
            row_tokens: tokens of a row.
        """
        out: list[T] = []
        start = 0
        while start < rows:
            size = min(self.limit(default_size, budget, row_tokens) or rows, rows - start)
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
                if budget is not None and budget.grows and size >= budget.rows(row_tokens) and start < rows:
                    budget.tokens *= 2
                continue
            # Here, the exception is gone, and with it the frames that kept the failed pass's tensors alive.
            self._halve(size, budget, row_tokens)
        return out

    def limit(
        self, default_size: int | None = None, budget: MemoryBudget | None = None, row_tokens: int = 1
    ) -> int | None:
        """Most rows at once at present; None is no limit."""
        limits = [
            self.size if self.size is not None else default_size,
            None if budget is None else budget.rows(row_tokens),
        ]
        return min((limit for limit in limits if limit is not None), default=None)

    def _halve(self, size: int, budget: MemoryBudget | None, row_tokens: int) -> None:
        grown = budget is not None and budget.grows and budget.tokens > TOKENS["cuda"]
        if budget is not None:
            budget.tokens, budget.grows = size // 2 * row_tokens, False
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if grown:  # that was only to find out how much there is
            return
        self.size = size // 2
        warnings.warn(
            f"Out of memory with {size} {self.noun} at once; going on with batches of {self.size}. "
            f"batch_size={self.size} avoids trying.",
            RuntimeWarning,
            stacklevel=4,
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that memory ran out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)

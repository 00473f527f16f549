"""Batches that fit into memory: they grow while memory is free, shrink when it runs out, and the size is remembered."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from dreamy_lens.errors import OutOfMemoryError, SettingsError, warn
from dreamy_lens.models.hooked_model import HookedModel

T = TypeVar("T")

TOKENS = {"cpu": 1 << 13, "cuda": 1 << 16}
"""Tokens in the first pass, by kind of device. On a CPU, larger passes gain nothing and overflow its caches."""


@dataclass
class MemoryBudget:
    """Largest pass of a model that is known to fit into the memory of its device.

    Attributes:
        tokens: Tokens in all rows of one pass; a prefix that rows share counts in each row.
        grows: Whether a larger pass is tried after one of this size has fitted.
    """

    tokens: int
    grows: bool

    def rows(self, row_tokens: int) -> int:
        """Return the number of rows of this many tokens to try at once."""
        return max(1, self.tokens // row_tokens)


_BUDGETS: weakref.WeakKeyDictionary[Any, dict[tuple[str, ...], MemoryBudget]] = weakref.WeakKeyDictionary()


def memory_budget(model: HookedModel, kind: str) -> MemoryBudget:
    """Return the budget of a model on its present device; all scorers of the model share it.

    Args:
        model: Model that is run.
        kind: Kind of pass, "scoring" or "gradients"; each kind needs its own amount of memory per token.
    """
    budgets = _BUDGETS.setdefault(model.source, {})
    device = model.device
    key = (str(device), str(model.dtype), kind)
    if key not in budgets:
        budgets[key] = MemoryBudget(TOKENS.get(device.type, TOKENS["cpu"]), device.type == "cuda")
    return budgets[key]


class BatchRunner:
    """Runner of a function over slices of rows.

    Args:
        size: Largest number of rows at once; None sets no limit until memory runs out.
        noun: Word for rows in messages.
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
        """Call `function(slice)` for consecutive slices of `range(rows)`; halve the slices when memory runs out.

        Args:
            function: Function that is called with each slice.
            rows: Number of rows.
            default_size: Largest number of rows at once if this runner has no size.
            budget: Memory budget of the model. It is kept up to date, and it also bounds the size of this runner.
            row_tokens: Number of tokens of a row.

        Returns:
            The results, one for each slice.
        """
        results: list[T] = []
        start = 0
        while start < rows:
            size = min(self.limit(default_size, budget, row_tokens) or rows, rows - start)
            try:
                results.append(function(slice(start, start + size)))
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
            # Outside the except block, so that the exception no longer keeps the failed pass's tensors alive.
            self._halve(size, budget, row_tokens)
        return results

    def limit(
        self, default_size: int | None = None, budget: MemoryBudget | None = None, row_tokens: int = 1
    ) -> int | None:
        """Return the largest number of rows at once at present; None means no limit."""
        limits = [
            self.size if self.size is not None else default_size,
            None if budget is None else budget.rows(row_tokens),
        ]
        return min((limit for limit in limits if limit is not None), default=None)

    def _halve(self, size: int, budget: MemoryBudget | None, row_tokens: int) -> None:
        """Halve the size after a failed pass, and warn unless the budget had grown beyond its first value."""
        grown = budget is not None and budget.grows and budget.tokens > TOKENS["cuda"]
        if budget is not None:
            budget.tokens, budget.grows = size // 2 * row_tokens, False
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if grown:  # the larger pass was only a trial
            return
        self.size = size // 2
        warn(
            f"Out of memory with {size} {self.noun} at once; going on with batches of {self.size}. "
            f"batch_size={self.size} avoids the failed attempt.",
            RuntimeWarning,
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that memory ran out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)

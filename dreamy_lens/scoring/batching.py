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
    """How much one pass of a model takes on its device, as far as is known.

    Attributes:
        tokens: of the rows of one pass, prefixes that rows share counted in each.
        grows: whether more is tried where this much fitted.
    """

    tokens: int
    grows: bool

    def rows(self, total: int) -> int:
        """How many rows of `total` tokens to try at once."""
        return max(1, self.tokens // total)


_ROOMS: weakref.WeakKeyDictionary[Any, dict[tuple[str, ...], MemoryBudget]] = weakref.WeakKeyDictionary()


def room_of(model: HookedModel, what: str) -> MemoryBudget:
    """The room that a model has on the device where it is now, the same for all who score on it.

    Args:
        model: whose passes they are.
        what: the kind of pass; each takes another amount of memory for a token.
    """
    rooms = _ROOMS.setdefault(model.source, {})
    device = model.device
    key = (str(device), str(model.dtype), what)
    if key not in rooms:
        rooms[key] = MemoryBudget(TOKENS.get(device.type, TOKENS["cpu"]), device.type == "cuda")
    return rooms[key]


class BatchRunner:
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

    def map(
        self,
        function: Callable[[slice], T],
        rows: int,
        at_most: int | None = None,
        room: MemoryBudget | None = None,
        total: int = 1,
    ) -> list[T]:
        """`function(slice)` for consecutive slices of `range(rows)`; an out-of-memory slice is tried again in halves.

        Args:
            function: of a slice.
            rows: how many there are.
            at_most: rows at once where no size was given.
            room: of the model on its device, which is kept up to date; it also bounds what was given.
            total: tokens of a row.
        """
        out: list[T] = []
        start = 0
        while start < rows:
            size = min(self.limit(at_most, room, total) or rows, rows - start)
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
                if room is not None and room.grows and size >= room.rows(total) and start < rows:
                    room.tokens *= 2
                continue
            # Here, the exception is gone, and with it the frames that kept the failed pass's tensors alive.
            self._halve(size, room, total)
        return out

    def limit(self, at_most: int | None = None, room: MemoryBudget | None = None, total: int = 1) -> int | None:
        """Most rows at once, as things stand; None is no limit."""
        limits = [self.size if self.size is not None else at_most, None if room is None else room.rows(total)]
        return min((limit for limit in limits if limit is not None), default=None)

    def _halve(self, size: int, room: MemoryBudget | None, total: int) -> None:
        grown = room is not None and room.grows and room.tokens > TOKENS["cuda"]
        if room is not None:
            room.tokens, room.grows = size // 2 * total, False
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if grown:  # that was only to find out how much there is
            return
        self.size = size // 2
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

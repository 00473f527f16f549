"""Reads over a network that have a limit, so that a server that says nothing never holds up a corpus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from dreamy_lens import _waiting

T = TypeVar("T")

READ_SECONDS = 60.0
"""Most seconds that one read over a network may take, without `DREAMY_LENS_TIMEOUT`."""


def patiently(place: str, function: Callable[[], T]) -> T:
    """Call a function that reads over a network, and return its result or raise its error.

    Args:
        place: URL or data set that is read, for messages.
        function: Function to call.

    Raises:
        WaitError: The limit is reached.
    """
    return _waiting.within(_waiting.limit(READ_SECONDS), f"Waiting for {place[:200]}", function)


class RemoteFile:
    """File at a URL, each read of which has a limit.

    Args:
        place: URL of the file, for messages.
        file: Open file.
    """

    def __init__(self, place: str, file: Any) -> None:
        self._place, self._file = place, file

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes; all that remain if it is negative."""
        return patiently(self._place, lambda: self._file.read(size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> RemoteFile:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()

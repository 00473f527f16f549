"""Warnings that are ignored in one thread."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class _HereAndNow:
    """Pattern of a filter that matches in the thread that made it, until that thread ends it.

    Python's `warnings` asks a pattern only for `match`.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern, self._thread = re.compile(pattern, re.IGNORECASE), threading.get_ident()

    def match(self, text: str) -> Any:
        return self._pattern.match(text) if threading.get_ident() == self._thread else None

    def end(self) -> None:
        self._thread = None


@contextmanager
def ignored_warnings(category: type[Warning], pattern: str = "") -> Iterator[None]:
    """Ignore some warnings of this thread for a while.

    `warnings.catch_warnings` does it for all threads: it saves all filters, and restores them. In two threads at once,
    each undoes what the other one set, and for good if the first to begin is the first to end. A search in the
    background would change how the program of the user warns.

    Args:
        category: Kind of the warnings.
        pattern: Regular expression for the beginning of their text.

    >>> with ignored_warnings(DeprecationWarning, "an old name"):
    ...     warnings.warn("an old name of a function", DeprecationWarning)
    """
    here = _HereAndNow(pattern)
    added: Any = "ignore", here, category, None, 0
    filters: Any = warnings.filters
    filters.insert(0, added)
    try:
        yield
    finally:
        here.end()  # another thread may have saved the filters, and restore this one
        current: Any = warnings.filters
        for each in (filters, current):
            with suppress(ValueError):  # there are not two, or another thread has restored its own
                each.remove(added)

"""Warnings of one thread, heard or ignored without a change for the other threads.

`warnings.catch_warnings` works for all threads: it saves the filters and what shows warnings, and restores them. In two
threads at once, each undoes what the other one set, and for good if the first to begin is the first to end. A search in
the background would change how the program of the user warns. So one filter stays in `warnings.filters` once it is
needed. It matches nothing, except in a thread that has told it to.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")


class _Nothing(Warning):
    """Category that no warning has."""


class _Probe(PendingDeprecationWarning):
    """Category of a warning that shows whether the filters are still the same. Few programs show this kind."""


class _ThreadPattern(threading.local):
    """Pattern of the filter: `warnings` calls :meth:`match` with the text of a warning, in the thread that warns."""

    pattern = ""  # for code that prints the filters of a process

    def __init__(self) -> None:
        self.heard: list[Callable[[str], object]] = []

    def match(self, text: str) -> bool:
        """Return whether this thread has a use for a warning, which then goes no further."""
        return any(take(text) for take in self.heard)


_PROBE = "a probe of the filters of warnings"
_PATTERN = _ThreadPattern()
_FILTER: Any = ("ignore", _PATTERN, Warning, None, 0)


@contextmanager
def _listening(take: Callable[[str], object]) -> Iterator[None]:
    """Let a function take the warnings of this thread for which it returns something true."""
    filters: Any = warnings.filters
    if not filters or filters[0] is not _FILTER:
        filters.insert(0, _FILTER)  # never removed: another thread may be reading the list
    # Forget which warnings were given once, so that they are given again. Every change of the filters does.
    warnings.simplefilter("ignore", _Nothing, append=True)
    _PATTERN.heard.append(take)
    try:
        yield
    finally:
        _PATTERN.heard.remove(take)


@contextmanager
def ignored_warnings() -> Iterator[None]:
    """Ignore the warnings of this thread for a while.

    >>> with ignored_warnings():
    ...     warnings.warn("not shown")
    """
    with _listening(lambda text: True):
        yield


def hear_warnings(compute: Callable[[], T], pattern: re.Pattern[str], tries: int = 3) -> tuple[T, list[re.Match[str]]]:
    r"""Call a function, and take the warnings of this thread whose texts begin with a pattern.

    Another thread may change the filters meanwhile. If it has, warnings may have been missed, and the function is
    called again.

    Args:
        compute: Function without side effects.
        pattern: Pattern of the warnings. Others are given as usual.
        tries: Largest number of calls.

    Returns:
        What the function returned, and the matches of its warnings, in order.

    >>> _, found = hear_warnings(lambda: warnings.warn("op: no kernel"), re.compile(r"(\w+): no kernel"))
    >>> found[0][1]
    'op'
    """
    while True:
        tries -= 1
        matches = _Matches(pattern)
        with _listening(matches.take):
            result = compute()
            with suppress(_Probe):  # raised if another thread has made warnings errors
                warnings.warn_explicit(_PROBE, _Probe, __file__, 1)
        if matches.probed or not tries:
            return result, matches.found


class _Matches:
    """Matches of a pattern in the texts of warnings.

    Attributes:
        found: Matches, in order.
        probed: Whether the probe was among the warnings, so that none was missed.
    """

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern
        self.found: list[re.Match[str]] = []
        self.probed = False

    def take(self, text: str) -> bool:
        match = self._pattern.match(text)
        self.found += [match] if match else []
        self.probed |= text == _PROBE
        return bool(match) or text == _PROBE

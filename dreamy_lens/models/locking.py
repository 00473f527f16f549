"""Locks that make threads take turns with a model: for passes of this package, calls by users, and process forks."""

from __future__ import annotations

import contextlib
import os
import threading
import types
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

_LOCKS: weakref.WeakKeyDictionary[Any, threading.RLock] = weakref.WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()
_CALLED = ("forward", "run_with_cache", "run_with_hooks")
_SHARED: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


def lock_of(source: Any) -> threading.RLock:
    """Return the re-entrant lock that a thread holds while it uses a model; each bridge or backend has one lock."""
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(source, threading.RLock())


class _Waiting:
    """Method of a model that holds the model's lock while it runs, so that it overlaps no pass of another thread."""

    def __init__(self, source: Any, name: str, lock: Any) -> None:
        self._source, self._name, self._lock = weakref.ref(source), name, lock

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return self._own()(*args, **kwargs)

    def _own(self) -> Any:
        source = self._source()
        return types.MethodType(getattr(type(source), self._name), source)

    def __reduce__(self) -> Any:  # copies of the model get its original method
        source = self._source()
        return types.MethodType, (getattr(type(source), self._name), source)


@contextlib.contextmanager
def shared(models: Iterable[Any]) -> Iterator[None]:
    """Make direct calls of the models from other threads wait for the pass in progress, which they would disturb."""
    with contextlib.ExitStack() as waiting:
        for source, lock in {id(model.source): (model.source, model.lock) for model in models}.values():
            waiting.enter_context(_waiting(source, lock))
        yield


@contextlib.contextmanager
def _waiting(source: Any, lock: Any) -> Iterator[None]:
    with lock:
        _SHARED[source] = _SHARED.get(source, 0) + 1
    try:
        for name in _CALLED:
            if hasattr(type(source), name):
                source.__dict__.setdefault(name, _Waiting(source, name, lock))  # bypasses its __setattr__
        yield
    finally:
        with lock:
            _SHARED[source] -= 1
            for name in _CALLED if not _SHARED[source] else ():
                if isinstance(source.__dict__.get(name), _Waiting):
                    del source.__dict__[name]


_HELD_TO_FORK: list[threading.RLock] = []


def _before_fork() -> None:
    """Wait until no pass is in progress: a process forked during a pass would get an unusable copy of the model."""
    with _LOCKS_LOCK:
        _HELD_TO_FORK[:] = sorted(_LOCKS.values(), key=id)
    for lock in _HELD_TO_FORK:
        lock.acquire()
    _LOCKS_LOCK.acquire()


def _after_fork() -> None:
    _LOCKS_LOCK.release()
    while _HELD_TO_FORK:
        _HELD_TO_FORK.pop().release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)

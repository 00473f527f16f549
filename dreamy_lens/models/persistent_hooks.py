"""Persistent hooks: hooks that stay on a model's hook points for a full run instead of being attached for every pass.

Between the passes of this package they do nothing: other calls of the model, from any thread, give the results that
they give without these hooks. TransformerLens decides from a hook point's list of hooks what it computes. Persistent
hooks are in that list only during a pass that uses them, so TransformerLens neither lists nor resets them.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Hook = Callable[..., Any]


class _ThreadHooks(threading.local):
    """Functions of the hooks in this thread's current pass, by owner, hook point name, and whether they come first."""

    functions: dict[tuple[Any, str, bool], Hook] | None = None


_CURRENT = _ThreadHooks()
_LOCK = threading.RLock()


class PersistentHooks:
    """Hooks that stay on one bridge while a caller is inside :meth:`keep`.

    Attributes:
        ids: Ids that torch gave to the hooks.
    """

    def __init__(self) -> None:
        self.ids: set[int] = set()
        self._lock = _LOCK  # kept, because a search that the program's end interrupts leaves when modules are empty
        self._kept = 0
        self._hooks: dict[tuple[str, bool], tuple[Any, Any]] = {}

    @contextlib.contextmanager
    def keep(self) -> Iterator[None]:
        """Keep hooks within the context; remove them when the last such context ends, in any thread."""
        with self._lock:
            self._kept += 1
        try:
            yield
        finally:
            self._leave()

    @contextlib.contextmanager
    def in_pass(
        self, hooks: Sequence[tuple[str, Hook]], point: Callable[[str], Any], first: Hook | None, where: str
    ) -> Iterator[bool]:
        """Use persistent hooks in one pass if a caller keeps hooks; yield whether one does.

        Args:
            hooks: Pairs of a hook point name and a function of (activation, hook).
            point: Function that returns the hook point with a name.
            first: Function for the hook point `where`, called before all other hooks on it; or None.
            where: Name of the hook point for `first`.
        """
        with self._lock:
            stays = self._kept > 0
            self._kept += stays  # this pass keeps its hooks even if the run ends in the meantime
        if not stays:
            yield False
            return
        shown: list[tuple[Any, Any]] = []
        former = _CURRENT.functions
        try:
            wanted = {(name, False): function for name, function in hooks}
            if first is not None:
                wanted[where, True] = first
            for key in wanted:
                at, handle = self._persistent(key, point(key[0]))
                at.fwd_hooks.insert(0 if key[1] else len(at.fwd_hooks), handle)
                shown.append((at, handle))
            _CURRENT.functions = {(self, *key): function for key, function in wanted.items()}
            yield True
        finally:
            _CURRENT.functions = former
            for at, handle in shown:
                _hide(at, handle)
            self._leave()

    def _persistent(self, key: tuple[str, bool], point: Any) -> tuple[Any, Any]:
        """Return a persistent hook; attach it if it is new, if it was removed, or if the hook point was replaced."""
        at, handle = self._hooks.get(key, (None, None))
        if at is point and handle.hook.id in point._forward_hooks:
            return at, handle
        if at is not None:
            self._remove(handle)

        def persistent(activation: Any, hook: Any = None) -> Any:
            functions = _CURRENT.functions
            function = None if functions is None else functions.get((self, *key))
            return None if function is None else function(activation, hook=hook)

        handle = attach(point, persistent, key[1])
        _hide(point, handle)
        self._hooks[key] = point, handle
        self.ids.add(handle.hook.id)
        return point, handle

    def _leave(self) -> None:
        with self._lock:
            self._kept -= 1
            unused = [] if self._kept else list(self._hooks.values())
            if not self._kept:
                self._hooks = {}
        for _, handle in unused:
            self._remove(handle)

    def _remove(self, handle: Any) -> None:
        handle.hook.remove()
        self.ids.discard(handle.hook.id)


def attach(point: Any, function: Hook, first: bool = False) -> Any:
    """Put a function on a hook point and return its handle, which earlier versions of TransformerLens do not return."""
    handle = point.add_hook(function, prepend=True) if first else point.add_hook(function)
    return point.fwd_hooks[0 if first else -1] if handle is None else handle


def _hide(point: Any, handle: Any) -> None:
    point.fwd_hooks[:] = [other for other in point.fwd_hooks if other is not handle]


_HOOKS_OF_BRIDGES: weakref.WeakKeyDictionary[Any, PersistentHooks] = weakref.WeakKeyDictionary()


def persistent_hooks_of(bridge: Any) -> PersistentHooks:
    """Return the persistent hooks of a bridge; all models made from the bridge share them."""
    with _LOCK:
        if bridge not in _HOOKS_OF_BRIDGES:
            _HOOKS_OF_BRIDGES[bridge] = PersistentHooks()
        return _HOOKS_OF_BRIDGES[bridge]

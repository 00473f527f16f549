"""Hooks that stay on a model's hook points for the length of a run, instead of coming and going with every pass.

Between this package's passes they stand there and do nothing: whoever else calls the model meanwhile, from this thread
or another, gets what it would get without them. TransformerLens, which decides by a hook point's list of hooks what it
computes, finds them in that list during a pass that wants them, and at no other time; so they are neither listed nor
reset.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Hook = Callable[..., Any]


class _ThreadHooks(threading.local):
    """What hooks do in the pass that this thread is in, by whose they are, name, and whether they come first."""

    functions: dict[tuple[Any, str, bool], Hook] | None = None


_NOW = _ThreadHooks()
_LOCK = threading.RLock()


class PersistentHooks:
    """The hooks that stay on one bridge while a caller is inside :meth:`keep`.

    Attributes:
        ids: the numbers that torch has given them.
    """

    def __init__(self) -> None:
        self.ids: set[int] = set()
        self._kept = 0
        self._hooks: dict[tuple[str, bool], tuple[Any, Any]] = {}

    @contextlib.contextmanager
    def keep(self) -> Iterator[None]:
        """Hooks stay inside; when the last one leaves they are gone, whatever ended it, and in whichever thread."""
        with _LOCK:
            self._kept += 1
        try:
            yield
        finally:
            self._leave()

    @contextlib.contextmanager
    def in_pass(
        self, hooks: Sequence[tuple[str, Hook]], point: Callable[[str], Any], first: Hook | None, where: str
    ) -> Iterator[bool]:
        """Use hooks at these names in one pass, if hooks stay at present; give whether they do.

        Args:
            hooks: functions of (activation, hook) by the name of a hook point.
            point: finds the hook point of a name.
            first: a function for the hook point `where`, to be called before all others there.
            where: its name.
        """
        with _LOCK:
            stays = self._kept > 0
            self._kept += stays  # whoever ends the run meanwhile leaves this pass its hooks
        if not stays:
            yield False
            return
        shown: list[tuple[Any, Any]] = []
        former = _NOW.functions
        try:
            wanted = {(name, False): function for name, function in hooks}
            if first is not None:
                wanted[where, True] = first
            for key in wanted:
                at, handle = self._persistent(key, point(key[0]))
                at.fwd_hooks.insert(0 if key[1] else len(at.fwd_hooks), handle)
                shown.append((at, handle))
            _NOW.functions = {(self, *key): function for key, function in wanted.items()}
            yield True
        finally:
            _NOW.functions = former
            for at, handle in shown:
                _hide(at, handle)
            self._leave()

    def _persistent(self, key: tuple[str, bool], point: Any) -> tuple[Any, Any]:
        """A hook that stays; attached now if it is new, if somebody removed it, or if the point is another one."""
        at, handle = self._hooks.get(key, (None, None))
        if at is point and handle.hook.id in point._forward_hooks:
            return at, handle
        if at is not None:
            self._remove(handle)

        def persistent(activation: Any, hook: Any = None) -> Any:
            functions = _NOW.functions
            function = None if functions is None else functions.get((self, *key))
            return None if function is None else function(activation, hook=hook)

        handle = attach(point, persistent, key[1])
        _hide(point, handle)
        self._hooks[key] = point, handle
        self.ids.add(handle.hook.id)
        return point, handle

    def _leave(self) -> None:
        with _LOCK:
            self._kept -= 1
            gone = [] if self._kept else list(self._hooks.values())
            if not self._kept:
                self._hooks = {}
        for _, handle in gone:
            self._remove(handle)

    def _remove(self, handle: Any) -> None:
        handle.hook.remove()
        self.ids.discard(handle.hook.id)


def attach(point: Any, function: Hook, first: bool = False) -> Any:
    """Put a function on a hook point and return its handle, which earlier TransformerLens does not give."""
    handle = point.add_hook(function, prepend=True) if first else point.add_hook(function)
    return point.fwd_hooks[0 if first else -1] if handle is None else handle


def _hide(point: Any, handle: Any) -> None:
    point.fwd_hooks[:] = [other for other in point.fwd_hooks if other is not handle]


_OF: weakref.WeakKeyDictionary[Any, PersistentHooks] = weakref.WeakKeyDictionary()


def persistent_hooks_of(bridge: Any) -> PersistentHooks:
    """The persistent hooks of a bridge, the same for every model that was made of it."""
    with _LOCK:
        if bridge not in _OF:
            _OF[bridge] = PersistentHooks()
        return _OF[bridge]

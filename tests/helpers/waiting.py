"""An accelerator that is not there: tensors that say they are on one, and a count of what would wait for it.

What is computed is computed on the processor. What is counted is what makes a processor stand still until a real
accelerator has done all that it was asked for: copies in either direction that are not told otherwise, numbers and
sizes that depend on what was computed, and being asked to wait.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from tests.helpers.devices import fresh_tensors

THERE = torch.device("cuda", 0)
HERE = torch.device("cpu")

DEPENDENT = (
    "_local_scalar_dense",
    "nonzero",
    "equal",
    "masked_select",
    "is_nonzero",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "count_nonzero",
)
"""Operations whose result, or the size of it, has to be known to go on."""


class Waits:
    """What has been waited for, each with the place in the code that did."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._coming: list[tuple[torch.Tensor, torch.Tensor]] = []

    def note(self, what: str) -> None:
        frames = [f for f in traceback.extract_stack() if "dreamy_lens" in f.filename or "transformer" in f.filename]
        places = [f"{f.filename.rpartition('/')[2]}:{f.lineno}" for f in frames[-4:]]
        self.seen.append(f"{what} ({' > '.join(places)})")
        for target, source in self._coming:  # whatever waits finds the copies that were on their way
            target.copy_(source)
        self._coming.clear()

    def send(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """A copy that comes by itself: until somebody waits, there is something else in its place."""
        target.fill_(113)
        self._coming.append((target, source.clone()))


WAITS = Waits()


class Away(torch.Tensor):
    """A tensor that is said to be on the accelerator."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> Away:
        out = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, here.shape, strides=here.stride(), dtype=here.dtype, device="meta", requires_grad=here.requires_grad
        )
        out.here = here.detach()
        return out

    device = property(lambda self: THERE)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    def data_ptr(self) -> int:
        return self.here.data_ptr()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Away({self.here!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name.partition("::")[2]
        if "device" in kwargs and kwargs["device"] is not None:
            kwargs["device"] = HERE
        _check(name, args)
        plain_args, plain_kwargs = tree_map(_here, args), tree_map(_here, kwargs)
        with torch._C._DisableTorchDispatch():  # type: ignore[attr-defined]
            found = func(*plain_args, **plain_kwargs)
        returns = func._schema.returns
        if returns and returns[0].alias_info is not None and returns[0].alias_info.is_write:
            return kwargs["out"] if "out" in kwargs else args[0]
        return tree_map(lambda x: Away(x) if isinstance(x, torch.Tensor) else x, found)


def _here(x: Any) -> Any:
    return x.here if isinstance(x, Away) else x


def _check(name: str, args: Any) -> None:
    """Count an operation that waits; refuse one between two devices."""
    if name in DEPENDENT or (name == "repeat_interleave" and len(args) > 1 and isinstance(args[1], torch.Tensor)):
        WAITS.note(name)
    if name in ("index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"):
        for index in args[1]:
            if isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8):
                WAITS.note(f"{name} by a mask")
            elif isinstance(index, torch.Tensor) and not isinstance(index, Away):
                WAITS.note(f"{name} by an index that is not on the device")
        return
    tensors = [x for x in args if isinstance(x, torch.Tensor)]
    if name not in ("copy_", "_to_copy") and any(not isinstance(x, Away) and x.dim() for x in tensors):
        raise RuntimeError(f"{name}: tensors are on two devices")


class _Device(TorchFunctionMode):
    """Sends tensors to the accelerator and back, which only Python's side of torch knows of."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        first = args[0] if args else None
        if name == "pin_memory":
            return _as_pinned(first.clone())
        pinned = kwargs.pop("pin_memory", False)
        if name == "to" and isinstance(first, torch.Tensor):
            return self._to(func, first, args[1:], kwargs)
        if isinstance(first, Away) and name in ("cpu", "tolist"):
            WAITS.note(name)
            return getattr(first.here.clone(), name)()
        if isinstance(first, Away) and name == "numpy":
            raise TypeError("can't convert a tensor on an accelerator to numpy")
        if isinstance(first, Away) and name == "cuda":
            return first
        if name == "copy_" and isinstance(first, Away) is not isinstance(args[1], Away):
            return self._copy(first, args[1], kwargs.get("non_blocking", False))
        if _is_there(kwargs.get("device")):
            kwargs["device"] = HERE
            with torch._C.DisableTorchFunction():
                made = func(*tree_map(_here, args), **kwargs)
            if name in ("tensor", "as_tensor") and made.numel():  # of nothing, nothing is copied
                WAITS.note("torch.tensor on the device")
            wants, made = made.requires_grad, Away(made.detach())
            return made.requires_grad_(wants)
        found = func(*args, **kwargs)
        return _as_pinned(found) if pinned else found

    @staticmethod
    def _to(func: Any, x: torch.Tensor, args: Any, kwargs: Any) -> torch.Tensor:
        parts = [*args, *kwargs.values()]
        other = next((p for p in parts if isinstance(p, torch.Tensor)), None)
        devices = [p for p in parts if isinstance(p, (torch.device, str))]
        wanted = other.device if other is not None else torch.device(devices[0]) if devices else x.device
        dtype = other.dtype if other is not None else next((p for p in parts if isinstance(p, torch.dtype)), x.dtype)
        if wanted.type == THERE.type and not isinstance(x, Away):
            if x.dim() == 0 or not (kwargs.get("non_blocking") and getattr(x, "is_pinned_here", False)):
                WAITS.note("a copy to the device")
            x = Away(x.detach().clone())
        elif wanted.type == HERE.type and isinstance(x, Away):
            WAITS.note("a copy from the device")
            x = x.here.clone()
        with torch._C.DisableTorchFunction():
            return x if dtype == x.dtype else x.to(dtype)

    @staticmethod
    def _copy(target: torch.Tensor, source: torch.Tensor, non_blocking: bool) -> torch.Tensor:
        if isinstance(target, Away):
            if not (non_blocking and getattr(source, "is_pinned_here", False)):
                WAITS.note("a copy to the device")
            target.here.copy_(source)
        elif non_blocking and getattr(target, "is_pinned_here", False):
            WAITS.send(target, source.here)  # type: ignore[attr-defined]
        else:
            WAITS.note("a copy from the device")
            target.copy_(source.here)  # type: ignore[attr-defined]
        return target


class _Factories(TorchDispatchMode):
    """Gives numbers to the tensors that torch itself makes where an :class:`Away` is, which is nowhere to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = any(isinstance(x, torch.Tensor) for x in args)
        if not tensors and kwargs.get("device") is not None and kwargs["device"].type == "meta":
            return Away(func(*args, **{**kwargs, "device": HERE}))
        return func(*args, **kwargs)


def _as_pinned(tensor: torch.Tensor) -> torch.Tensor:
    tensor.is_pinned_here = True  # type: ignore[attr-defined]
    return tensor


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == THERE.type


@contextlib.contextmanager
def accelerator() -> Iterator[Waits]:
    """Inside, there is one; gives what was waited for."""
    WAITS.seen.clear()
    stream = SimpleNamespace(synchronize=lambda: WAITS.note("asked to"))
    with pytest.MonkeyPatch.context() as patch, fresh_tensors(), _Factories(), _Device():
        patch.setattr(torch.cuda, "current_stream", lambda device=None: stream)
        patch.setattr("dreamy_lens.scoring.graphs.PATIENCE", 1 << 60)  # it has no graphs: tests/helpers/devices.py has
        yield WAITS


def moved(bridge: Any) -> Any:
    """A bridge whose weights are on it."""
    done: dict[int, torch.Tensor] = {}

    def of(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in done:
            away = Away(tensor.detach().clone())
            away.requires_grad_(tensor.requires_grad)
            away._is_param = isinstance(tensor, torch.nn.Parameter)  # type: ignore[attr-defined]
            done[id(tensor)] = away
        return done[id(tensor)]

    for module in bridge.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and not isinstance(tensor, Away):
                    tensors[name] = of(tensor)
    return bridge

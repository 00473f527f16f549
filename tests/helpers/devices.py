"""An accelerator that is not there: tensors that say they are on one, and a count of every wait of the host for it.

What a :class:`Placed` tensor holds is in the processor's memory and is computed there, derivatives too, but

* tensors of two devices do not meet in one operation, except where CUDA lets a number of the host's come in;
* whatever makes the host wait for the device on CUDA is counted: copies from the device, blocking copies to it, and
  operations whose outcome Python or the shape of a tensor depends on;
* a copy that was asked for without blocking has nonsense in it until its stream has been waited for.

Everything goes through torch's function overrides, above autograd. An operation that bypasses them is an error.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from dreamy_lens.models import tree_attention
from dreamy_lens.search.frontier import moves

_DEPENDENT = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""By which torch marks operations after which the host knows something that only the device knew."""


@dataclass
class Waits:
    """The host's waits so far, each told by what it was and where it was asked for.

    Attributes:
        seen: The waits.
        unfinished: Copies from a device that a wait will finish.
        graph: The graph that is being recorded.
        kernels: Operations that the host started one by one; views are none.
        launches: Graphs that the host started.
        replayed: Operations of these graphs.
        graphs: Graphs that were recorded.
    """

    seen: list[str] = field(default_factory=list)
    unfinished: list[tuple[torch.device, torch.Tensor, torch.Tensor]] = field(default_factory=list)
    graph: Graph | None = None
    kernels: int = 0
    launches: int = 0
    replayed: int = 0
    graphs: int = 0

    def __len__(self) -> int:
        return len(self.seen)

    def note(self, what: str) -> None:
        """One more; CUDA refuses to wait while it records a graph."""
        if self.graph is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: {what}")
        here = [f for f in traceback.extract_stack() if "torch" not in f.filename and not f.filename.endswith(__file__)]
        self.seen.append(f"{what} at " + " < ".join(f"{f.filename}:{f.lineno}" for f in reversed(here[-6:])))

    def stream(self, device: Any = None) -> Stream:
        """In the place of `torch.cuda.current_stream`."""
        return Stream(self, _place(device or "cuda"))


@dataclass
class Stream:
    """The only one of a device."""

    waits: Waits
    device: torch.device

    def wait_stream(self, other: Stream) -> None:
        """There is one stream, so nothing to wait for."""

    def synchronize(self) -> None:
        """Wait until all copies are done."""
        self.waits.note("a stream")
        for device, source, copy in self.waits.unfinished:
            if device == self.device:
                copy.copy_(source)
        self.waits.unfinished = [entry for entry in self.waits.unfinished if entry[0] != self.device]


class Graph:
    """In the place of `torch.cuda.CUDAGraph`: the operations below autograd, which a replay repeats on their tensors.

    What a replay computes goes where the recording put it, and is computed from what is now in the tensors that the
    recorded operations read. No Python of the pass runs again.
    """

    def __init__(self, waits: Waits) -> None:
        self.waits = waits
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def replay(self) -> None:
        """All operations again."""
        self.waits.launches += 1
        with torch.no_grad():
            for func, args, kwargs, out in self.operations:
                kind = _kind(func)
                if kind == "view":
                    continue
                self.waits.replayed += 1
                new = func(*args, **kwargs)
                if kind == "new":
                    for to, x in zip(tree_leaves(out), tree_leaves(new), strict=True):
                        if isinstance(to, torch.Tensor):
                            to.detach().copy_(x)


@cache  # torch reads the schema of an operation slowly, and a test starts a million of them
def _kind(func: Any) -> str:
    """Whether an operation makes a new tensor, changes one, or only looks at one in another way."""
    returns = [r.alias_info for r in func._schema.returns]
    if any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments):
        return "change"
    return "view" if any(a is not None for a in returns) else "new"


@cache
def _named(func: Any) -> tuple[str, bool]:
    """Name of an operation, and whether the host knows something afterwards that only the device knew."""
    return func.overloadpacket.__name__, bool(_DEPENDENT & set(func.tags))


_PLAIN = (torch.Tensor, str, int, float, type(None), torch.dtype, torch.device, slice)


def _leaves(args: Any, kwargs: Any) -> list[Any]:
    """What `tree_leaves` returns, found faster where nothing is nested."""
    found: list[Any] = []
    for x in (*args, *kwargs.values()):
        if isinstance(x, _PLAIN):
            found.append(x)
        else:
            found.extend(tree_leaves(x))
    return found


def _inner(x: Any) -> Any:
    """What a value is in truth, with tensors on a device inside it too."""
    if isinstance(x, Placed):
        return x.inner
    return x if isinstance(x, _PLAIN) else tree_map(lambda leaf: leaf.inner if isinstance(leaf, Placed) else leaf, x)


@contextlib.contextmanager
def _recorded(graph: Graph, pool: Any = None, stream: Any = None, capture_error_mode: str = "global") -> Iterator[None]:
    """In the place of `torch.cuda.graph`."""
    assert graph.waits.graph is None and pool is not None and stream is not None
    assert capture_error_mode == "thread_local"  # or another thread's work would be an error
    graph.waits.graph = graph
    try:
        yield
    finally:
        graph.waits.graph = None
    graph.waits.graphs += 1


class Placed(torch.Tensor):
    """A tensor on a device; `inner` is what it is in truth."""

    inner: torch.Tensor
    place: torch.device
    _is_param = False  # torch takes a tensor with this mark for a parameter

    @staticmethod
    def __new__(cls, inner: torch.Tensor, place: torch.device) -> Placed:
        if inner.dtype == torch.float64 and not _HAS_FLOAT64[0]:
            raise TypeError("Cannot convert a tensor to float64: the device has no float64")
        self = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device="meta")  # pyright: ignore
        self.inner, self.place = inner, place
        return self

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{resolve_name(func)} of a tensor on a device that is gone")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} went past the emulated device")


class _Watch(TorchDispatchMode):
    """Counts what a composite operation waits for inside, and the kernels; a graph being recorded gets them."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, counted = _named(func)
        counted = counted and not (kwargs or {}).get("output_size")
        if name in ("index", "index_put", "index_put_"):
            counted = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        if counted:
            self.waits.note(name)
        out = func(*args, **(kwargs or {}))
        if self.waits.graph is not None:
            self.waits.graph.operations.append((func, args, kwargs or {}, out))
        elif _kind(func) != "view":
            self.waits.kernels += 1
        return out


class Emulation(TorchFunctionMode):
    """Makes all devices of type "cuda" emulated ones."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = _leaves(args, kwargs)
        placed = {id(x.inner): x for x in leaves if isinstance(x, Placed)}
        name = getattr(func, "__name__", "")
        if name == "__get__" and placed:
            name = getattr(func.__self__, "__name__", "")
            fixed = {"device": args[0].place, "is_cuda": True, "is_cpu": False, "is_meta": False}
            if name in fixed:
                return fixed[name]
        if name in ("to", "cpu", "cuda"):
            return self._moved(name, *args, **kwargs)
        if name == "pin_memory":
            pinned = args[0].clone()
            pinned.is_in_pinned_memory = True
            return pinned
        if name == "copy_" and isinstance(args[0], Placed) and not isinstance(args[1], Placed):
            if not (kwargs.get("non_blocking") and hasattr(args[1], "is_in_pinned_memory")):
                self.waits.note("a copy to the device")
        if name == "copy_" and placed and not isinstance(args[0], Placed):
            if not kwargs.get("non_blocking"):
                self.waits.note("a copy from the device")
            return args[0].copy_(args[1].inner)
        if name in ("numpy", "__array__") and placed:
            raise TypeError("can't convert cuda device type tensor to numpy. Use Tensor.cpu()")
        if not placed:
            return self._made(func, name, args, kwargs)
        place = self._checked(func, name, leaves, list(placed.values()))
        if name in ("tolist", "__deepcopy__", "__repr__"):
            self.waits.note(name)
        inner_args, inner_kwargs = tuple(map(_inner, args)), {key: _inner(value) for key, value in kwargs.items()}
        asked = kwargs.get("device")
        if asked is not None:
            inner_kwargs["device"] = "cpu"
            place = _place(asked)
        with _Watch(self.waits):
            out = func(*inner_args, **inner_kwargs)
        if asked is not None and place.type != "cuda":
            return out
        if name == "grad" and callable(getattr(torch.autograd, "grad", None)) and func is torch.autograd.grad:
            wanted = args[1] if len(args) > 1 else kwargs["inputs"]
            wanted = [wanted] if isinstance(wanted, torch.Tensor) else wanted
            return tuple(
                None if o is None else Placed(o, w.place) if isinstance(w, Placed) else o
                for o, w in zip(out, wanted, strict=True)
            )

        def wrapped(x: Any) -> Any:
            if not isinstance(x, torch.Tensor) or isinstance(x, Placed):
                return x
            return placed[id(x)] if id(x) in placed else Placed(x, place)

        return wrapped(out) if isinstance(out, _PLAIN) else tree_map(wrapped, out)

    def _made(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """An operation on nothing, or on the host's tensors: maybe one that makes a tensor on the device."""
        kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"}  # there is none here
        device = kwargs.get("device")
        if device is None or _place(device).type != "cuda":
            return func(*args, **kwargs)
        with _Watch(self.waits):
            out = func(*args, **{**kwargs, "device": "cpu"})
        if name in ("tensor", "as_tensor", "new_tensor") and out.numel():
            self.waits.note(f"torch.{name}")
        return Placed(out, _place(device))

    def _checked(self, func: Any, name: str, leaves: list[Any], placed: list[Placed]) -> torch.device:
        """Where an operation happens."""
        places = {x.place for x in placed}
        hosts = [x for x in leaves if isinstance(x, torch.Tensor) and not isinstance(x, Placed) and x.dim()]
        if name in ("__getitem__", "__setitem__", "index_put_", "index_select", "__get__", "__set__"):
            arrays = [x for x in leaves if isinstance(x, np.ndarray)]
            if (hosts or arrays) and isinstance(leaves[0], Placed) and not name.startswith("__get__"):
                self.waits.note("an index of the host's")
            hosts = []
        if func is torch.autograd.grad or name in ("backward", "copy_"):
            return placed[0].place
        if len(places) > 1 or hosts:
            found = sorted({*map(str, places), *("cpu" for _ in hosts)})
            raise RuntimeError(f"{resolve_name(func)}: expected all tensors on one device, and found {found}")
        return next(iter(places))

    def _moved(self, name: str, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """`x.to(...)`, `x.cpu()` and `x.cuda()`."""
        inner = x.inner if isinstance(x, Placed) else x
        here = x.place if isinstance(x, Placed) else x.device
        there = here if name == "to" else _place("cpu" if name == "cpu" else "cuda")
        blocking, dtype = not kwargs.pop("non_blocking", False), kwargs.pop("dtype", None)
        for value in (*args, kwargs.pop("device", None)):
            if isinstance(value, (str, torch.device)):
                there = _place(value)
            elif isinstance(value, torch.Tensor):
                there, dtype = value.place if isinstance(value, Placed) else value.device, value.dtype
            elif isinstance(value, torch.dtype):
                dtype = value
        kwargs.pop("copy", None)
        if there == here and dtype in (None, inner.dtype):
            return x
        out = inner.to(dtype=dtype or inner.dtype, copy=True, **kwargs)
        if here.type == there.type:
            return Placed(out, there) if there.type == "cuda" else out
        if there.type == "cuda":
            if blocking or not hasattr(x, "is_in_pinned_memory"):
                self.waits.note(f"a copy of {list(inner.shape)} to the device")
            return Placed(out, there)
        if blocking:
            self.waits.note(f"a copy of {list(inner.shape)} from the device")
            return out
        promised = torch.full_like(out.detach(), 97)
        self.waits.unfinished.append((here, out.detach(), promised))
        return promised


def _place(device: Any) -> torch.device:
    device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


_HAS_FLOAT64 = [True]


@contextlib.contextmanager
def fresh_tensors() -> Iterator[None]:
    """Tensors that are kept for each device; those of this emulation are of no use to another one."""

    def forget() -> None:
        moves._random_numbers.cache_clear()
        tree_attention._mask.cache_clear()

    forget()
    try:
        yield
    finally:
        forget()


@contextlib.contextmanager
def emulated(float64: bool = True) -> Iterator[Waits]:
    """Devices "cuda:0", "cuda:1", ... inside, and the host's waits for them.

    Args:
        float64: Whether the devices have float64; those of type "mps" do not.
    """
    waits = Waits()
    with pytest.MonkeyPatch.context() as patch, fresh_tensors(), Emulation(waits):
        patch.setattr(torch.cuda, "current_stream", waits.stream)
        # Classes, because libraries name them in annotations.
        patch.setattr(
            torch.cuda, "Stream", type("Stream", (), {"__new__": lambda cls, device=None: waits.stream(device)})
        )
        patch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        patch.setattr(torch.cuda, "CUDAGraph", type("CUDAGraph", (), {"__new__": lambda cls: Graph(waits)}))
        patch.setattr(torch.cuda, "graph", _recorded)
        patch.setattr(torch.cuda, "graph_pool_handle", object)
        if not float64:
            patch.setattr("dreamy_lens.models.transfer.WITHOUT_FLOAT64", {"cuda"})
        patch.setattr(f"{__name__}._HAS_FLOAT64", [float64])
        yield waits


def place(module: Any, device: Any, memo: dict[int, Placed] | None = None) -> None:
    """Put a module's parameters and buffers on a device, those of all modules inside too.

    Args:
        module: a bridge, or a module of one.
        device: where to.
        memo: what has been placed by the `id` of what it was, so that tied weights stay tied.
    """
    memo, to = {} if memo is None else memo, _place(device)
    inside = [module, *([module.original_model] if hasattr(module, "original_model") else [])]
    for part in {id(m): m for root in inside for m in root.modules()}.values():
        for values in (part._parameters, part._buffers, part.__dict__):
            for key, value in values.items():
                if isinstance(value, torch.Tensor) and not isinstance(value, Placed):
                    if id(value) not in memo:
                        memo[id(value)] = Placed(value.detach().requires_grad_(value.requires_grad), to)
                        memo[id(value)]._is_param = isinstance(value, torch.nn.Parameter)
                    values[key] = memo[id(value)]
    if hasattr(module, "cfg") and hasattr(module, "original_model"):
        module.cfg.device = str(to)

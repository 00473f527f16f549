"""Graphs of a device: the kernels of a pass, recorded once and started again in one call, without Python.

On a CUDA device a pass of a small model takes less time than the thousands of calls that start its kernels. A
:class:`DeviceGraph` records these kernels with CUDA graphs. All shapes and addresses are fixed then: a replay reads the
inputs from one buffer and writes the outputs where the recording wrote them.

A recording must not depend on anything that the host decides during the pass. The following mistakes end it with
:class:`NotRecordable` or an error of torch, and never give wrong numbers:

* A copy between the host and the device: :mod:`~dreamy_lens.models.transfer` refuses it.
* A wait for the device, such as ``.item()``, and a shape that depends on values: CUDA refuses it.

The graph keeps every tensor alive that a recorded kernel reads, so that its memory is not given to another tensor.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from dreamy_lens.models.transfer import NotRecordable, recording

WARM_UPS = 2
"""Passes before the recording, in which libraries choose their routines and allocate their workspaces."""

_RECORDING = threading.Lock()
"""Held during a recording: it waits for the whole device at its start, which CUDA refuses while another one runs."""

__all__ = ["DeviceGraph", "NotRecordable", "new_pool"]


class DeviceGraph:
    """Function of one buffer of int64 inputs, recorded on the buffer's CUDA device.

    Args:
        function: Function of the buffer that returns tensors in any nesting of tuples, lists and dictionaries.
        buffer: Inputs, int64 `[N]`. Its present values must be valid inputs.
        pool: Memory pool of :func:`new_pool`. Graphs that are never replayed at the same time can share one.

    Attributes:
        buffer: Inputs of the next replay.
        outputs: Result of the function; a replay overwrites its tensors.

    Raises:
        NotRecordable: The function copies between the host and the device.
    """

    def __init__(self, function: Callable[[Tensor], Any], buffer: Tensor, pool: Any = None) -> None:
        self.buffer = buffer
        device = buffer.device
        read = _ReadTensors()
        with _RECORDING:
            stream, former = _stream(str(device)), torch.cuda.current_stream(device)
            stream.wait_stream(former)
            try:
                # torch.cuda.graph stays on its stream if a recording fails, so the context around it goes back.
                with torch.cuda.stream(stream):
                    for _ in range(WARM_UPS):
                        function(buffer)
                    self._graph = torch.cuda.CUDAGraph()
                    # Other threads may use the device meanwhile: their calls are neither recorded nor errors.
                    recorded = torch.cuda.graph(
                        self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"
                    )
                    with recorded, recording(), read:
                        outputs = function(buffer)
            finally:
                former.wait_stream(stream)
        self._alive = read.tensors
        self.outputs = tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, outputs)

    def replay(self) -> Any:
        """Start the recorded kernels, and return the outputs, which the next replay overwrites."""
        self._graph.replay()
        return self.outputs


_COPIES = {"copy_", "_to_copy"}
"""Operations of torch that copy a tensor, perhaps to another device."""


class _ReadTensors(TorchDispatchMode):
    """Collects the tensors that operations read and that no operation made: weights, constants, caches.

    Tensors that are made during the recording live in the memory pool of the graph, which stays reserved.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tensors: dict[int, Tensor] = {}  # by storage: one tensor keeps a storage alive that several share
        self._made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for x in tree_leaves((args, kwargs)):
            if isinstance(x, Tensor) and (key := _storage(x)) not in self._made:
                self.tensors.setdefault(key, x.detach())
        out = func(*args, **kwargs)
        if func.overloadpacket.__name__ in _COPIES:
            kinds = {x.device.type for x in (*tree_leaves((args, kwargs)), out) if isinstance(x, Tensor)}
            if len(kinds) > 1:  # a replay would read memory of the host that holds something else by then
                raise NotRecordable("a library copies between the host and the device during the pass")
        self._made |= {_storage(x) for x in tree_leaves(out) if isinstance(x, Tensor)} - self.tensors.keys()
        return out


@functools.cache
def _stream(device: str) -> torch.cuda.Stream:
    """Return the stream of all recordings on a device.

    Graphs share the memory of a pool only if one stream recorded them, and libraries keep a workspace for each stream.
    """
    return torch.cuda.Stream(device)


def _storage(x: Tensor) -> int:
    """Return the address of a storage, which no other living storage has."""
    return x.untyped_storage().data_ptr()


def new_pool() -> Any:
    """Return a new memory pool for graphs; its memory is free again when its last graph is gone."""
    return torch.cuda.graph_pool_handle()

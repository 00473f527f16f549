"""Transfers between the CPU's memory and a device, which wait for the device only when its results are read.

A plain copy to or from an accelerator waits until the accelerator has finished all queued work, and queues nothing
meanwhile. All arrays of a search are copied by these functions, so that waits are few and can be counted.

A graph of a device repeats a recorded pass without Python (:mod:`~dreamy_lens.models.device_graph`). A copy from the
host would be repeated with an address that no longer holds the array, so these functions refuse to copy in a recording.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

WITHOUT_FLOAT64 = {"mps"}
"""Kinds of devices that have no float64."""


class NotRecordable(RuntimeError):
    """Error for a pass that cannot be recorded as a graph of the device; the message gives the reason."""


class _RecordingState(threading.local):
    is_recording = False


_STATE = _RecordingState()


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Refuse, within the context, all copies that this thread makes between the host and a device."""
    former, _STATE.is_recording = _STATE.is_recording, True
    try:
        yield
    finally:
        _STATE.is_recording = former


def to_device(array: np.ndarray | Tensor, device: torch.device | str) -> Tensor:
    """Copy an array or tensor to a device without waiting for the device's queued work."""
    tensor = array if isinstance(array, Tensor) else torch.from_numpy(np.ascontiguousarray(array))
    if _STATE.is_recording and tensor.device.type != torch.device(device).type:
        raise NotRecordable(f"a tensor {list(tensor.shape)} is copied to {device} during the pass")
    if isinstance(device, torch.device) and device.type == "cpu" == tensor.device.type:
        return tensor
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    # Only copies from pinned memory are asynchronous; torch keeps that memory until the copy is done.
    source = _pinned(tensor) if tensor.device.type == "cpu" else tensor
    return source.to(device, non_blocking=True)


def fill(tensor: Tensor, array: np.ndarray) -> None:
    """Copy an array into a tensor on a device, without waiting for the device's queued work."""
    source = torch.from_numpy(np.ascontiguousarray(array))
    tensor.copy_(_pinned(source) if tensor.device.type == "cuda" else source, non_blocking=True)


def to_host(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    """Copy tensors to arrays, waiting once for each device that they are on."""
    if _STATE.is_recording and any(t.device.type != "cpu" for t in tensors):
        raise NotRecordable("a result is read by the host during the pass")
    copies = [_copied(t.detach()) if t.device.type == "cuda" else t.detach().cpu() for t in tensors]
    for device in {t.device for t in tensors if t.device.type == "cuda"}:
        _wait(device)
    return tuple(t.numpy() for t in copies)


def wait_for(device: torch.device) -> None:
    """Wait until a device has finished its queued work."""
    if device.type == "cuda":
        _wait(device)


def has_float64(device: torch.device | str) -> bool:
    """Return whether tensors on a device can be float64."""
    return torch.device(device).type not in WITHOUT_FLOAT64


def in_float64(tensor: Tensor) -> Tensor:
    """Convert a tensor to float64: where it is, or in the processor's memory if its device has no float64."""
    return tensor.double() if has_float64(tensor.device) else tensor.cpu().double()


def _pinned(tensor: Tensor) -> Tensor:
    return tensor.pin_memory()


def _copied(tensor: Tensor) -> Tensor:
    """Return a copy in pinned memory, which is complete only after a wait for the device."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def _wait(device: torch.device) -> None:
    torch.cuda.current_stream(device).synchronize()

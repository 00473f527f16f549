"""Between the memory of the processor and that of a device, without waiting for the device unless its answer is wanted.

A plain copy to or from an accelerator waits until that has done all that was asked of it, and asks for nothing more
meanwhile. Every array of a search comes and goes through here, so that waits are few and can be counted.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_device(array: np.ndarray | Tensor, device: torch.device | str) -> Tensor:
    """An array, or a tensor anywhere, as a tensor on a device; nothing waits for what the device still has to do."""
    tensor = array if isinstance(array, Tensor) else torch.from_numpy(np.ascontiguousarray(array))
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    # Only from pinned memory does a copy go on by itself; torch keeps that memory until it is done.
    source = _pinned(tensor) if tensor.device.type == "cpu" else tensor
    return source.to(device, non_blocking=True)


def to_host(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    """Tensors as arrays, for the price of one wait for each device that they are on."""
    copies = [_copied(t.detach()) if t.device.type == "cuda" else t.detach().cpu() for t in tensors]
    for device in {t.device for t in tensors if t.device.type == "cuda"}:
        _wait(device)
    return tuple(t.numpy() for t in copies)


def _pinned(tensor: Tensor) -> Tensor:
    return tensor.pin_memory()


def _copied(tensor: Tensor) -> Tensor:
    """A copy in pinned memory, which is there once the device has been waited for."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def _wait(device: torch.device) -> None:
    torch.cuda.current_stream(device).synchronize()

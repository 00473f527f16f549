"""Directions from files, as numbers with the name and origin that the file states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamy_lens.errors import FeatureError, FeatureRangeError, quoted, shorten
from dreamy_lens.features.direction_files import TORCH, chosen_name, picked_vector, read_direction
from dreamy_lens.features.directions import Direction, is_direction_name, is_origin
from dreamy_lens.features.paths import split_location


def load_direction(path: str | Path, row: int | tuple[int, ...] = (), name: str | None = None) -> Direction:
    """Read a direction from a file.

    Args:
        path: A ``.safetensors``, ``.npy`` or ``.pt`` file; ``file.safetensors:name`` and ``file.pt:key`` choose one of
            several vectors.
        row: Row of an array of several vectors: one index, or one for each leading axis.
        name: Name of the direction; None takes that in the file.

    Raises:
        FeatureError: There is no such file, or no such vector in it.
    """
    rows = row if isinstance(row, tuple) else (row,)
    if not all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in rows):
        raise FeatureError(f"row is an index, or a tuple of indices; got {quoted(row)}.")
    rows = tuple(int(i) for i in rows)
    file, entry = split_location(str(path))
    stated: dict[str, str] = {}
    if file.suffix in TORCH and file.is_file():
        values = _read_torch(file, entry, rows)
    else:
        values, stated = read_direction(str(path), rows)
    origin, stored = stated.get("origin", ""), stated.get("name", "")
    if not is_origin(origin):
        shown = "".join(c for c in Path(str(path)).name if c.isprintable())[:200]
        origin = f"from {shown}" + (f", row {', '.join(map(str, rows))}" if rows else "")
    return Direction(values, name or (stored if is_direction_name(stored) else None), origin)


def _read_torch(file: Path, name: str, row: tuple[int, ...]) -> np.ndarray:
    """Read a vector from a file that torch saved, without running code."""
    try:
        held: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        why = shorten(str(error).splitlines()[0] if str(error) else type(error).__name__, 200)
        raise FeatureError(
            f"{file} cannot be read as tensors alone, and code in a file is never run: {why}. Where you trust it, load "
            "it with torch yourself, and give the vector: dl.direction(vector)."
        ) from error
    what = f"{file}"
    if isinstance(held, dict):
        keys = {str(key): value for key, value in held.items() if isinstance(value, torch.Tensor)}
        name = chosen_name(file, list(keys), name, "entry")
        held, what = keys[name], f"{file}:{name}"
    if not isinstance(held, torch.Tensor):
        raise FeatureError(f"{file} holds a {type(held).__name__}, not a tensor or a dictionary of tensors.")
    if held.is_complex():
        raise FeatureRangeError(f"{what} does not consist of real numbers.")
    return picked_vector(held.detach(), row, what)

"""Files that hold directions: steering vectors of this package and of other tools, read without running their code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dreamy_lens.errors import FeatureError, FeatureRangeError, quoted, shorten
from dreamy_lens.features.paths import checked_path, split_location

TORCH = (".pt", ".pth", ".bin")
"""Endings of files that torch saves. They are read on request only, never because the text of a feature names one."""
TENSOR = "direction"
"""Name of the tensor in a file that this package writes."""
_WIDEST = 2**24  # numbers; no hook point of a model is as wide


ROWS = "A file with several vectors is read with dl.direction.load(path, row), by the index of a row."
"""Advice for a file with several vectors."""


def checked_vector(values: np.ndarray, what: str) -> np.ndarray:
    """Return numbers as a read-only float32 vector; raise FeatureRangeError unless they are a direction."""
    check_shape(values.shape, what)
    if values.dtype.kind not in "fiub":
        raise FeatureRangeError(f"{what} does not consist of real numbers.")
    with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite; refused below
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise FeatureRangeError(f"{what} has NaN or infinite entries.")
    if not values.any():
        raise FeatureRangeError(f"{what} is all zeros, so every prompt would score the same.")
    values.setflags(write=False)
    return values


def check_shape(shape: tuple[int, ...], what: str, advice: str = "") -> None:
    """Raise FeatureRangeError unless a direction can have this shape; called before any number is read.

    Args:
        shape: Shape of the numbers.
        what: Subject of the message.
        advice: Sentence that the message ends with if there are several vectors.
    """
    if len(shape) != 1 or not 0 < shape[0] <= _WIDEST:
        much = f", at most {_WIDEST} numbers" if len(shape) == 1 and shape[0] else ""
        choice = f" {advice}" if advice and len(shape) > 1 and all(shape) else ""
        raise FeatureRangeError(
            f"{what} has shape {list(shape[:8])}; a direction is one vector of shape [d]{much}.{choice}"
        )


def read_direction(location: str, row: tuple[int, ...] = ()) -> tuple[np.ndarray, dict[str, str]]:
    """Read a direction from a file.

    Args:
        location: Path of the file; ``file.safetensors:name`` chooses one of several tensors.
        row: Indices of the leading axes, if the file holds an array of several vectors, such as `[layer, d]`.

    Returns:
        The numbers, float32 `[d]`, and the texts that the file says about them.

    Raises:
        FeatureError: There is no such file, or it holds no vector of this name.
        FeatureRangeError: The numbers are not a finite, non-zero vector.
    """
    file, name = split_location(checked_path(location, "A direction's file"))
    if not file.is_file():
        raise FeatureError(f"There is no file {str(file)!r} to read a direction from (working folder: {Path.cwd()}).")
    if file.suffix == ".npy":
        return picked_vector(_read_npy(file), row, f"{file}"), {}
    if file.suffix == ".safetensors":
        return _read_safetensors(file, name, row)
    advice = {".gguf": " Convert a GGUF control vector first: save the numbers of one layer."}
    advice |= dict.fromkeys(TORCH, " dl.direction.load(path) reads files of torch; .save(path) writes safetensors.")
    raise FeatureError(
        f"A direction is read from a .safetensors or .npy file; {file.name!r} is neither.{advice.get(file.suffix, '')}"
    )


def picked_vector(values: Any, row: tuple[int, ...], what: str) -> np.ndarray:
    """Return the vector at a row of an array or a tensor, as a checked direction."""
    shape = tuple(values.shape)
    if len(row) > len(shape) or not all(-size <= i < size for i, size in zip(row, shape, strict=False)):
        raise FeatureRangeError(f"{what} has shape {list(shape[:8])}, and there is no row {list(row)} in it.")
    where = f"{what}, row {', '.join(map(str, row))}" if row else what
    check_shape(shape[len(row) :], where, ROWS)
    picked = values[row] if row else values
    return checked_vector(picked.float().numpy() if hasattr(picked, "detach") else picked, where)


def _read_npy(file: Path) -> np.ndarray:
    try:
        values = np.load(file, mmap_mode="r", allow_pickle=False)  # a map: a header may announce any number
    except (ValueError, EOFError, OSError, OverflowError, MemoryError) as error:
        why = shorten(str(error), 300)
        raise FeatureError(
            f"{file} cannot be read as an array of numbers: {why}. Save the direction again with numpy.save."
        ) from error
    if not isinstance(values, np.ndarray):  # an archive of several arrays, whatever the name of the file
        raise FeatureError(f"{file} holds several arrays; save the direction alone: numpy.save(file, vector).")
    return values


def _read_safetensors(file: Path, name: str, row: tuple[int, ...]) -> tuple[np.ndarray, dict[str, str]]:
    from safetensors import safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            name = chosen_name(file, list(tensors.keys()), name, "tensor")
            view = tensors.get_slice(name)
            shape = tuple(view.get_shape())
            if not row:
                check_shape(shape, f"{file}:{name}", ROWS)
            return picked_vector(tensors.get_tensor(name), row, f"{file}:{name}"), dict(tensors.metadata() or {})
    except FeatureError:
        raise
    except Exception as error:
        why = shorten(str(error), 300)
        raise FeatureError(f"{file} cannot be read as safetensors: {why}. Save the direction again.") from error


def chosen_name(file: Path, names: list[str], name: str, noun: str) -> str:
    """Return the name of the tensor to read: the one asked for, or the only one."""
    if not name and len(names) == 1:
        name = names[0]
    if name not in names:
        listed = ", ".join(map(shorten, names[:8])) or "none"
        several = "several tensors" if names else "no tensor"
        asked = f"no {noun} {quoted(name)}" if name else several
        raise FeatureError(f"{file} holds {asked} (it has: {listed}); write {file.name}:NAME to choose one.")
    return name

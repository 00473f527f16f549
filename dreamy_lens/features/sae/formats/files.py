"""Files of tensors: safetensors, NumPy's `.npz` and the tensors that `torch.save` writes.

Nothing of the size of a tensor is read before it was compared with the file's own size, and no file can run code: a
pickle that holds more than tensors is refused. Numbers are read when they are needed, and then only the part for one
latent where the file allows that.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamy_lens.errors import SAEError, shorten
from dreamy_lens.features.sae.formats.encoder import LATENT_AXIS, Read

if TYPE_CHECKING:
    import numpy as np
    import torch

_LONGEST_CONFIG = 16 * 2**20  # bytes; configurations have a few thousand

Part = Callable[[str, "int | None", int], "torch.Tensor"]
"""Function that reads tensors of a file: `part(name, axis, i)` selects `i` of an axis; None takes the whole tensor."""


@dataclass(frozen=True)
class TensorFile:
    """Names and shapes of the tensors of a file, and a function that reads them.

    Attributes:
        path: File.
        shapes: Shape of each tensor.
        part: Function that reads a tensor or a part of it.
        kinds: Name of the kind of number of each tensor, as in "F32", where the file states it.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    part: Part
    kinds: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """Place of a tensor of SAELens' layout in a file.

    Attributes:
        name: Name in the file.
        transposed: True if the file has its two axes the other way round.
        factor: Number that it is multiplied by.
    """

    name: str
    transposed: bool = False
    factor: float = 1.0


def json_settings(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file; raise SAEError if it is none."""
    if path.stat().st_size > _LONGEST_CONFIG:
        raise SAEError(f"{path} has {path.stat().st_size} bytes, so it is not a configuration. Download it again.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise SAEError(f"{path} is not JSON ({what}). Download or save the autoencoder again.") from None
    if not isinstance(config, dict):
        raise SAEError(f"{path} holds {type(config).__name__} where an object with settings is needed.")
    return config


def yaml_settings(path: Path) -> dict[str, Any]:
    """Return the object of a YAML file; raise SAEError if it is none."""
    import yaml

    if path.stat().st_size > _LONGEST_CONFIG:
        raise SAEError(f"{path} has {path.stat().st_size} bytes, so it is not a configuration. Download it again.")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = shorten(" ".join(str(error).split()), 200)
        raise SAEError(f"{path} is not YAML ({why}). Download or save the autoencoder again.") from None
    if not isinstance(config, dict):
        raise SAEError(f"{path} holds {type(config).__name__} where an object with settings is needed.")
    return config


def arranged(parts: Mapping[str, tuple[TensorFile, Stored]]) -> tuple[dict[str, tuple[int, ...]], Read]:
    """Return the shapes, and a function that reads the tensors, under the names and in the layout of SAELens.

    Args:
        parts: File and place of each tensor, by the name that SAELens has for it.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (file, stored) in parts.items():
        shape = file.shapes[stored.name]
        shapes[name] = shape[::-1] if stored.transposed else shape

    def read(name: str, latent: int | None) -> torch.Tensor:
        if name not in parts:
            raise KeyError(name)
        file, stored = parts[name]
        axis = None if latent is None or not shapes[name] else LATENT_AXIS[name]
        if axis is not None and stored.transposed:
            axis = 1 - axis
        tensor = file.part(stored.name, axis, latent or 0)
        tensor = tensor.T if stored.transposed and tensor.ndim == 2 else tensor
        return tensor if stored.factor == 1.0 else tensor.float() * stored.factor

    return shapes, read


def open_tensors(path: Path) -> TensorFile:
    """Return the tensors of a file, whose ending says its format.

    Raises:
        SAEError: The file is damaged, has another format, or would have to run code to be read.
    """
    opener = {".safetensors": _open_safetensors, ".npz": _open_npz, ".pt": _open_torch, ".pth": _open_torch}
    opener[".bin"] = _open_torch
    if path.suffix not in opener:
        raise SAEError(f"{path} is no file of tensors; they are read from {', '.join(opener)}.")
    return opener[path.suffix](path)


def check_numbers(file: TensorFile, names: Mapping[str, Any] | tuple[str, ...]) -> None:
    """Raise SAEError if one of the named tensors of a file holds anything but floating-point numbers."""
    floats = ("F64", "F32", "F16", "BF16")
    odd = [f"{name} ({kind})" for name, kind in file.kinds.items() if name in names and kind not in floats]
    if odd:
        raise SAEError(
            f"{file.path} has {', '.join(odd)}, where numbers in float64, float32, float16 or bfloat16 are needed. "
            "Convert the autoencoder to one of these."
        )


def _open_safetensors(path: Path) -> TensorFile:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}
            shapes = {name: tuple(part.get_shape()) for name, part in parts.items()}
            kinds = {name: str(part.get_dtype()) for name, part in parts.items()}
    except Exception as error:
        # An incomplete download, or the pointer that Git LFS leaves in place of a large file, ends here.
        raise SAEError(
            f"{path} cannot be read as safetensors: {error} ({path.stat().st_size} bytes). Download it again."
        ) from error

    def part(name: str, axis: int | None, i: int) -> torch.Tensor:
        with safe_open(path, framework="pt") as file:
            if axis is None:
                return file.get_tensor(name)
            found = file.get_slice(name)
            return found[i] if axis == 0 else found[:, i]

    return TensorFile(path, shapes, part, kinds)


def _open_npz(path: Path) -> TensorFile:
    """Open an archive of arrays. Arrays that are not compressed are mapped; the others are kept once they are read."""
    import numpy as np

    headers: dict[str, tuple[tuple[int, ...], bool, np.dtype[Any], int | None]] = {}
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as raw:
            for info in archive.infolist():
                with archive.open(info) as member:
                    version = np.lib.format.read_magic(member)
                    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
                    header = header or np.lib.format.read_array_header_2_0
                    shape, fortran, dtype = header(member)
                    start = member.tell()
                if dtype.hasobject or math.prod(shape) * dtype.itemsize != info.file_size - start:
                    raise ValueError(f"{info.filename} announces {list(shape)} of {dtype}, and does not hold them")
                offset = None
                if info.compress_type == zipfile.ZIP_STORED:
                    raw.seek(info.header_offset + 26)  # lengths of the name and the extra field
                    lengths = raw.read(4)
                    before = int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
                    offset = info.header_offset + 30 + before + start
                headers[info.filename.removesuffix(".npy")] = shape, fortran, dtype, offset
    except Exception as error:
        why = shorten(str(error), 300)
        raise SAEError(
            f"{path} cannot be read as an archive of arrays: {why} ({path.stat().st_size} bytes). Download it again."
        ) from error
    kept: dict[str, np.ndarray] = {}

    def part(name: str, axis: int | None, i: int) -> torch.Tensor:
        import torch

        shape, fortran, dtype, offset = headers[name]
        if offset is not None and math.prod(shape):
            array = np.memmap(path, dtype, "r", offset, shape or (1,), "F" if fortran else "C").reshape(shape)
        else:
            if name not in kept:
                with np.load(path, allow_pickle=False) as archive:
                    kept[name] = archive[name]
            array = kept[name]
        found = array if axis is None else np.take(array, i, axis)
        return torch.from_numpy(np.array(found, dtype=dtype.newbyteorder("=")))

    kinds = {name: f"{dtype.kind.upper()}{dtype.itemsize * 8}" for name, (_, _, dtype, _) in headers.items()}
    return TensorFile(path, {name: tuple(shape) for name, (shape, *_) in headers.items()}, part, kinds)


def _open_torch(path: Path) -> TensorFile:
    """Open what `torch.save` wrote: a dictionary of tensors, or one under the key "state_dict" or "model"."""
    import torch

    with open(path, "rb") as raw:
        is_saved = raw.read(2).startswith((b"PK", b"\x80"))  # an archive, or a pickle
    try:
        if not is_saved:
            raise ValueError("torch.save did not write it")
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # a file of torch before version 1.6 cannot be mapped
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise SAEError(
                f"{path} holds more than tensors, and reading it could run any code, so it is refused. Save the "
                "tensors alone: torch.save(autoencoder.state_dict(), path)."
            ) from error
        why = shorten(str(error), 300)
        raise SAEError(f"{path} cannot be read: {why} ({path.stat().st_size} bytes). Download it again.") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = (
        {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise SAEError(f"{path} holds {type(content).__name__}, where a dictionary of tensors is needed.")

    def part(name: str, axis: int | None, i: int) -> torch.Tensor:
        tensor = tensors[name].detach()
        return tensor if axis is None else tensor.select(axis, i)

    names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    kinds = {name: names.get(tensor.dtype, str(tensor.dtype)) for name, tensor in tensors.items()}
    return TensorFile(path, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, part, kinds)

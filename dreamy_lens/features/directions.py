"""Directions in activation space: immutable vectors, so that a feature with a direction can be compared and written."""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from dreamy_lens.errors import FeatureError, FeatureRangeError, quoted, shorten
from dreamy_lens.features.paths import checked_path, split_location

INLINE = "data:float32,"
"""Beginning of the text of a direction that is given as numbers."""
_WIDEST = 2**24  # numbers; no hook point of a model is as wide


class Direction:
    """Vector `[d]` in float32, given as numbers or as the file that holds it.

    Two directions are equal if their numbers have the same bits, or if they name the same file. A file is read when
    the feature is bound to a model, not before.

    Args:
        source: Sequence, array or tensor of rank 1; path of a ``.npy`` file or of a ``.safetensors`` file with one
            tensor (``file.safetensors:name`` chooses one of several); or the inline form ``data:float32,<base64>``.

    Raises:
        FeatureRangeError: The numbers are not a finite, non-zero vector.

    >>> Direction([3.0, 4.0])
    Direction([3, 4])
    >>> Direction([3.0, 4.0]) == Direction(Direction([3.0, 4.0]).text)
    True
    """

    __slots__ = ("_values", "path")

    def __init__(self, source: Any) -> None:
        self.path: str | None = None
        self._values: np.ndarray | None = None
        if isinstance(source, Direction):
            self.path, self._values = source.path, source._values
        elif isinstance(source, str) and source.startswith(INLINE):
            self._values = _checked(_decode(source), "the inline direction")
        elif isinstance(source, (str, Path)):
            if not str(source):
                raise FeatureError("A direction's file has no name; give the path of a .safetensors or .npy file.")
            self.path = str(source)
        else:
            if hasattr(source, "detach"):
                source = source.detach().float().cpu().numpy()
            try:
                numbers = np.asarray(source)
            except ValueError:  # rows of unequal lengths
                raise FeatureRangeError("the direction is not one vector of shape [d].") from None
            self._values = _checked(numbers, "the direction")

    @property
    def values(self) -> np.ndarray:
        """Return the numbers, float32 `[d]`. A direction given as a file reads the file."""
        if self._values is None:
            assert self.path is not None
            return _read(self.path)
        return self._values

    @property
    def text(self) -> str:
        """Return the path, or the numbers in the inline form. `Direction(text)` is equal to this direction."""
        if self.path is not None:
            return self.path
        assert self._values is not None
        return INLINE + base64.b64encode(self._values.astype("<f4").tobytes()).decode()

    @property
    def short(self) -> str:
        """Return a short text for titles: the name of the file, or the size and a fingerprint of the numbers."""
        if self.path is not None:
            return Path(self.path).name
        assert self._values is not None
        return f"v{len(self._values)}#{hashlib.sha256(self._values.tobytes()).hexdigest()[:6]}"

    def __eq__(self, other: object) -> bool:
        return self.text == other.text if isinstance(other, Direction) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        if self.path is not None:
            return f"Direction({self.path!r})"
        assert self._values is not None
        shown = ", ".join(f"{x:.3g}" for x in self._values[:4])
        return f"Direction([{shown}{', …' if len(self._values) > 4 else ''}])"


def _checked(values: np.ndarray, what: str) -> np.ndarray:
    _check_shape(values.shape, what)
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


def _check_shape(shape: tuple[int, ...], what: str) -> None:
    """Raise FeatureRangeError unless a direction can have this shape; called before any number is read."""
    if len(shape) != 1 or not 0 < shape[0] <= _WIDEST:
        much = f", at most {_WIDEST} numbers" if len(shape) == 1 and shape[0] else ""
        raise FeatureRangeError(f"{what} has shape {list(shape[:8])}; a direction is one vector of shape [d]{much}.")


def _decode(text: str) -> np.ndarray:
    try:
        return np.frombuffer(base64.b64decode(text[len(INLINE) :], validate=True), dtype="<f4")
    except (ValueError, binascii.Error):
        raise FeatureError(
            f"The inline direction {text[:40]!r}… is not base64 of float32 numbers. Copy the whole text of the feature "
            "again, or give a file."
        ) from None


def _read(location: str) -> np.ndarray:
    file, name = split_location(checked_path(location, "A direction's file"))
    if not file.is_file():
        raise FeatureError(f"There is no file {str(file)!r} to read a direction from (working folder: {Path.cwd()}).")
    if file.suffix == ".npy":
        try:
            values = np.load(file, mmap_mode="r", allow_pickle=False)  # a map: a header may announce any number
        except (ValueError, EOFError, OSError, OverflowError, MemoryError) as error:
            why = shorten(str(error), 300)
            raise FeatureError(
                f"{file} cannot be read as an array of numbers: {why}. Save the direction again with numpy.save."
            ) from error
        if not isinstance(values, np.ndarray):  # an archive of several arrays, whatever the name of the file
            raise FeatureError(f"{file} holds several arrays; save the direction alone: numpy.save(file, vector).")
        return _checked(values, f"{file}")
    if file.suffix != ".safetensors":
        raise FeatureError(f"A direction is read from a .safetensors or .npy file; {file.name!r} is neither.")
    from safetensors import safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            names = list(tensors.keys())
            if not name and len(names) == 1:
                name = names[0]
            if name not in names:
                listed = ", ".join(map(shorten, names[:8])) or "none"
                asked = f"no tensor {quoted(name)}" if name else "several tensors"
                raise FeatureError(f"{file} holds {asked} (it has: {listed}); write {file.name}:NAME to choose one.")
            _check_shape(tuple(tensors.get_slice(name).get_shape()), f"{file}:{name}")
            return _checked(tensors.get_tensor(name).float().numpy(), f"{file}:{name}")
    except FeatureError:
        raise
    except Exception as error:
        why = shorten(str(error), 300)
        raise FeatureError(f"{file} cannot be read as safetensors: {why}. Save the direction again.") from error

"""Directions in activation space: immutable vectors, so that a feature with a direction can be compared and written."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote as percent_encoded
from urllib.parse import unquote as percent_decoded

import numpy as np

from dreamy_lens._files import check_local
from dreamy_lens.errors import FeatureError, FeatureRangeError, quoted
from dreamy_lens.features.direction_files import TENSOR, checked_vector, read_direction
from dreamy_lens.features.paths import checked_path

INLINE = "data:float32"
"""Beginning of the text of a direction that is given as numbers; a name and an origin may follow, then a comma."""
INLINE_PATTERN = rf"{INLINE}(?:;(?:name|from)=[^,;\"]*)*,[A-Za-z0-9+/=]*"
"""Regular expression of the text of a direction that is given as numbers."""

_INLINE = re.compile(rf"{INLINE}((?:;[^,;]*)*),", re.DOTALL)
_NAME = re.compile(r"\w[\w.\-]*(?: \w[\w.\-]*)*")
_LONGEST_NAME, _LONGEST_ORIGIN = 60, 400


class Direction:
    """Vector `[d]` in float32, given as numbers or as the file that holds it.

    Two directions are equal if their numbers have the same bits and they have the same name and origin, or if they
    name the same file. A file is read when the feature is bound to a model, not before.

    Args:
        source: Sequence, array or tensor of rank 1; path of a ``.npy`` file or of a ``.safetensors`` file with one
            tensor (``file.safetensors:name`` chooses one of several); or the inline form ``data:float32,<base64>``.
        name: Name for titles and tables, of words; None shows the size and a fingerprint of the numbers.
        origin: Sentence that says what the direction was made from; None if it is not known.

    Raises:
        FeatureRangeError: The numbers are not a finite, non-zero vector.

    >>> Direction([3.0, 4.0])
    Direction([3, 4])
    >>> Direction([3.0, 4.0], name="refusal").short
    'refusal'
    >>> Direction([3.0, 4.0]) == Direction(Direction([3.0, 4.0]).text)
    True
    """

    __slots__ = ("_values", "name", "origin", "path")

    def __init__(self, source: Any, name: str | None = None, origin: str | None = None) -> None:
        self.path: str | None = None
        self.name, self.origin = _checked_name(name), _checked_origin(origin)
        self._values: np.ndarray | None = None
        if isinstance(source, Direction):
            self.path, self._values = source.path, source._values
            self.name, self.origin = self.name or source.name, self.origin or source.origin
        elif isinstance(source, str) and _INLINE.match(source):
            numbers, stated = _decode(source)
            self._values = checked_vector(numbers, "the inline direction")
            self.name = self.name or _checked_name(stated.get("name"))
            self.origin = self.origin or _checked_origin(stated.get("from"))
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
            self._values = checked_vector(numbers, "the direction")
        if self.path is not None and (self.name or self.origin):  # the text of a file is its path, without a name
            self._values, self.path = self.values, None

    @property
    def values(self) -> np.ndarray:
        """Return the numbers, float32 `[d]`. A direction given as a file reads the file."""
        if self._values is None:
            assert self.path is not None
            return read_direction(self.path)[0]
        return self._values

    @property
    def text(self) -> str:
        """Return the path, or the numbers in the inline form. `Direction(text)` is equal to this direction."""
        if self.path is not None:
            return self.path
        assert self._values is not None
        stated = "".join(
            f";{key}={percent_encoded(text, safe=_PLAIN)}"
            for key, text in (("name", self.name), ("from", self.origin))
            if text is not None
        )
        return f"{INLINE}{stated}," + base64.b64encode(self._values.astype("<f4").tobytes()).decode()

    @property
    def short(self) -> str:
        """Return a short text for titles: the name, of the file too, or the size and a fingerprint of the numbers."""
        if self.path is not None:
            return Path(self.path).name
        return self.name or f"v{len(self.values)}{self.fingerprint}"

    @property
    def described(self) -> str:
        """Return a text for tooltips: the short text, with the fingerprint and the origin if they are not in it."""
        if self.path is not None:
            return Path(self.path).name
        named = f"{self.name}{self.fingerprint}" if self.name else self.short
        return f"{named} ({self.origin})" if self.origin else named

    @property
    def fingerprint(self) -> str:
        """Return a mark of the numbers, such as "#3fb2c1", which differs for other numbers."""
        return f"#{hashlib.sha256(self.values.tobytes()).hexdigest()[:6]}"

    def cosine(self, other: Any) -> float:
        """Return the cosine of the angle between this direction and another.

        Args:
            other: Direction of the same width, in any form that a direction takes.

        Raises:
            FeatureRangeError: The two have different widths.

        >>> round(Direction([1.0, 0.0]).cosine([1.0, 1.0]), 3)
        0.707
        """
        a, b = (one.values.astype(np.float64) for one in (self, Direction(other)))
        if len(a) != len(b):
            raise FeatureRangeError(f"A direction of {len(a)} entries has no angle to one of {len(b)} entries.")
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    def save(self, path: str | Path) -> Path:
        """Write the direction to a ``.safetensors`` file, with its name and origin, and return the path.

        `dl.direction.load(path)` reads it, and the path can be written after `@` in the text of a feature.

        Raises:
            FeatureError: The path does not end in ``.safetensors``.
        """
        from safetensors.numpy import save_file

        file = checked_file(path)
        stated = {key: text for key, text in (("name", self.name), ("origin", self.origin)) if text is not None}
        partial = file.with_name(f".{file.name}.partial")
        try:
            save_file({TENSOR: np.ascontiguousarray(self.values)}, partial, metadata=stated)
            partial.replace(file)
        except OSError as error:
            raise FeatureError(f"The direction cannot be written to {file}: {error.strerror or error}.") from error
        finally:
            partial.unlink(missing_ok=True)
        return file

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype) if copy or dtype is not None else self.values

    def __eq__(self, other: object) -> bool:
        return self.text == other.text if isinstance(other, Direction) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        if self.path is not None:
            return f"Direction({self.path!r})"
        assert self._values is not None
        shown = ", ".join(f"{x:.3g}" for x in self._values[:4])
        named = f", name={self.name!r}" if self.name else ""
        made = f", origin={self.origin!r}" if self.origin else ""
        return f"Direction([{shown}{', …' if len(self._values) > 4 else ''}]{named}{made})"


_PLAIN = " ()[]:.'-/+@*#="
"""Characters of a name or origin that its text keeps as they are, besides letters and digits."""


def checked_file(path: str | Path) -> Path:
    """Return the path of a file that a direction can be saved to; raise FeatureError if its ending is another."""
    check_local(path)
    file = Path(checked_path(str(path), "A direction's file")).expanduser()
    if file.suffix != ".safetensors":
        raise FeatureError(f"A direction is saved in a .safetensors file; {file.name!r} does not end so.")
    return file


def is_direction_name(name: str) -> bool:
    """Return whether titles can show a name of a direction."""
    return len(name) <= _LONGEST_NAME and _NAME.fullmatch(name) is not None and name.isprintable()


def is_origin(origin: str) -> bool:
    """Return whether a text can be the origin of a direction: one line, not too long."""
    return 0 < len(origin) <= _LONGEST_ORIGIN and origin.isprintable()


def _checked_name(name: Any) -> str | None:
    """Return a name, or raise FeatureError if titles cannot show it."""
    if name is None or (isinstance(name, str) and is_direction_name(name)):
        return name
    raise FeatureError(
        f"A direction's name is made of words of letters, digits, '_', '-' and '.', at most {_LONGEST_NAME} "
        f'characters, such as "refusal layer 12"; got {quoted(name)}.'
    )


def _checked_origin(origin: Any) -> str | None:
    """Return an origin, or raise FeatureError if it is not one line of text."""
    if origin is None or (isinstance(origin, str) and is_origin(origin)):
        return origin
    raise FeatureError(
        f"A direction's origin is one line of at most {_LONGEST_ORIGIN} characters; got {quoted(origin)}."
    )


def _decode(text: str) -> tuple[np.ndarray, dict[str, str]]:
    """Return the numbers of an inline direction, and what it states about itself."""
    match = _INLINE.match(text)
    assert match is not None
    stated: dict[str, str] = {}
    for part in match[1].split(";")[1:]:
        key, _, value = part.partition("=")
        if key not in ("name", "from"):
            raise FeatureError(f"The inline direction states {quoted(key)}; it can state a name and from.")
        stated[key] = percent_decoded(value)
    try:
        return np.frombuffer(base64.b64decode(text[match.end() :], validate=True), dtype="<f4"), stated
    except (ValueError, binascii.Error):
        raise FeatureError(
            f"The inline direction {text[:40]!r}… is not base64 of float32 numbers. Copy the whole text of the feature "
            "again, or give a file."
        ) from None

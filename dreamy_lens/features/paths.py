"""Files and folders that features name: their absolute paths, and stamps that show a change of their content."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from dreamy_lens._files import why_no_path
from dreamy_lens.errors import FeatureError, quoted

_WITH_NAME = re.compile(r"\.(?:safetensors|pt|pth|bin)(?=:)")


def split_location(location: str) -> tuple[Path, str]:
    """Split `file.safetensors:name` or `file.pt:name` into the file and the name, which is empty if none is given.

    >>> file, name = split_location("probe.safetensors:layer 3")
    >>> str(file), name
    ('probe.safetensors', 'layer 3')
    """
    name = ""
    if why_no_path(location):
        return Path(location), name
    match = _WITH_NAME.search(location)
    if match is not None and not Path(location).expanduser().exists():
        location, name = location[: match.end()], location[match.end() + 1 :]
    return Path(location).expanduser(), name


def checked_path(location: str, what: str) -> str:
    """Return a path unchanged; raise FeatureError if no file or folder can have it, before the system is asked.

    Args:
        location: Path, as a text.
        what: Subject of the error message, as in "A direction's file".
    """
    impossible = why_no_path(location)
    if impossible is not None:
        raise FeatureError(f"{what} cannot be {quoted(location)}: {impossible}. Give another path.")
    return location


def absolute_path(location: str) -> str:
    """Return a path, or `file.safetensors:name`, made absolute if the file exists, and any other text unchanged."""
    if why_no_path(location):
        return location
    file, name = split_location(location)
    if not file.exists():
        return location
    return os.path.abspath(file) + (f":{name}" if name else "")


def file_stamps(location: str) -> bytes:
    """Return the size, times and inode number of a file, or of every file in a folder, as bytes.

    The bytes differ after a change of a file. No content is read.
    """
    if why_no_path(location):
        return location.encode("utf-8", "surrogatepass")
    place = Path(location).expanduser()
    stamps = [str(place.absolute())]
    for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
        with contextlib.suppress(OSError):
            stat = file.stat()
            stamps.append(f"{file.name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}")
    return "\n".join(stamps).encode("utf-8", "surrogatepass")

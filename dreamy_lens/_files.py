"""Files that are whole at every moment, and a cache on disk that may be removed at any time.

Functions here know nothing of the package and raise OSError; callers turn that into a sentence of their own.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

StrPath = str | os.PathLike[str]


@contextlib.contextmanager
def replacing(path: StrPath) -> Iterator[Path]:
    """Give a temporary name beside a file or folder; what the block writes there takes the place of `path` at its end.

    The name `path` stands for the old content or the new, never for something between. If the block raises, what it
    wrote is removed, and `path` is as it was before.

    Args:
        path: File to replace, or folder to make. A folder that is there already has to be empty.
    """
    place = Path(path)
    temporary = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        if temporary.is_dir() and place.is_dir():
            place.rmdir()  # fails, harmlessly, if the folder has filled up meanwhile
        os.replace(temporary, place)
    except BaseException:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise


def write_whole(path: StrPath, data: bytes) -> Path:
    """Write a file in one step, so that it lasts when this returns; the folders above it are made."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        write_synced(temporary, data)
    sync_folder(file.parent)
    return file


def write_synced(path: StrPath, data: bytes) -> None:
    """Write a file, and wait until the device has it."""
    with open(path, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: StrPath) -> None:
    """Make renames in a folder last; where folders cannot be opened (Windows), the file system sees to it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def cache_folder(*parts: str) -> Path:
    """Return a folder of the cache: below `~/.cache/dreamy_lens`, or below the variable `DREAMY_LENS_CACHE`."""
    root = os.environ.get("DREAMY_LENS_CACHE") or Path.home() / ".cache" / "dreamy_lens"
    return Path(root).expanduser().joinpath(*parts)


def cached_json(name: str, key: Any, compute: Callable[[], Any]) -> Any:
    """Return a JSON value from the cache, or compute it and keep it there.

    A cache that cannot be read or written is not an error: the value is computed.

    Args:
        name: What the file is called, followed by a digest of the key.
        key: JSON value that says what the result depends on.
        compute: Function that returns the value.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:24]
    file = cache_folder(f"{name}-{digest}.json.gz")
    with contextlib.suppress(OSError, EOFError, ValueError):  # a damaged file is made anew
        return json.loads(gzip.decompress(file.read_bytes()))
    value = compute()
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_bytes(gzip.compress(json.dumps(value).encode(), compresslevel=1))
    return value


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text as UTF-8. Tokens may hold halves of characters, which no encoding has: they become "?"."""
    Path(path).write_text(text, encoding="utf-8", errors="replace")

"""Files that are complete at every moment, and a cache on disk that may be deleted at any time.

The functions raise OSError. Their callers turn it into errors of the package.
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
    """Replace a file or folder in one step, when the `with` block ends.

    The block writes to the temporary path that it receives. That path then takes the place of `path`, so `path` has
    either its old content or its new content, and never a part. If the block raises, the temporary path is deleted and
    `path` stays unchanged.

    Args:
        path: File to replace, or folder to make. A folder that already exists must be empty.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        if temporary.is_dir() and target.is_dir():
            target.rmdir()  # raises, and so deletes nothing, if another process has written into the folder
        os.replace(temporary, target)
    except BaseException:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise


def write_whole(path: StrPath, data: bytes) -> Path:
    """Write a file in one step, and return when it is safely on disk. Missing parent folders are made.

    Args:
        path: File to write or to replace.
        data: Content of the file.
    """
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        write_synced(temporary, data)
    sync_folder(file.parent)
    return file


def write_synced(path: StrPath, data: bytes) -> None:
    """Write a file, and wait until its content is on disk."""
    with open(path, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: StrPath) -> None:
    """Wait until renames in a folder are on disk. On Windows, where folders cannot be opened, do nothing."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def cache_folder(*parts: str) -> Path:
    """Return a folder of the cache, below the folder that `DREAMY_LENS_CACHE` names, or `~/.cache/dreamy_lens`."""
    root = os.environ.get("DREAMY_LENS_CACHE") or Path.home() / ".cache" / "dreamy_lens"
    return Path(root).expanduser().joinpath(*parts)


def cached_json(name: str, key: Any, compute: Callable[[], Any]) -> Any:
    """Return a JSON value from the cache, or compute it and write it to the cache.

    A cache that cannot be read or written is not an error: the value is computed.

    Args:
        name: Name of the cache file, to which a digest of the key is added.
        key: JSON value that determines the result.
        compute: Function that returns the value.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:24]
    file = cache_folder(f"{name}-{digest}.json.gz")
    with contextlib.suppress(OSError, EOFError, ValueError):  # a damaged file is written again
        return json.loads(gzip.decompress(file.read_bytes()))
    value = compute()
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_bytes(gzip.compress(json.dumps(value).encode(), compresslevel=1))
    return value


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text as UTF-8. Lone surrogates, which tokens may contain and UTF-8 cannot encode, become "?"."""
    Path(path).write_text(text, encoding="utf-8", errors="replace")

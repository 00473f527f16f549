"""What took long to find out, kept on disk: a cache that may be removed at any time, and that never gets in the way."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any


def cache_folder(*parts: str) -> Path:
    """A folder of the cache: below `~/.cache/dreamy_lens`, or where the variable `DREAMY_LENS_CACHE` says."""
    root = os.environ.get("DREAMY_LENS_CACHE") or Path.home() / ".cache" / "dreamy_lens"
    return Path(root).expanduser().joinpath(*parts)


def remembered(name: str, key: Any, make: Callable[[], Any]) -> Any:
    """A JSON value that `make` gives, found on disk if it was made before for the same key.

    Args:
        name: of the file, for people.
        key: a JSON value that says what the value depends on.
        make: makes it.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:24]
    file = cache_folder(f"{name}-{digest}.json.gz")
    with contextlib.suppress(OSError, EOFError, ValueError):  # whatever is wrong with it, it can be made again
        return json.loads(gzip.decompress(file.read_bytes()))
    found = make()
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(gzip.compress(json.dumps(found).encode(), compresslevel=1))
        os.replace(temporary, file)
    with contextlib.suppress(OSError):
        temporary.unlink()
    return found


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text as UTF-8. Tokens may hold halves of characters, which no encoding has: they become "?"."""
    Path(path).write_text(text, encoding="utf-8", errors="replace")

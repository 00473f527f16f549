"""Lock of a folder, so that several processes and threads do not write to it at the same time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dreamy_lens import _waiting

WAIT_SECONDS = 60.0
"""Most seconds that a writer waits for another writer of the folder, without `DREAMY_LENS_TIMEOUT`."""


class FolderBusy(Exception):
    """Another process or thread holds the lock of a folder."""


@contextlib.contextmanager
def lock_folder(folder: str | os.PathLike[str], wait: bool = True) -> Iterator[None]:
    """Hold the lock of a folder, which need not exist yet.

    The lock is a hidden file beside the folder, `.NAME.lock`, which is removed at the end. The operating system frees
    the lock of a process that dies. Where the file system has no locks, or the file cannot be made, the block runs
    without one: a lock never prevents that something is written.

    Args:
        folder: Folder that the block writes to. Its parent must exist for the lock to be taken.
        wait: Whether to wait for another holder, at most :data:`WAIT_SECONDS`.

    Raises:
        FolderBusy: Another process or thread holds the lock.
    """
    import filelock

    path = Path(os.path.realpath(folder))
    lock: Any = None
    for file in (path.with_name(f".{path.name[:40]}.lock") if path.name else path / ".lock", path / ".lock"):
        candidate = filelock.FileLock(file, thread_local=False)
        seconds = _waiting.limit(WAIT_SECONDS) if wait else 0.0
        try:
            with _waiting.announced(f"Waiting for another process that writes to {str(path)!r}", seconds):
                candidate.acquire(timeout=seconds, poll_interval=0.02)
        except filelock.Timeout:
            raise FolderBusy(f"another process has been writing to {str(path)!r} for {seconds:g} seconds") from None
        except (OSError, NotImplementedError, ValueError):
            continue
        lock = candidate
        break
    try:
        yield
    finally:
        if lock is not None:
            # The file is removed while the lock is held: a process that opened it before sees that its name is gone.
            with contextlib.suppress(OSError):
                os.unlink(lock.lock_file)
            lock.release()

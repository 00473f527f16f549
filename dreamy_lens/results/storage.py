"""Storage of runs: a folder with run.json and arrays.safetensors that can be read at every moment.

A new folder is written under a temporary name beside its final place and then renamed. To replace an older run, the new
arrays are first written under a name of their own. Replacing run.json, a single step of the file system, makes them
valid. Then they get the usual name. If the process stops at any point, the folder holds either the older or the newer
run. Other files in the folder are never changed. Writers in other processes and threads take turns, with a lock.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dreamy_lens import _files
from dreamy_lens._files import FAILURES, StrPath, failure_of
from dreamy_lens._folder_lock import FolderBusy, lock_folder
from dreamy_lens.errors import RunFolderError

FORMAT = "dreamy_lens run"
VERSION = 1
RUN, ARRAYS = "run.json", "arrays.safetensors"


_ABANDONED = 3600.0  # seconds after which arrays that no run.json names are taken for the rest of a save that failed

Check = Callable[[dict[str, Any], dict[str, np.ndarray]], None]


def write_folder(
    path: StrPath,
    meta: dict[str, Any],
    arrays: dict[str, np.ndarray],
    overwrite: bool = False,
    check: Check | None = None,
) -> Path:
    """Write a run folder.

    Args:
        path: Folder to write.
        meta: JSON values that describe the run.
        arrays: Numeric arrays of any shape, by name.
        overwrite: Whether to replace a run that is already in the folder.
        check: Function that is called with the JSON values and arrays of the run that is to be replaced, and that
            raises RunFolderError if it must stay. A damaged run is replaced without a check.

    Returns:
        Path of the folder.

    Raises:
        RunFolderError: The folder holds a run and `overwrite` is false, the path is not a run folder, the folder cannot
            be written, or another process has been writing to it for a minute. Nothing is changed.
    """
    from safetensors.numpy import save

    folder = _files.expanded(path)
    # safetensors writes the memory of an array without regard to strides, so arrays must be contiguous.
    data = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    digest = hashlib.sha256(data).hexdigest()
    head = {"format": FORMAT, "version": VERSION, "arrays": {"file": ARRAYS, "bytes": len(data), "sha256": digest}}
    text = json.dumps({**head, "meta_sha256": _fingerprint(meta), "meta": meta}, indent=1).encode("ascii")
    try:
        _check_kind(folder, overwrite)
        Path(os.path.realpath(folder)).parent.mkdir(parents=True, exist_ok=True)
        with lock_folder(folder):
            if _check_kind(folder, overwrite) == "missing":
                _create(folder, text, data)
            else:
                _check_run(folder, check)
                _replace(folder, text, data, digest)
    except FolderBusy as error:
        raise RunFolderError(f"The run cannot be saved: {error}. Save it in another folder, or later.") from None
    except FAILURES as error:
        raise RunFolderError(f"The run cannot be saved in {_quoted(folder)}: {failure_of(error)}") from error
    return folder


def _check_kind(folder: Path, overwrite: bool) -> str:
    """Return what is at a path, "missing" or "run"; raise RunFolderError if no run may be written there."""
    kind = _kind(folder)
    if kind == "other":
        raise RunFolderError(
            f"{_quoted(folder)} exists and is not a run folder{_contents(folder)}; choose another name."
        )
    if kind == "run" and not overwrite:
        raise RunFolderError(f"{_quoted(folder)} holds a run already; choose another name, or pass overwrite=True.")
    return kind


def _check_run(folder: Path, check: Check | None) -> None:
    """Call a check with the run in a folder, unless that is damaged."""
    if check is None:
        return
    try:
        old = read_folder(folder)
    except RunFolderError:
        return
    check(*old)


def read_folder(path: StrPath) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a run folder that :func:`write_folder` wrote.

    Returns:
        JSON values that describe the run, and its arrays by name.

    Raises:
        RunFolderError: The folder is missing, is not a run folder, is truncated or altered, or has a newer format.
    """
    from safetensors.numpy import load

    folder = _files.expanded(path)
    if not folder.is_dir():
        raise RunFolderError(f"There is no folder {_quoted(folder)}.{_neighbours(folder)}")
    if not (folder / RUN).is_file():
        raise RunFolderError(f"{_quoted(folder)} is not a run folder: it has no {RUN}{_contents(folder)}.")
    head, data = _read_pair(folder)
    try:
        return head["meta"], load(data)
    except (
        Exception
    ) as error:  # safetensors has its own type of exception; the checksum is right, so the file was written badly
        raise RunFolderError(
            f"The arrays of the run in {_quoted(folder)} cannot be read: {error}. Save the run again."
        ) from None


def write_json(path: StrPath, content: dict[str, Any]) -> Path:
    """Write one JSON file, replace an older file in a single step, and return the path."""
    # ASCII, because tokens may hold half characters, which have no UTF-8 form.
    return _files.write_whole(path, json.dumps(content).encode("ascii"))


def read_json(path: StrPath, form: str) -> dict[str, Any]:
    """Read a JSON file that :func:`write_json` wrote.

    Args:
        path: File to read.
        form: Value of the entry `format` that the file must have.

    Raises:
        RunFolderError: The file is missing, damaged, of another format, or of a newer version.
    """
    file = _files.expanded(path)
    if not file.is_file():
        raise RunFolderError(f"There is no file {_quoted(file)}.")
    try:
        content = json.loads(file.read_bytes())
    except ValueError:
        raise RunFolderError(
            f"{_quoted(file)} is not complete JSON: it was truncated or altered. Copy the file again from an intact "
            "one."
        ) from None
    format_in_file = content.get("format") if isinstance(content, dict) else None
    if format_in_file != form:
        kind = f"says it is {format_in_file!r}" if format_in_file else "says nothing about its format"
        raise RunFolderError(f"{_quoted(file)} is not a {form} file: it {kind}.")
    version = content.get("version")
    if not isinstance(version, int):
        raise RunFolderError(
            f"{_quoted(file)} says nothing about its version: it was altered. Copy the file again from an intact one."
        )
    if version > VERSION:
        raise RunFolderError(
            f"{_quoted(file)} has format version {version}, and this dreamy_lens reads up to {VERSION}: "
            "a newer dreamy_lens wrote it. Update with `pip install -U dreamy-lens`."
        )
    return content


def _create(folder: Path, text: bytes, data: bytes) -> None:
    """Write a new run folder with the content of run.json and of the arrays."""
    folder = Path(os.path.realpath(folder))
    with _files.replacing(folder) as temporary:
        temporary.mkdir()
        _files.write_synced(temporary / ARRAYS, data)
        _files.write_synced(temporary / RUN, text)
        _files.sync_folder(temporary)
    _files.sync_folder(folder.parent)


def _replace(folder: Path, text: bytes, data: bytes, digest: str) -> None:
    """Replace the run in a folder, such that it can be read at every moment."""
    _finish_replacing(folder)
    pending = folder / _pending(digest)
    try:
        _files.write_synced(pending, data)
        _files.sync_folder(folder)
        _files.write_whole(folder / RUN, text)  # from here on the folder holds the new run
    except Exception:
        with suppress(OSError):
            pending.unlink()
        raise
    os.replace(pending, folder / ARRAYS)
    for leftover in folder.glob(f"arrays-{'?' * 16}.safetensors"):  # of saves that did not finish
        # A writer on a machine that does not see this lock may be writing a new one.
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _ABANDONED:
                leftover.unlink()
    _files.sync_folder(folder)


def _finish_replacing(folder: Path) -> None:
    """Give the arrays of the run their usual name, if a process that saved them ended before it could."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        named = folder / _pending(json.loads((folder / RUN).read_bytes())["arrays"]["sha256"])
        if named.is_file() and hashlib.sha256(named.read_bytes()).hexdigest().startswith(named.stem[7:]):
            os.replace(named, folder / ARRAYS)


def _pending(digest: str) -> str:
    """Return the name of a file of arrays before run.json makes it valid."""
    return f"arrays-{digest[:16]}.safetensors"


def _read_pair(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Return the content of run.json, and the bytes of the arrays that belong to it."""
    error, before, tries = None, None, 0
    while tries < 3:  # another process may save the run between the two readings
        head = read_json(folder / RUN, FORMAT)
        try:
            size, digest = int(head["arrays"]["bytes"]), str(head["arrays"]["sha256"])
            head["meta"].keys()
        except (KeyError, TypeError, AttributeError, ValueError):
            raise RunFolderError(
                f"The {RUN} of {_quoted(folder)} was altered: parts of it are missing. Copy the folder again from an "
                "intact one."
            ) from None
        if head.get("meta_sha256") not in (None, _fingerprint(head["meta"])):  # runs of early versions have no checksum
            raise RunFolderError(
                f"The {RUN} of {_quoted(folder)} was altered: its content does not match its checksum. Undo the "
                "change, or copy the folder again from an intact one."
            )
        tries = tries + 1 if digest == before else 0
        before = digest
        for name in (ARRAYS, _pending(digest)):
            try:
                data = (folder / name).read_bytes()
            except FileNotFoundError:
                error = error or f"it has no {ARRAYS}"
                continue
            if hashlib.sha256(data).hexdigest() == digest:
                return head, data
            damage = "truncated" if len(data) < size else "altered"
            error = f"{ARRAYS} is {damage} ({len(data):,} bytes, and {RUN} says {size:,})"
            if len(data) == size:
                error = f"{ARRAYS} is altered (its checksum is not the one in {RUN})"
    raise RunFolderError(f"The run in {_quoted(folder)} is damaged: {error}. Copy the folder again from an intact one.")


def _fingerprint(meta: dict[str, Any]) -> str:
    """Return the SHA-256 of JSON values, independent of their layout in the file."""
    plain = json.loads(json.dumps(meta))  # turns keys into text, so that they sort
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def _kind(folder: Path) -> str:
    """Return what is at a path: "missing" (or an empty folder), "run", or "other"."""
    if not os.path.lexists(folder):
        return "missing"
    if not folder.is_dir():
        return "other"
    if not any(folder.iterdir()):
        return "missing"
    try:
        head = json.loads((folder / RUN).read_bytes())
    except FileNotFoundError:
        return "other"
    except ValueError:
        return "run"  # a damaged run is still a run, and saving over it repairs it
    return "run" if isinstance(head, dict) and head.get("format") == FORMAT else "other"


def _quoted(path: Path) -> str:
    """Return a path in quotes for a message."""
    return repr(str(path))


def _contents(folder: Path) -> str:
    """Describe the content of a path for a message."""
    if not folder.is_dir():
        return " but a file"
    names = sorted(p.name for p in folder.iterdir())
    if not names:
        return " (it is empty)"
    return f" (it contains {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''})"


def _neighbours(folder: Path) -> str:
    """Name the runs beside a missing folder for a message."""
    if folder.is_file():
        return " It is a file; a run is a folder."
    with suppress(OSError):
        runs = sorted(p.name for p in folder.parent.iterdir() if (p / RUN).is_file())
        if runs:
            where = "here" if folder.parent == Path(".") else f"in {_quoted(folder.parent)}"
            return f" Runs {where}: {', '.join(runs[:6])}{' ...' if len(runs) > 6 else ''}."
    return ""

"""Files that are complete at every moment, and a cache on disk that may be deleted at any time.

:func:`write_text` and :func:`write_file` raise errors of the package. The other functions raise OSError, and their
callers turn it into errors of the package with :func:`explain`.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dreamy_lens.errors import FileWriteError

StrPath = str | os.PathLike[str]

FAILURES = (OSError, ValueError, RuntimeError)
"""Errors of writing to a path: ValueError for a NUL character in it, RuntimeError for `~` without a home."""

_REMEDIES = {
    errno.ENOSPC: "Make room, or choose a folder on another disk.",
    getattr(errno, "EDQUOT", errno.ENOSPC): "Make room, or choose a folder on another disk.",
    errno.EFBIG: "Choose a folder on another disk.",
    errno.EROFS: "Choose a folder where you may write.",
    errno.EACCES: "Choose a folder where you may write.",
    errno.EPERM: "Choose a folder where you may write.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ENOTDIR: "A part of the path is a file: choose a path whose folders are folders.",
    errno.EEXIST: "A part of the path is a file: choose a path whose folders are folders.",
    errno.EISDIR: "It is a folder: choose another name for the file.",
    errno.ENOTEMPTY: "It is a folder with files in it: choose another name.",
}


def expanded(path: StrPath) -> Path:
    """Return a path with "~" replaced by the home folder. A path of a user who does not exist stays as it is.

    >>> expanded("runs/L2.N17").parts
    ('runs', 'L2.N17')
    """
    return Path(os.path.expanduser(path))


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+:/")


def check_local(path: StrPath) -> None:
    """Raise FileWriteError if a path is a URL, of which a folder such as "s3:" would be made on this machine.

    >>> check_local("runs/L2.N17")
    """
    text = os.fspath(path)
    if _URL.match(text):
        raise FileWriteError(
            f"{text[:300]!r} is a URL, and this is written to a folder of this machine: name one, and copy it. Sweeps "
            "and scans write to URLs: sweep(features, out=URL), max_activating(features, out=URL)."
        )


@contextlib.contextmanager
def replacing(path: StrPath, full: bool = False) -> Iterator[Path]:
    """Replace a file or folder in one step, when the `with` block ends.

    The block writes to the temporary path that it receives. That path then takes the place of `path`, so `path` has
    either its old content or its new content, and never a part. If the block raises, the temporary path is deleted and
    `path` stays unchanged.

    Args:
        path: File to replace, or folder to make. A folder that already exists must be empty, unless `full`.
        full: Whether to replace a folder with files in it. It is moved aside under a hidden name beside `path`, and
            deleted when the new one is in its place; a process that dies between the two leaves both.
    """
    check_local(path)
    target = Path(path)
    # Only the beginning of the name, so that every name that the file system takes has a temporary name, too.
    temporary = target.with_name(f".{target.name[:32]}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        if full and temporary.is_dir() and target.is_dir():
            _exchange(temporary, target)
            return
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


def _exchange(new: Path, target: Path) -> None:
    """Put a new folder in the place of an older one, and delete the older one."""
    aside = target.with_name(f".{target.name[:32]}.{secrets.token_hex(4)}.old.tmp")
    os.rename(target, aside)
    try:
        os.rename(new, target)
    except BaseException:
        os.rename(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def write_whole(path: StrPath, data: bytes) -> Path:
    """Write a file in one step, and return when it is safely on disk. Missing parent folders are made.

    Args:
        path: File to write or to replace.
        data: Content of the file.
    """
    check_local(path)
    file = expanded(path)
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


def write_file(path: StrPath, data: bytes) -> Path:
    """Write a file for the user: a page, a figure, a table.

    A file is replaced in one step, and nothing remains of a write that fails. A link is followed; a device, such as
    `/dev/stdout`, is written to. Missing parent folders are made.

    Args:
        path: File to write or to replace.
        data: Content of the file.

    Returns:
        Path of the file.

    Raises:
        FileWriteError: The file cannot be written; the message says why, and what to do.
    """
    check_local(path)
    try:
        file = Path(path).expanduser()
        target = Path(os.path.realpath(file))
        # `/dev/stdout` may be a link to a file that the shell has opened: to replace that would hide what is printed.
        is_device = file.absolute().parts[1:2] == ("dev",) or not (target.is_file() or target.is_dir())
        if is_device and file.exists():
            with open(file, "ab") as stream:
                stream.write(data)
            return file
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            write_synced(temporary, data)
            with contextlib.suppress(OSError):
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
        return file
    except FAILURES as error:
        raise FileWriteError(f"The file {os.fspath(path)[:300]!r} cannot be written: {failure_of(error)}") from error


def write_text(path: StrPath, text: str) -> Path:
    """Write a text as UTF-8; see :func:`write_file`.

    Lone surrogates, which tokens may contain and UTF-8 cannot encode, become "?".
    """
    return write_file(path, text.encode("utf-8", "replace"))


KINDS = {
    **dict.fromkeys(("svg", "png", "pdf", "jpg", "jpeg", "webp", "gif", "eps"), "a picture"),
    **dict.fromkeys(("html", "htm"), "a page"),
    **dict.fromkeys(("csv", "tsv", "xlsx", "xls", "parquet", "feather"), "a table"),
    **dict.fromkeys(("json", "jsonl"), "JSON"),
    **dict.fromkeys(("txt", "md", "tex", "docx"), "a text"),
    **dict.fromkeys(("npy", "npz", "safetensors", "pt", "pth", "pkl", "pickle"), "arrays"),
    **dict.fromkeys(("zip", "gz", "tar"), "an archive"),
}
"""What the endings of file names stand for; other endings, such as the one of "pythia-1.4b", stand for nothing."""

PAGES = ("html", "htm")
TABLES = ("csv",)


def ending_of(path: StrPath) -> str:
    """Return the ending of a name in lower case, if it stands for a format of files, or else "".

    >>> ending_of("figures/L2.N17.SVG"), ending_of("runs/L2.N17")
    ('svg', '')
    """
    ending = os.path.splitext(os.fspath(path))[1][1:].lower()
    return ending if ending in KINDS else ""


def check_ending(path: StrPath, endings: tuple[str, ...], what: str, instead: str = "") -> None:
    """Check that the name of a file does not promise another format than the one that is written.

    Args:
        path: File that will be written. A name without a known ending, such as `/dev/stdout`, promises nothing.
        endings: Endings, without the dot, of the format that is written; none if a folder is written.
        what: What is written, as in "a page".
        instead: Sentence that says what writes the promised format; "" if nothing does.

    Raises:
        FileWriteError: The name ends in the ending of another format.
    """
    ending = ending_of(path)
    if ending and ending not in endings:
        *others, last = [f".{name}" for name in endings] or [""]
        names = f"{', '.join(others)} or {last}" if others else last
        remedy = f"end the name in {names}" if endings else "leave the ending out"
        raise FileWriteError(
            f"{os.fspath(path)[:300]!r} ends in .{ending}, which stands for {KINDS[ending]}, and {what} is written "
            f"there; {remedy}.{f' {instead}' if instead else ''}"
        )


def check_page(path: StrPath, instead: str = "") -> None:
    """Check, before a page is made, that it can be written to a file whose name does not promise another format.

    Args:
        path: File that will be written.
        instead: Sentence that says what writes other formats.

    Raises:
        FileWriteError: The file cannot be written, or the name promises another format.
    """
    check_ending(path, PAGES, "a page", instead)
    if os.fspath(path).endswith("/"):
        raise FileWriteError(f"{os.fspath(path)[:300]!r} names a folder, and a page is one file; leave the last / out.")
    check_file(path)


def check_folder_name(folder: StrPath, what: str, instead: str = "") -> None:
    """Check that the name of a new folder is not that of a file: "run.html" would become a folder.

    Args:
        folder: Folder that will be written. A folder that exists may have any name.
        what: What is written, as in "a run".
        instead: Sentence that says what writes files.

    Raises:
        FileWriteError: The name ends like that of a file, or is a URL.
    """
    check_local(folder)
    if not os.path.isdir(expanded(folder)):
        check_ending(folder, (), f"{what}, which is a folder,", instead)


def check_file(path: StrPath) -> None:
    """Check, before a long computation, that :func:`write_file` can write a file.

    Args:
        path: File that will be written.

    Raises:
        FileWriteError: The file cannot be written; the message says why, and what to do.
    """
    check_local(path)
    try:
        target = Path(os.path.realpath(Path(path).expanduser()))
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if target.is_file() or not os.path.lexists(target):
            with contextlib.suppress(FileNotFoundError):
                os.lstat(target)  # raises another error if, for example, the name is too long
            check_writable(target.parent)
    except FAILURES as error:
        raise FileWriteError(f"The file {os.fspath(path)[:300]!r} cannot be written: {failure_of(error)}") from error


def why_no_path(text: str) -> str | None:
    """Return why a text cannot be the path of a file or folder, or None if it can; the system is not asked.

    >>> why_no_path("a" * 300), why_no_path("models/gpt2")
    ('a part of it is longer than 255 bytes', None)
    """
    if "\0" in text:
        return "it contains a NUL character"
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded) > 4000 or any(len(part) > 255 for part in encoded.split(b"/")):
        return "it is longer than 4,000 bytes" if len(encoded) > 4000 else "a part of it is longer than 255 bytes"
    try:
        Path(text).expanduser()
    except RuntimeError:
        return "there is no such user"
    return None


def failure_of(error: BaseException) -> str:
    """Return the reason why a file or folder could not be written, and a remedy, as sentences.

    >>> failure_of(OSError(errno.EROFS, "Read-only file system"))
    'Read-only file system. Choose a folder where you may write.'
    >>> failure_of(ValueError("embedded null byte"))
    'embedded null byte. Choose another name.'
    """
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        return f"{reason.rstrip('.')}. {_REMEDIES.get(error.errno or 0, 'Choose another folder.')}"
    return f"{str(error).rstrip('.')}. Choose another name."


def check_writable(folder: StrPath) -> None:
    """Raise an error of :data:`FAILURES` unless a file can be made in a folder, or the folder itself can be made.

    Args:
        folder: Folder, which need not exist.
    """
    check_local(folder)
    # Permission bits do not decide everything, so try to create a folder in the nearest parent that exists.
    path = Path(os.path.realpath(expanded(folder)))
    for parent in (path, *path.parents):
        try:
            os.lstat(parent)  # raises another error if, for example, a name is too long
        except FileNotFoundError:
            continue
        os.rmdir(tempfile.mkdtemp(prefix=".dreamy_lens.", dir=parent))
        return


def cache_folder(*parts: str) -> Path:
    """Return a folder of the cache, below the folder that `DREAMY_LENS_CACHE` names, or `~/.cache/dreamy_lens`.

    Without a home folder, the cache is in the folder for temporary files.
    """
    try:
        root = Path(os.environ.get("DREAMY_LENS_CACHE") or Path.home() / ".cache" / "dreamy_lens").expanduser()
    except RuntimeError:
        root = Path(tempfile.gettempdir()) / "dreamy_lens"
    return root.joinpath(*parts)


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
    with contextlib.suppress(*FAILURES, EOFError, zlib.error):  # a damaged file is written again
        return json.loads(gzip.decompress(file.read_bytes()))
    value = compute()
    with contextlib.suppress(*FAILURES):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_bytes(gzip.compress(json.dumps(value).encode(), compresslevel=1))
    return value

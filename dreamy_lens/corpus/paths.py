"""The files of a corpus, found by path, folder, glob pattern, or a URL that fsspec can open."""

from __future__ import annotations

import glob
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamy_lens.corpus.problems import Problem, Problems
from dreamy_lens.corpus.remote import RemoteFile, patiently
from dreamy_lens.errors import CorpusError, WaitError, close_names, quoted

FORMATS = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
}
COMPRESSIONS = (".gz", ".zst")

# File systems name the entry that changes with a file's content differently.
_STAMPS = (
    "ETag",
    "etag",
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
    "created",
    "md5Hash",
)


@dataclass(frozen=True)
class File:
    """A file that can be read.

    Attributes:
        name: Name to show, relative to the folder that the user gave.
        path: Absolute path, or URL.
        size: Size as stored, in bytes.
        stamp: Text that changes when the content changes, as far as the file system knows.
        options: Options that fsspec needs to open a URL.
    """

    name: str
    path: str
    size: int
    stamp: str
    options: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def remote(self) -> bool:
        """True if the path is a URL."""
        return is_url(self.path)

    @property
    def format(self) -> str:
        """Format of the file: "text", "json" or "parquet"."""
        return _format(self.name)[0] or "text"

    @property
    def compression(self) -> str:
        """Suffix of the compression, such as ".gz"; empty if the file is not compressed."""
        return _format(self.name)[1]

    def open(self) -> Any:
        """Open the file for reading and seeking in its stored bytes.

        Raises:
            OSError: The file cannot be opened.
        """
        if not self.remote:
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise OSError("it is a pipe or a device, not a file")  # to open it could wait for ever
            return open(self.path, "rb")
        import fsspec

        opened: Any = fsspec.open(self.path, "rb", **self.options)
        return RemoteFile(self.path, patiently(self.path, opened.open))


def is_url(source: str) -> bool:
    """Return whether a source is a URL, such as `s3://bucket/folder`."""
    return "://" in source


def is_glob(source: str) -> bool:
    """Return whether a source is a glob pattern. In a URL a question mark begins the query, so only `*` counts."""
    return any(c in source for c in ("*" if is_url(source) else "*?["))


def find_files(source: str, options: dict[str, Any]) -> tuple[str, list[File], Problems]:
    """Find the files that a path, a folder, a pattern or a URL stands for, sorted by name.

    The search skips hidden files and folders. It also skips files of unknown formats, and counts them as problems.

    Args:
        source: Path, folder, pattern or URL to look at.
        options: Options of fsspec for a URL.

    Returns:
        A name for messages, the files, and the problems.

    Raises:
        CorpusError: The source does not exist, or no file in it can be read.
    """
    problems = Problems()
    is_single, candidates = (_remote if is_url(source) else _local)(source, options, problems)
    if is_single:
        (file,) = candidates
        if not _format(file.name)[0]:
            raise CorpusError(f"{source} has a format that cannot be read. {_readable()}")
        return file.name, candidates, problems
    files = []
    for file in candidates:
        if _format(file.name)[0]:
            files.append(file)
        else:
            problems.add(Problem(file.name, f"{Path(file.name).suffix or 'no suffix'}", "unknown format"))
    if not files:
        skipped = f" Other files: {problems}." if problems else ""
        raise CorpusError(f"There are no files with text in {source}. {_readable()}{skipped}")
    label = source if is_glob(source) else f"folder {source.rstrip('/')}/"
    return f"{label} ({len(files)} file{'s' * (len(files) != 1)})", files, problems


def _readable() -> str:
    """Return a sentence that names the suffixes of readable files."""
    compressions = " or ".join(COMPRESSIONS)
    return f"Readable files end in {', '.join(FORMATS)}; {compressions} may follow each of them but .parquet."


def _format(name: str) -> tuple[str | None, str]:
    """Return the format and the compression of a file, judged by its name; None for a format that cannot be read."""
    stem, suffix = os.path.splitext(name.lower())
    compression = ""
    if suffix in COMPRESSIONS:
        compression, suffix = suffix, os.path.splitext(stem)[1]
    kind = FORMATS.get(suffix)
    return (None if compression and kind == "parquet" else kind), compression


def _hidden(name: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def _local(source: str, _: dict[str, Any], problems: Problems) -> tuple[bool, list[File]]:
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        return False, _walk(path, problems)
    if os.path.exists(path):
        if not os.path.isfile(path):
            raise CorpusError(
                f"{quoted(source, 300)} is a pipe or a device; save what it gives as a file, and name that."
            )
        return True, [local_file(path, os.path.basename(path))]
    if not is_glob(path):
        raise CorpusError(f"There is no file or folder {quoted(source, 300)}. {_beside(path)}")
    names = sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))
    if not names:
        raise CorpusError(f"No file matches {quoted(source, 300)}. {_beside(path)}")
    root = os.path.commonpath([os.path.dirname(name) for name in names])
    return False, [local_file(name, os.path.relpath(name, root).replace(os.sep, "/")) for name in names]


def _walk(root: str, problems: Problems) -> list[File]:
    def add_problem(error: OSError) -> None:
        name = os.path.relpath(str(error.filename), root).replace(os.sep, "/")
        problems.add(Problem(f"{name}/", error.strerror or str(error), "unreadable file"))

    files = []
    for folder, subfolders, names in os.walk(root, onerror=add_problem):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            path = os.path.join(folder, name)
            if not name.startswith("."):
                files.append(local_file(path, os.path.relpath(path, root).replace(os.sep, "/")))
    return sorted(files, key=lambda file: file.name)


def local_file(path: str, name: str) -> File:
    """Return a file of this machine.

    Args:
        path: Path of the file.
        name: Name to show.
    """
    try:
        status = os.stat(path)
    except OSError:  # a broken link; reading it reports the problem
        return File(name, os.path.abspath(path), 0, "")
    # A copy may keep the modification time of the original, but it has its own status change time and inode.
    stamp = f"{status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
    return File(name, os.path.abspath(path), status.st_size, stamp)


def _remote(source: str, options: dict[str, Any], problems: Problems) -> tuple[bool, list[File]]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(source, **options)
        info = None if is_glob(source) else patiently(source, lambda: system.info(path))
        is_single = info is not None and info["type"] != "directory"
        if info is None:
            entries = patiently(source, lambda: system.glob(path, detail=True))
            root = path.split("*")[0].rpartition("/")[0]
        elif is_single:
            entries, root = {path: info}, path.rpartition("/")[0]
        else:
            entries, root = patiently(source, lambda: system.find(path, detail=True)), path
    except WaitError:
        raise
    except FileNotFoundError:
        raise CorpusError(f"There is nothing at {quoted(source, 300)}. Check the URL.") from None
    except Exception as error:  # an unknown protocol, no connection, no permission: each driver raises its own types
        raise CorpusError(f"{quoted(source, 300)} cannot be opened: {type(error).__name__}: {error}") from error
    files = []
    for path, info in sorted(entries.items()):
        name = path.removeprefix(root).lstrip("/").partition("?")[0] or path
        if info.get("type", "file") == "directory" or _hidden(name):
            continue
        stamp = next((str(info[key]) for key in _STAMPS if info.get(key)), "")
        files.append(File(name, system.unstrip_protocol(path), int(info.get("size") or 0), stamp, options))
    if not files:
        raise CorpusError(f"There are no files at {quoted(source, 300)}. Check the URL.")
    return is_single, files


def _beside(path: str) -> str:
    """Return a sentence on what the folder of a missing path contains, most similar names first."""
    folder = os.path.dirname(path.split("*")[0] if is_glob(path) else path) or "."
    while folder and not os.path.isdir(folder):
        folder = os.path.dirname(folder) or "."
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return f"The folder {folder} cannot be read."
    similar = close_names(os.path.basename(path), names, 8, 0.5)
    shown = [*similar, *(name for name in names if name not in similar)][:8]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"In {folder} there {'is nothing' if not names else 'are: ' + ', '.join(shown) + more}."

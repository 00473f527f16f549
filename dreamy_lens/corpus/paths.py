"""Finding the files of a corpus: paths, folders, globs, and URLs of whatever fsspec knows."""

from __future__ import annotations

import difflib
import glob
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamy_lens.corpus.problems import Problem, Problems
from dreamy_lens.errors import CorpusError

FORMATS = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
}
COMPRESSIONS = (".gz", ".zst")

_STAMPS = (
    "ETag",
    "etag",
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
    "created",
    "md5Hash",
)  # as stores say it


@dataclass(frozen=True)
class File:
    """A file that can be read.

    Attributes:
        name: for people, relative to the folder that was asked for.
        path: absolute, or a URL.
        size: in bytes, as stored.
        stamp: changes when the content does, as far as the file system knows.
        options: what fsspec needs to open a URL.
    """

    name: str
    path: str
    size: int
    stamp: str
    options: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def remote(self) -> bool:
        """Whether it is a URL."""
        return is_url(self.path)

    @property
    def format(self) -> str:
        """How it is read: "text", "json" or "parquet"."""
        return _format(self.name)[0] or "text"

    @property
    def compression(self) -> str:
        """Its suffix, or nothing."""
        return _format(self.name)[1]

    def open(self) -> Any:
        """The file's bytes, from the start, for reading and seeking.

        Raises:
            OSError: it cannot be opened.
        """
        if not self.remote:
            return open(self.path, "rb")
        import fsspec

        opened: Any = fsspec.open(self.path, "rb", **self.options)
        return opened.open()


def is_url(source: str) -> bool:
    """Whether a source is a URL, as s3://bucket/folder."""
    return "://" in source


def is_glob(source: str) -> bool:
    """Whether a source is a pattern; a question mark in a URL is none."""
    return any(c in source for c in ("*" if is_url(source) else "*?["))


def find_files(source: str, options: dict[str, Any]) -> tuple[str, list[File], Problems]:
    """Find the files that a path, a folder, a pattern or a URL stands for, sorted by name.

    Hidden files and folders are passed over. Files of unknown formats are, too, and counted.

    Args:
        source: Path, folder, pattern or URL to look at.
        options: Options of fsspec for a URL.

    Returns:
        A name for messages, the files, and what was passed over.

    Raises:
        CorpusError: there is nothing there, or nothing that can be read.
    """
    problems = Problems()
    single, found = (_remote if is_url(source) else _local)(source, options, problems)
    if single:
        (file,) = found
        if not _format(file.name)[0]:
            raise CorpusError(f"{source} is not of a format that can be read. {_readable()}")
        return file.name, found, problems
    files = []
    for file in found:
        if _format(file.name)[0]:
            files.append(file)
        else:
            problems.add(Problem(file.name, f"{Path(file.name).suffix or 'no suffix'}", "unknown format"))
    if not files:
        rest = f" What there is: {problems}." if problems else ""
        raise CorpusError(f"There are no files with text in {source}. {_readable()}{rest}")
    what = source if is_glob(source) else f"folder {source.rstrip('/')}/"
    return f"{what} ({len(files)} file{'s' * (len(files) != 1)})", files, problems


def _readable() -> str:
    return f"Files end in {', '.join(FORMATS)}, all but .parquet perhaps with {' or '.join(COMPRESSIONS)} behind it."


def _format(name: str) -> tuple[str | None, str]:
    """How a file is read, by its name, and how it is compressed."""
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
        return True, [local_file(path, os.path.basename(path))]
    if not is_glob(path):
        raise CorpusError(f"There is no file or folder {source!r}. {_beside(path)}")
    names = sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))
    if not names:
        raise CorpusError(f"No file matches {source!r}. {_beside(path)}")
    root = os.path.commonpath([os.path.dirname(name) for name in names])
    return False, [local_file(name, os.path.relpath(name, root).replace(os.sep, "/")) for name in names]


def _walk(root: str, problems: Problems) -> list[File]:
    def failed(error: OSError) -> None:
        name = os.path.relpath(str(error.filename), root).replace(os.sep, "/")
        problems.add(Problem(f"{name}/", error.strerror or str(error), "unreadable file"))

    found = []
    for folder, inner, names in os.walk(root, onerror=failed):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in names:
            path = os.path.join(folder, name)
            if not name.startswith("."):
                found.append(local_file(path, os.path.relpath(path, root).replace(os.sep, "/")))
    return sorted(found, key=lambda file: file.name)


def local_file(path: str, name: str) -> File:
    """A file of this machine."""
    try:
        status = os.stat(path)
    except OSError:  # a link to nothing; reading it will say so
        return File(name, os.path.abspath(path), 0, "")
    # Copies keep the time of the last change, but not that of the entry in the folder.
    stamp = f"{status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
    return File(name, os.path.abspath(path), status.st_size, stamp)


def _remote(source: str, options: dict[str, Any], problems: Problems) -> tuple[bool, list[File]]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(source, **options)
        info = None if is_glob(source) else system.info(path)
        single = info is not None and info["type"] != "directory"
        if info is None:
            found, root = system.glob(path, detail=True), path.split("*")[0].rpartition("/")[0]
        elif single:
            found, root = {path: info}, path.rpartition("/")[0]
        else:
            found, root = system.find(path, detail=True), path
    except FileNotFoundError:
        raise CorpusError(f"There is nothing at {source!r}.") from None
    except Exception as error:  # a store that is unknown, out of reach, or wants a password; each raises its own
        raise CorpusError(f"{source!r} cannot be opened: {type(error).__name__}: {error}") from error
    files = []
    for path, info in sorted(found.items()):
        name = path.removeprefix(root).lstrip("/").partition("?")[0] or path
        if info.get("type", "file") == "directory" or _hidden(name):
            continue
        stamp = next((str(info[key]) for key in _STAMPS if info.get(key)), "")
        files.append(File(name, system.unstrip_protocol(path), int(info.get("size") or 0), stamp, options))
    if not files:
        raise CorpusError(f"There are no files at {source!r}.")
    return single, files


def _beside(path: str) -> str:
    """What there is instead, nearest names first."""
    folder = os.path.dirname(path.split("*")[0] if is_glob(path) else path) or "."
    while folder and not os.path.isdir(folder):
        folder = os.path.dirname(folder) or "."
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return f"The folder {folder} cannot be read."
    near = difflib.get_close_matches(os.path.basename(path), names, n=8, cutoff=0.5)
    shown = [*near, *(name for name in names if name not in near)][:8]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"In {folder} there {'is nothing' if not names else 'are: ' + ', '.join(shown) + more}."

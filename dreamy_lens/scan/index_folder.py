"""Folder of the index of a scan: its names, and whether it may be written. Light, for checks before the work."""

from __future__ import annotations

from pathlib import Path

from dreamy_lens import _files
from dreamy_lens.errors import FileWriteError

INDEX = "index.html"
STYLE = "style.css"
PAGES = "features"
"""Name of the folder, beside the index, that holds the pages of the features."""

MARK = '<meta name="generator" content="dreamy_lens index">'
"""Markup by which a folder is known to hold an index."""


def is_index_folder(path: _files.StrPath) -> bool:
    """Return whether a path stands for a folder of an index, and not for the file of a page.

    >>> is_index_folder("layer2/"), is_index_folder("layer2"), is_index_folder("layer2.html")
    (True, True, False)
    """
    place = _files.expanded(path)
    if place.exists():
        return place.is_dir()
    return str(path).endswith(("/", "\\")) or not _files.ending_of(path)


def check_index_folder(folder: _files.StrPath, overwrite: bool = False) -> Path:
    """Check, before the work, that an index can be written to a folder.

    Args:
        folder: Folder that will be written; it need not exist.
        overwrite: Whether an index that the folder holds may be replaced.

    Returns:
        Path of the folder.

    Raises:
        FileWriteError: The folder holds an index and `overwrite` is false, or something else, or cannot be written.
    """
    _files.check_folder_name(folder, "an index")
    try:
        path = _files.expanded(folder)
        target = Path(path.resolve())
        names = {file.name for file in target.iterdir()} if target.is_dir() else set()
        _files.check_writable(target.parent)
        if target.exists():
            _files.check_writable(target)
    except _files.FAILURES as error:
        raise not_written(folder, error) from error
    quoted = repr(str(path))
    if target.exists() and not target.is_dir():
        raise FileWriteError(f"{quoted} is a file; an index is a folder. Choose another name.")
    foreign = sorted(names - {INDEX, STYLE, PAGES})
    if names and (foreign or not _is_index(target)):
        others = f" (it contains {', '.join((foreign or sorted(names))[:4])})"
        raise FileWriteError(f"{quoted} exists and is not the folder of an index{others}; choose another name.")
    if names and not overwrite:
        raise FileWriteError(
            f"{quoted} holds an index already; choose another name, delete it, or in Python pass overwrite=True."
        )
    return target


def _is_index(folder: Path) -> bool:
    """Return whether :func:`write_index` wrote a folder."""
    try:
        with open(folder / INDEX, encoding="utf-8") as stream:
            return MARK in stream.read(4096)
    except (OSError, ValueError):
        return False


def not_written(folder: _files.StrPath, error: BaseException) -> FileWriteError:
    """Return the error for a folder that cannot be written."""
    return FileWriteError(f"The index cannot be written to {str(folder)[:300]!r}: {_files.failure_of(error)}")

"""Scans whose examples are kept at a URL, such as `s3://bucket/scan`: made in this process, and opened again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from dreamy_lens._files import StrPath, cache_folder
from dreamy_lens.cluster.shared_folder import SharedFolder
from dreamy_lens.errors import ExamplesError, warn
from dreamy_lens.scan.examples import Examples
from dreamy_lens.scan.scan import Scan
from dreamy_lens.scan.storage import HEADER


def scan_to_url(scan: Scan, place: SharedFolder, progress: bool | None = None) -> Examples:
    """Scan, continue an unfinished scan of this machine, or open what is finished at a URL.

    The scan works in a folder of the cache, where it can be interrupted and continued, and copies its files to the URL
    at its end, the header last: it marks them as complete.

    Args:
        scan: Scan to run.
        place: Folder at the URL.
        progress: Whether to show progress; None shows it in terminals and notebooks.

    Raises:
        ExamplesError: The URL holds another scan.
    """
    folder = fetch_scan(place)
    examples = scan.run(out=folder, progress=progress)
    if examples.folder is not None:
        try:
            _copy(folder, place)
        except Exception as error:  # every driver of fsspec has errors of its own
            warn(
                f"The examples cannot be written to {place.text!r}: {error}. They are complete in memory, and in the "
                f"folder {str(folder)!r}.",
                RuntimeWarning,
            )
    return examples


def open_scan(where: StrPath, model: Any = None) -> Examples:
    """Open the examples that a scan wrote into a folder, or to a URL, of which a copy is kept in the cache.

    Args:
        where: Folder, or URL.
        model: Model for what is computed with the examples; None is the one that was saved, loaded when it is needed.

    Raises:
        ExamplesError: There are no examples, or they are damaged.
        RunFolderError: There is no driver for the URL.
    """
    if "://" not in os.fspath(where):
        return Examples.load(where, model)
    place = SharedFolder(where)
    if HEADER not in place.names(""):
        raise ExamplesError(
            f"{place.text!r} has no {HEADER}, so it holds no examples, or their scan is not finished yet."
        )
    return Examples.load(fetch_scan(place), model)


def local_examples(given: Any) -> Any:
    """Return the examples that a user gives: those at a URL are opened, and everything else is returned as it is."""
    is_url = isinstance(given, (str, os.PathLike)) and "://" in os.fspath(given)
    return open_scan(given) if is_url else given


def fetch_scan(place: SharedFolder) -> Path:
    """Return the folder of the cache for a scan at a URL, with a copy of what is finished there."""
    folder = cache_folder("scans-at-urls", hashlib.sha256(place.text.encode("utf-8", "replace")).hexdigest()[:16])
    folder.mkdir(parents=True, exist_ok=True)
    names = place.names("")
    if HEADER in names:
        for old in folder.iterdir():  # what is at the URL counts, and not what this machine remembers of it
            if old.is_file():
                old.unlink()
        for name in sorted(names, key=lambda name: name == HEADER):
            place.get_file(name, folder / name)
    return folder


def _copy(folder: Path, place: SharedFolder) -> None:
    """Copy the visible files of a folder to a URL, the header last."""
    files = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
    for file in sorted(files, key=lambda file: (file.name == HEADER, file.name)):
        place.put_file(file, file.name)

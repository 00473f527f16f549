"""Scan in this process whose examples are kept at a URL, such as `s3://bucket/scan`."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dreamy_lens._files import cache_folder
from dreamy_lens.cluster.shared_folder import SharedFolder
from dreamy_lens.errors import warn
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
    folder = cache_folder("scans-at-urls", hashlib.sha256(place.text.encode("utf-8", "replace")).hexdigest()[:16])
    folder.mkdir(parents=True, exist_ok=True)
    names = place.names("")
    if HEADER in names:
        for old in folder.iterdir():  # what is at the URL counts, and not what this machine remembers of it
            if old.is_file():
                old.unlink()
        for name in sorted(names, key=lambda name: name == HEADER):
            place.get_file(name, folder / name)
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


def _copy(folder: Path, place: SharedFolder) -> None:
    """Copy the visible files of a folder to a URL, the header last."""
    files = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
    for file in sorted(files, key=lambda file: (file.name == HEADER, file.name)):
        place.put_file(file, file.name)

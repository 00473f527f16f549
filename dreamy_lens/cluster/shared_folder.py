"""Folders that several machines write to: on a shared file system, or at a URL that fsspec can open."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dreamy_lens._files import FAILURES, StrPath, check_folder_name, check_writable, failure_of, replacing
from dreamy_lens.errors import FileWriteError, RunFolderError
from dreamy_lens.results.storage import RUN, write_json


class SharedFolder:
    """Folder on disk or at a URL, in which files are named by relative paths with slashes.

    Each file is written in one step, so it is either complete or missing. A caller that writes several files that
    belong together writes one more file at the end, as a mark that they are complete. A SharedFolder can be pickled.

    Args:
        where: Folder, or a URL such as `s3://bucket/sweep`. For a URL, fsspec's driver (s3fs, gcsfs, ...) must be
            installed and find its credentials by itself, in this process and on the workers.

    Raises:
        RunFolderError: There is no driver for the URL.
    """

    def __init__(self, where: StrPath) -> None:
        text = os.fspath(where)
        self.is_url = "://" in text
        self.text = text.rstrip("/") if self.is_url else os.path.abspath(os.path.expanduser(text))
        self._cache: str | None = None
        if self.is_url:
            self._file_system()

    def __repr__(self) -> str:
        return repr(self.text)

    def __reduce__(self) -> Any:
        return SharedFolder, (self.text,)

    def _file_system(self) -> Any:
        """Return the fsspec file system of the URL."""
        import fsspec

        try:
            return fsspec.core.url_to_fs(self.text)[0]
        except (ImportError, ValueError) as error:
            raise RunFolderError(
                f"{self.text!r} cannot be reached: {error}. Check the URL, or choose another folder."
            ) from None

    def _at(self, name: str) -> str:
        return f"{self.text}/{name}" if name else self.text

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file, or replace it.

        Raises:
            RunFolderError: The file cannot be written.
        """
        try:
            if self.is_url:
                files = self._file_system()
                files.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)
                files.pipe_file(self._at(name), json.dumps(content).encode("ascii"))
            else:
                write_json(self._at(name), content)
        except OSError as error:
            raise RunFolderError(f"{name!r} cannot be written in {self.text!r}: {error}") from error

    def read(self, name: str) -> dict[str, Any] | None:
        """Read a file that :meth:`write` wrote; None if the file is missing or incomplete."""
        return self.read_all([name]).get(name)

    def read_all(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Read several JSON files by name, from a URL in parallel; leave out missing and incomplete files."""
        names = list(names)
        if self.is_url:
            paths = {self._at(name): name for name in names}
            files = self._file_system()
            stripped = {files._strip_protocol(path): name for path, name in paths.items()}
            contents = files.cat(list(paths), on_error="omit") if len(paths) > 1 else _read_each(files, list(paths))
            raw = {stripped[files._strip_protocol(path)]: data for path, data in contents.items()}
        else:
            raw = {name: Path(self._at(name)).read_bytes() for name in names if Path(self._at(name)).is_file()}
        parsed = {}
        for name, data in raw.items():
            try:
                content = json.loads(data)
            except ValueError:
                continue
            if isinstance(content, dict):
                parsed[name] = content
        return parsed

    def names(self, folder: str) -> list[str]:
        """Return the sorted names of the files and folders in a folder, without hidden ones; none if it is missing."""
        try:
            if self.is_url:
                files = self._file_system()
                files.invalidate_cache()
                names = [path.rstrip("/").rpartition("/")[2] for path in files.ls(self._at(folder), detail=False)]
            else:
                names = os.listdir(self._at(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in names if not name.startswith("."))

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        try:
            self._file_system().rm_file(self._at(name)) if self.is_url else os.unlink(self._at(name))
        except FileNotFoundError:
            return

    def remove_folder(self, name: str) -> None:
        """Remove a folder with its content, if it exists."""
        if not self.is_url:
            shutil.rmtree(self._at(name), ignore_errors=True)
        elif self.names(name):
            self._file_system().rm(self._at(name), recursive=True)

    def put(self, local: StrPath, name: str) -> None:
        """Copy the files of a local folder into a folder of the URL; files with equal names are replaced."""
        if not self.is_url:
            raise ValueError("put() copies to URLs only; write to the path that local() returns")
        files = self._file_system()
        files.makedirs(self._at(name), exist_ok=True)
        for file in sorted(Path(local).iterdir()):
            target = self._at(f"{name}/{file.name}" if name else file.name)
            files.put_file(str(file), target)

    def put_file(self, local: StrPath, name: str) -> None:
        """Copy a local file to the URL, or replace the file there."""
        files = self._file_system()
        files.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)
        files.put_file(str(local), self._at(name))

    def get_file(self, name: str, local: Path) -> Path:
        """Copy a file of the URL to this machine; raise FileNotFoundError if it is missing."""
        self._file_system().get_file(self._at(name), str(local))
        return local

    def local(self, name: str) -> Path:
        """Return the local path of a folder; if it is at a URL, of a copy that is deleted together with this object."""
        if not self.is_url:
            return Path(self._at(name))
        if self._cache is None:
            self._cache = tempfile.mkdtemp(prefix="dreamy_lens.")
            weakref.finalize(self, shutil.rmtree, self._cache, True)
        copy, files = Path(self._cache) / name, self._file_system()
        if not copy.is_dir():
            copy.parent.mkdir(parents=True, exist_ok=True)
            with replacing(copy) as partial:
                partial.mkdir()
                for path in files.ls(self._at(name), detail=False):
                    files.get_file(path, str(partial / path.rpartition("/")[2]))
        return copy

    def check_free_or(self, manifest: str) -> None:
        """Raise RunFolderError if the path is a file, a folder that has other files but not this manifest, or none.

        A path where no folder can be written is none, and so is one whose name ends like that of a file.

        Args:
            manifest: Name of the file that marks the folder as the caller's own.
        """
        if self.is_url:
            return
        try:
            check_folder_name(self.text, "a sweep", "sweep.to_pandas() returns a table.")
        except FileWriteError as error:
            raise RunFolderError(str(error)) from None
        if os.path.lexists(self.text):
            folder = Path(self.text)
            if not folder.is_dir():
                raise RunFolderError(f"{self.text!r} is a file; name a folder.")
            others = [name for name in sorted(os.listdir(folder)) if not name.startswith(".")]
            if others and manifest not in others:
                content = "holds a single run" if (folder / RUN).is_file() else f"has other files in it ({others[0]!r})"
                raise RunFolderError(f"{self.text!r} {content}; choose another folder.")
        try:
            check_writable(self.text)
        except FAILURES as error:
            raise RunFolderError(f"The folder {self.text[:300]!r} cannot be written: {failure_of(error)}") from error


def _read_each(files: Any, paths: list[str]) -> dict[str, bytes]:
    """Read files one after the other; return nothing if one is missing."""
    try:
        return {path: files.cat_file(path) for path in paths}
    except FileNotFoundError:
        return {}

"""A folder that several machines write to: on a shared file system, or anything that fsspec has a URL for."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dreamy_lens._files import StrPath, replacing
from dreamy_lens.errors import RunFolderError
from dreamy_lens.results.storage import RUN, write_json


class SharedFolder:
    """A folder or a URL; files in it are named by paths relative to it, with slashes.

    Each file is written in one step, so that it is whole or not there. A caller that writes
    several files has to write one more, which marks their end. Shared folders can be sent to other processes.

    Args:
        where: Folder, or a URL such as `s3://bucket/sweep`, for which fsspec's driver (s3fs, gcsfs, ...) is installed
            and finds its credentials by itself, here and on the workers.

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
        """Return fsspec's file system of the URL."""
        import fsspec

        try:
            return fsspec.core.url_to_fs(self.text)[0]
        except (ImportError, ValueError) as error:
            raise RunFolderError(f"{self.text!r} cannot be reached: {error}") from None

    def _at(self, name: str) -> str:
        return f"{self.text}/{name}" if name else self.text

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file, in the place of an older one.

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
        """Read what :meth:`write` wrote; None if it is not there, or not whole."""
        return self.read_all([name]).get(name)

    def read_all(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Read several JSON files, those of a URL side by side; files that are missing or not whole are left out."""
        names = list(names)
        if self.is_url:
            paths = {self._at(name): name for name in names}
            files = self._file_system()
            stripped = {files._strip_protocol(path): name for path, name in paths.items()}
            got = files.cat(list(paths), on_error="omit") if len(paths) > 1 else _one(files, list(paths))
            raw = {stripped[files._strip_protocol(path)]: data for path, data in got.items()}
        else:
            raw = {name: Path(self._at(name)).read_bytes() for name in names if Path(self._at(name)).is_file()}
        found = {}
        for name, data in raw.items():
            try:
                content = json.loads(data)
            except ValueError:
                continue
            if isinstance(content, dict):
                found[name] = content
        return found

    def names(self, folder: str) -> list[str]:
        """Return the names of the files and folders in a folder, sorted; none if it is not there."""
        try:
            if self.is_url:
                files = self._file_system()
                files.invalidate_cache()
                found = [path.rstrip("/").rpartition("/")[2] for path in files.ls(self._at(folder), detail=False)]
            else:
                found = os.listdir(self._at(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in found if not name.startswith("."))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        try:
            self._file_system().rm_file(self._at(name)) if self.is_url else os.unlink(self._at(name))
        except FileNotFoundError:
            return

    def remove_folder(self, name: str) -> None:
        """Remove a folder and all that is in it, if it is there."""
        if not self.is_url:
            shutil.rmtree(self._at(name), ignore_errors=True)
        elif self.names(name):
            self._file_system().rm(self._at(name), recursive=True)

    def put(self, local: StrPath, name: str) -> None:
        """Copy the files of a local folder into a folder of the URL; files of equal names are replaced."""
        if not self.is_url:
            raise ValueError("a folder is written where it belongs; see `local`")
        files = self._file_system()
        files.makedirs(self._at(name), exist_ok=True)
        for file in sorted(Path(local).iterdir()):
            target = self._at(f"{name}/{file.name}" if name else file.name)
            files.put_file(str(file), target)

    def put_file(self, local: StrPath, name: str) -> None:
        """Copy a local file to the URL, in the place of an older one."""
        files = self._file_system()
        files.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)
        files.put_file(str(local), self._at(name))

    def get_file(self, name: str, local: Path) -> Path:
        """Copy a file of the URL to this machine; raise FileNotFoundError if it is not there."""
        self._file_system().get_file(self._at(name), str(local))
        return local

    def local(self, name: str) -> Path:
        """Return the path on this machine of a folder, or of a copy of it, which is kept as long as this object."""
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
        """Raise RunFolderError if the place is a file, or a folder with other things and without this manifest."""
        if not self.is_url and os.path.lexists(self.text):
            folder = Path(self.text)
            if not folder.is_dir():
                raise RunFolderError(f"{self.text!r} is a file; name a folder.")
            others = [name for name in sorted(os.listdir(folder)) if not name.startswith(".")]
            if others and manifest not in others:
                what = "holds a single run" if (folder / RUN).is_file() else f"has other things in it ({others[0]!r})"
                raise RunFolderError(f"{self.text!r} {what}; choose another folder.")


def _one(files: Any, paths: list[str]) -> dict[str, bytes]:
    try:
        return {path: files.cat_file(path) for path in paths}
    except FileNotFoundError:
        return {}

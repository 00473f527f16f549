"""Folder of a scan: the scan's state while it runs, and its results. A folder that fails never ends the scan."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dreamy_lens import _files
from dreamy_lens._folder_lock import FolderBusy, lock_folder
from dreamy_lens.errors import ExamplesError, warn
from dreamy_lens.scan.checkpoint import Checkpoint
from dreamy_lens.scan.examples import Examples
from dreamy_lens.scan.storage import CHECKPOINT_FILE, HEADER, check_out

_PROBLEMS = (*_files.FAILURES, ExamplesError, FolderBusy)


class ScanFolder:
    """Folder in which a scan saves its state and its results, or none.

    Whatever fails here is a warning, once, and the scan goes on: its results are complete in memory.

    Args:
        path: Folder; None saves nothing.
        cached: Whether the folder is in the cache, which the user has not asked for.

    Attributes:
        path: Folder, or None after it could not be written.
    """

    def __init__(self, path: Path | None, cached: bool) -> None:
        self.path, self.cached = path, cached
        self._warned = False

    def check_writable(self) -> None:
        """Check that the folder can be written. A cache that cannot be written is not used.

        Raises:
            ExamplesError: The folder is not in the cache, and cannot be written.
        """
        if self.path is None:
            return
        if not self.cached:
            check_out(self.path)
            return
        try:
            _files.check_writable(self.path)
        except _files.FAILURES as error:
            self._warn(
                f"The cache folder {_shown(self.path)} cannot be written: {_reason(error)}. The scan goes on without "
                "it; DREAMY_LENS_CACHE names another folder."
            )
            self.path = None

    def attempt(self, look: Callable[[], Examples | None]) -> Examples | None:
        """Return the finished scan that a function finds in the folder; in a cache, a damaged one is none.

        Args:
            look: Function that returns the finished scan, or None.

        Raises:
            ExamplesError: The folder is not in the cache, and cannot be read or holds something else.
        """
        try:
            return look()
        except OSError as error:
            if self.cached:
                return None  # if it cannot be written either, the user hears of it then
            raise ExamplesError(f"The folder {_shown(self.path)} cannot be read: {_files.failure_of(error)}") from error
        except ExamplesError as error:
            if not self.cached:
                raise
            self._warn(
                f"The scan in the cache folder {_shown(self.path)} cannot be used: {_reason(error)}. The corpus is "
                "scanned again."
            )
            return None

    def load_state(self, identity: Mapping[str, Any], device: Any) -> Checkpoint | None:
        """Return the state of an unfinished scan in the folder, or None if there is none.

        Args:
            identity: Identity that the scan must have.
            device: Device for the statistics.

        Raises:
            ExamplesError: The folder is not in the cache, and its state is damaged or belongs to another scan.
        """
        file = None if self.path is None else self.path / CHECKPOINT_FILE
        try:
            return Checkpoint.load(file, identity, device) if file is not None and file.exists() else None
        except _PROBLEMS as error:
            if file is not None and not os.path.lexists(file):  # another process has finished the scan meanwhile
                return None
            if not self.cached:
                raise
            self._warn(f"The unfinished scan in {_shown(self.path)} cannot be used: {_reason(error)}. It begins anew.")
            return None

    def save_state(self, state: Checkpoint, identity: Mapping[str, Any]) -> bool:
        """Save the state of the scan, unless another process has come further, and return whether it is saved.

        Args:
            state: Results and position of the scan.
            identity: Identity of the scan.
        """
        if self.path is None:
            return False
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with lock_folder(self.path):
                if _tokens_of_state(self.path / CHECKPOINT_FILE, identity) <= state.counts["tokens"]:
                    state.save(self.path / CHECKPOINT_FILE, identity)
            return True
        except _PROBLEMS as error:
            self._warn(
                f"The state of the scan cannot be saved in {_shown(self.path)}: {_reason(error)}. The scan goes on, "
                "and tries again until its end."
            )
            return False

    def save_results(
        self, write: Callable[[Path], object], complete: bool, tokens: int, identity: Mapping[str, Any]
    ) -> Examples | None:
        """Save the results, and return them as they are in the folder; None if they are not there.

        Args:
            write: Function that writes the tables into a folder.
            complete: Whether the scan reached its end.
            tokens: Number of tokens that the results are of.
            identity: Identity of the scan.
        """
        if self.path is None:
            return None
        try:
            if not complete and _tokens_of_results(self.path, identity) > tokens:
                return None  # another process has finished this scan, or come further
            write(self.path)
            if complete:
                with suppress(OSError):
                    (self.path / CHECKPOINT_FILE).unlink(missing_ok=True)
            return Examples.load(self.path)
        except _PROBLEMS as error:
            text = (
                f"The examples could not be saved in {_shown(self.path)}: {_reason(error)}. They are complete in memory"
            )
            self._warn(f"{text}." if self.cached else f"{text}; examples.save(folder) writes them to another folder.")
            return None

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            warn(text, RuntimeWarning)


def report_stop(tokens: int, saved: bool) -> None:
    """Write to stderr that a scan was stopped, and how to continue it.

    Args:
        tokens: Number of tokens that were scanned.
        saved: Whether its state is saved.
    """
    hint = "call again with the same arguments to go on" if saved else "nothing was saved"
    print(f"Stopped after {tokens:,} tokens; {hint}.", file=sys.stderr)


def _tokens_of_state(file: Path, identity: Mapping[str, Any]) -> int:
    """Return the number of tokens in the state of an equal scan in a file; -1 if there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as opened:
            head = json.loads((opened.metadata() or {})["scan"])
        return int(head["counts"]["tokens"]) if head["identity"] == dict(identity) else -1
    except (OSError, ValueError, LookupError, TypeError, SafetensorError):
        return -1


def _tokens_of_results(folder: Path, identity: Mapping[str, Any]) -> int:
    """Return the number of tokens in the results of an equal scan in a folder; -1 if there are none."""
    try:
        head = json.loads((folder / HEADER).read_bytes())
        return int(head["counts"]["tokens"]) if head["identity"] == dict(identity) else -1
    except (OSError, ValueError, LookupError, TypeError):
        return -1


def _reason(error: BaseException) -> str:
    text = _files.failure_of(error) if isinstance(error, OSError) else str(error)
    return text.rstrip(".")


def _shown(path: Path | None) -> str:
    return repr(str(path)[:300])

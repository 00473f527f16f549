"""No installations: libraries that would install packages while a model is loaded are stopped.

TransformerLens runs `pip install torchvision` when it loads a model for text and images. That can replace torch in the
user's environment. Inside :func:`no_installs`, every attempt of the calling thread to start an installer fails.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

_INSTALLER = re.compile(
    r"(?:^|[\s/\\;&|'\"(])(pip[\d.]*|uv|conda|mamba|micromamba|poetry|pipx|pdm|easy_install|apt|apt-get|brew)(?:\.exe)?"
    r"\s(?:.*\s)?(?:install|add|sync|update|upgrade|download)(?:\s|$)",
    re.DOTALL,
)
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.spawn", "os.posix_spawn")
"""Audit events of Python for commands that are started."""


class InstallationBlocked(RuntimeError):
    """Error for a library that tried to install something."""


class _Attempts(threading.local):
    commands: list[str] | None = None


_ATTEMPTS = _Attempts()


@contextlib.contextmanager
def no_installs() -> Iterator[list[str]]:
    """Stop every installer that the calling thread tries to start inside the context.

    The library that tries gets :class:`InstallationBlocked`.

    Yields:
        Commands that were stopped; the list grows inside the context.
    """
    _watch()
    former, commands = _ATTEMPTS.commands, []
    _ATTEMPTS.commands = commands
    try:
        yield commands
    finally:
        _ATTEMPTS.commands = former


@functools.cache
def _watch() -> None:
    """Begin to listen to Python's audit events; outside :func:`no_installs`, the listener does nothing."""
    sys.addaudithook(_on_event)


def _on_event(event: str, args: tuple[Any, ...]) -> None:
    if _ATTEMPTS.commands is None:
        return
    if event in _STARTS:
        # Popen announces the program and then all words of the command, the program among them.
        words = " ".join(_words(args[1:2] if event == "subprocess.Popen" else args))
        installer = _INSTALLER.search(words)
        if installer is None:
            return
        command = words[installer.start(1) :]
    elif event == "ensurepip.bootstrap" or (event == "import" and args and args[0] == "pip._internal.cli.main"):
        command = "pip"
    else:
        return
    _ATTEMPTS.commands.append(command)
    raise InstallationBlocked(f"dreamy_lens lets no library install anything, and stopped {command!r}.")


def _words(args: tuple[Any, ...]) -> Iterator[str]:
    """Return every word of a command among the arguments of an audit event, but not the environment."""
    for arg in args:
        if isinstance(arg, (str, bytes, os.PathLike)):
            yield os.fsdecode(arg)
        elif isinstance(arg, (list, tuple)):
            yield from _words(tuple(arg))

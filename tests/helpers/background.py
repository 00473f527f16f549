"""Runs in the background, held at a moment that a test chooses. Nothing here sleeps: everything is waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers.dreams import dream

PATIENCE = 60.0
"""Seconds until something that never comes fails a test instead of hanging it."""


class Gate:
    """A listener that holds a run once it has completed some iterations, until it is opened."""

    def __init__(self, iteration: int = 3) -> None:
        self.iteration, self.reached, self.opened = iteration, threading.Event(), threading.Event()

    def __call__(self, run: Any) -> None:
        if run.iteration == self.iteration and not self.opened.is_set():
            self.reached.set()
            assert self.opened.wait(PATIENCE)

    def wait(self) -> None:
        assert self.reached.wait(PATIENCE)

    def open(self) -> None:
        self.opened.set()


def begun(model: Any, *listeners: Callable[[Any], object], wait: bool = False, **settings: Any) -> Any:
    """A run of eight iterations in the background, and functions that hear of each of them."""
    run = dream(model, **({"iterations": 0} | settings))
    for listener in listeners:
        run.listen(listener, every=0.0)
    return run.resume(8, wait=wait, progress=False)


def held(model: Any, iteration: int = 3, **settings: Any) -> tuple[Any, Gate]:
    """A run that is held there."""
    gate = Gate(iteration)
    run = begun(model, gate, **settings)
    gate.wait()
    return run, gate


def until_status(run: Any, status: str) -> threading.Event:
    """Set as soon as the run has that status."""
    event = threading.Event()
    run.listen(lambda run: event.set() if run.status == status else None, every=0.0)
    return event


def paused(model: Any, iteration: int = 3, **settings: Any) -> Any:
    """A run that stands still there."""
    run, gate = held(model, iteration, **settings)
    still = until_status(run, "paused")
    run.pause()
    gate.open()
    assert still.wait(PATIENCE)
    return run


class Press:
    """The user presses Ctrl-C once the main thread waits for a run to end; what comes then happens after that."""

    def __init__(self, run: Any, then: Callable[[], object]) -> None:
        waits = threading.Event()

        class Watched(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                if run.worker.interrupted:  # and stopped
                    then()
                waits.set()
                return super().wait(timeout)

        run.worker._ended = Watched()

        def press() -> None:
            assert waits.wait(PATIENCE)
            os.kill(os.getpid(), signal.SIGINT)

        self.thread = threading.Thread(target=press)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *error: Any) -> None:
        self.thread.join()


def processes(script: str, *arguments: list[str]) -> None:
    """Run a script several times at once; each waits until all are ready."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    children = [
        subprocess.Popen([sys.executable, "-c", script, *words], env=environment, **pipes) for words in arguments
    ]
    try:
        for child in children:
            assert child.stdout is not None and child.stdout.readline() == "ready\n", child.communicate()[1]
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        errors = [child.communicate(timeout=120)[1] for child in children]
        assert [child.returncode for child in children] == [0] * len(children), errors
    finally:
        for child in children:
            child.kill()

"""Process that draws one figure with kaleido in a browser, and that always ends.

:mod:`dreamy_lens.figures.export` runs this module as a program. Standard input has a line of JSON: the figure as plotly
describes it, and the arguments of `plotly.io.to_image`. Standard output gets the image; on an error, standard error
gets a last line of JSON with the names of the error's type and of its context's type, and its text. When standard input
ends, because the caller gives up or has died, the browser is ended, and so is this process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any

FAILED = 3
"""Exit status after an error of plotly or kaleido."""


def main() -> None:
    """Draw the figure that standard input describes."""
    started: list[subprocess.Popen[Any]] = []

    class Recorded(subprocess.Popen):  # a browser has its own session, so it does not end with this process
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)

    def end_with_caller() -> None:
        sys.stdin.buffer.read()
        for process in started:
            _end(process)
        os._exit(1)

    subprocess.Popen = Recorded  # type: ignore[misc]
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=end_with_caller, daemon=True).start()
    try:
        import plotly.io

        image = plotly.io.to_image(request["figure"], validate=False, **request["options"])
    except Exception as error:
        report = [type(error).__name__, type(error.__context__).__name__, str(error)]
        sys.stderr.write(f"\n{json.dumps(report)}\n")
        sys.stderr.flush()
        os._exit(FAILED)
    sys.stdout.buffer.write(image)
    sys.stdout.buffer.flush()
    os._exit(0)  # kaleido waits for threads that a broken browser never ends


def _end(process: subprocess.Popen[Any]) -> None:
    """End a process together with those that it started."""
    try:
        if hasattr(os, "killpg") and os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except OSError:
        pass


if __name__ == "__main__":
    main()

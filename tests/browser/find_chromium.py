"""Where Chromium is: the one place that looks for it. Run as a script, it prints the path or fails.

`DREAMY_LENS_CHROMIUM` names the program; otherwise the first of the usual names on the PATH is taken. Nothing is ever
downloaded. Only the standard library is needed, so that this can be asked before anything is installed.
"""

from __future__ import annotations

import os
import shutil
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
VARIABLE = "DREAMY_LENS_CHROMIUM"


def find_chromium() -> str | None:
    """Path of the program; None if there is none, or if what the environment variable names is not a program."""
    if named := os.environ.get(VARIABLE):
        return shutil.which(named)
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def why_not() -> str:
    """What a test that needs Chromium says when it is skipped."""
    if named := os.environ.get(VARIABLE):
        return f"{VARIABLE} is {named!r}, which is not a program"
    return f"no Chromium: none of {', '.join(NAMES)} is on the PATH, and {VARIABLE} is not set"


if __name__ == "__main__":
    program = find_chromium()
    if program is None:
        sys.exit(why_not())
    print(program)

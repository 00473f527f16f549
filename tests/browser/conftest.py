"""The fixtures of the browser tests: see the modules that they come from."""

from tests.browser.chromium import chromium, offline_page
from tests.browser.lab import lab, lab_server
from tests.browser.manager_rig import colab, vscode
from tests.browser.marimo_rig import marimo_app
from tests.browser.mounted import mount
from tests.browser.pages import page_for, places

__all__ = [
    "chromium",
    "colab",
    "lab",
    "lab_server",
    "marimo_app",
    "mount",
    "offline_page",
    "page_for",
    "places",
    "vscode",
]

"""The fixtures of the browser tests: see the modules that they come from."""

from browser.chromium import chromium, offline_page
from browser.lab import lab, lab_server
from browser.marimo_rig import marimo_app
from browser.mounted import mount

__all__ = ["chromium", "lab", "lab_server", "marimo_app", "mount", "offline_page"]

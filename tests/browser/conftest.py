"""The fixtures of the browser tests: see the modules that they come from."""

from chromium import chromium, offline_page
from lab import lab, lab_server
from marimo_rig import marimo_app

__all__ = ["chromium", "lab", "lab_server", "marimo_app", "offline_page"]

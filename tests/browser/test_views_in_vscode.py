"""Panels in the widget manager of VS Code's Jupyter extension, around which a page imitates VS Code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.browser.manager_rig import dream, ground, use_panels, view_in

if TYPE_CHECKING:
    from tests.browser.manager_rig import ManagedNotebook


@pytest.mark.slow
def test_panels_work_with_the_front_end_of_a_cdn(vscode: Callable[..., ManagedNotebook]):
    notebook = vscode(scripts="cdn")
    use_panels(notebook)
    assert any("/anywidget@" in url for url in notebook.loaded)


@pytest.mark.slow
def test_they_work_with_the_front_end_of_the_environment_and_follow_the_theme(vscode: Callable[..., ManagedNotebook]):
    notebook = vscode(scripts="local", theme="dark")
    notebook.ask("import dreamy_lens as dl; model = dl.load_model()")
    view = view_in(notebook, dream(notebook))
    assert not any("/anywidget@" in url for url in notebook.loaded)
    assert view.evaluate("view => view.classList.contains('dlp-dark')")
    assert ground(view) == "rgb(31, 31, 31)"  # the editor's, and not the white that the extension gives to widgets
    notebook.theme("light")
    view.page.wait_for_timeout(100)
    assert not view.evaluate("view => view.classList.contains('dlp-dark')")
    assert ground(view) == "rgb(255, 255, 255)"

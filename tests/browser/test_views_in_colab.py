"""Panels in the widget manager of Colab, around which a page imitates Colab: each cell has a frame of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.browser.manager_rig import dream, use_panels, view_in

if TYPE_CHECKING:
    from tests.browser.manager_rig import ManagedNotebook


@pytest.mark.slow
def test_panels_work(colab: Callable[..., ManagedNotebook]):
    notebook = colab()
    use_panels(notebook)
    browser = notebook.output(notebook.run("dl.browse(model)"))
    browser.get_by_text("345 hook points").first.wait_for()


@pytest.mark.slow
def test_they_follow_the_theme_of_the_notebook_and_not_of_the_system(colab: Callable[..., ManagedNotebook]):
    notebook = colab(theme="dark")
    notebook.ask("import dreamy_lens as dl; model = dl.load_model()")
    view = view_in(notebook, dream(notebook))
    assert view.evaluate("view => view.classList.contains('dlp-dark')")
    notebook.page.emulate_media(color_scheme="dark")
    notebook.theme("light")
    view.page.wait_for_timeout(100)
    assert not view.evaluate("view => view.classList.contains('dlp-dark')")

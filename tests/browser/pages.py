"""Pages for views: one after the other is shown on the same page, because a new page takes longer than most tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.chromium import watch

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


class Place:
    """A page in a browser context of its own.

    Args:
        browser: Browser of the page.
        scheme: "light" or "dark".
        size: Width and height of the window in pixels.
        more: Further settings of the browser context.
    """

    def __init__(self, browser: Browser, scheme: str, size: tuple[int, int], more: dict[str, Any]) -> None:
        self._scheme: Any = "dark" if scheme == "dark" else "light"
        self._size: Any = {"width": size[0], "height": size[1]}
        self._context = browser.new_context(offline=True, viewport=self._size, color_scheme=self._scheme, **more)
        self._context.set_default_timeout(5000)
        self._watched = watch(self._context)
        self._said: list[str] = []
        self.page = self._context.new_page()
        self.page.on("dialog", lambda dialog: (self._said.append(dialog.message), dialog.dismiss()))
        self.page.on("console", lambda said: said.type == "error" and self._said.append(said.text))

    def leave(self) -> list[str]:
        """Make the page as good as new, and return what went wrong on it: errors, dialogs and requests."""
        if not self.page.is_closed():
            self.page.unroute_all()
            if self.page.url.startswith("http"):
                self.page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
            self.page.mouse.move(0, 0)
            self.page.emulate_media(color_scheme=self._scheme)
            self.page.set_viewport_size(self._size)
            self.page.goto("about:blank")
        found = [*self._watched.errors, *self._watched.refused, *self._said]
        for noted in (self._watched.errors, self._watched.refused, self._said):
            noted.clear()
        return found

    def close(self) -> None:
        """Close the page."""
        self._context.close()


@pytest.fixture(scope="module")
def places(chromium: Browser) -> Iterator[dict[str, list[Place]]]:
    """Pages of the file that no test uses now, by their settings."""
    free: dict[str, list[Place]] = {}
    yield free
    for place in itertools.chain.from_iterable(free.values()):
        place.close()


@pytest.fixture
def page_for(chromium: Browser, places: dict[str, list[Place]]) -> Iterator[Callable[..., Page]]:
    """`page_for(scheme, width, height, **context)` gives an empty page; what goes wrong on it fails the test."""
    used: list[tuple[str, Place]] = []

    def give(scheme: str, width: int, height: int, **more: Any) -> Page:
        key = repr((scheme, width, height, sorted(more.items())))
        place = places[key].pop() if places.get(key) else Place(chromium, scheme, (width, height), more)
        used.append((key, place))
        return place.page

    yield give
    problems = []
    for key, place in used:
        problems += place.leave()
        if place.page.is_closed() or problems:
            place.close()
        else:
            places.setdefault(key, []).append(place)
    assert not problems

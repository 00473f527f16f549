"""Chromium for the browser tests, with the network watched: what a page asks for elsewhere is refused and noted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.browser.find_chromium import find_chromium, why_not

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Route

ARGUMENTS = [
    "--no-sandbox",  # containers run as root
    "--disable-dev-shm-usage",  # and have little shared memory
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
]
HERE = ("127.0.0.1", "localhost")  # hosts that a server started by a test has
TOLD_BY_NBCONVERT = ("cdnjs.cloudflare.com",)  # require.js and MathJax: in every page of nbconvert, used or not


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Chromium, once for each test file; the test is skipped, with the reason, where it or Playwright is missing.

    Not once for the session: while Playwright runs, `asyncio.run` fails in this thread, in whichever test calls it.
    """
    api = pytest.importorskip("playwright.sync_api")
    if (program := find_chromium()) is None:
        pytest.skip(why_not())
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Watched:
    """What the pages of one browser context did that they should not have."""

    errors: list[str] = field(default_factory=list)
    """Exceptions in scripts that nothing caught, and failed assertions."""
    refused: list[str] = field(default_factory=list)
    """Addresses that were asked for and are neither on this machine nor in the page itself."""

    def outside(self, tolerate: tuple[str, ...] = ()) -> list[str]:
        """The refused addresses, without those of hosts that are tolerated."""
        return [url for url in self.refused if urlsplit(url).hostname not in tolerate]


def watch(context: BrowserContext, hosts: tuple[str, ...] = ()) -> Watched:
    """Refuse and note every request but those to the given hosts, to files, and to what a page made itself."""
    watched = Watched()

    def sort(route: Route) -> None:
        url = urlsplit(route.request.url)
        if url.scheme in ("file", "data", "blob", "about") or url.hostname in hosts:
            route.continue_()
        else:
            watched.refused.append(route.request.url)
            route.abort()

    def socket(url: str) -> None:
        if urlsplit(url).hostname not in hosts:
            watched.refused.append(url)

    def new(page: Page) -> None:
        page.on("pageerror", lambda error: watched.errors.append(str(error)))
        page.on("websocket", lambda found: socket(found.url))

    context.route("**/*", sort)
    context.on("page", new)
    return watched


@pytest.fixture
def offline_page(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """`offline_page(path)` opens a file with no network; the test fails if the page asked for one.

    `tolerate` names hosts whose requests are refused too, but are no failure; `colour_scheme` is "light" or "dark".
    An exception in a script of the page is a failure as well.
    """
    opened: list[tuple[BrowserContext, Watched, tuple[str, ...]]] = []

    def open_page(path: Path, tolerate: tuple[str, ...] = (), colour_scheme: str = "light") -> Page:
        context = chromium.new_context(
            offline=True,
            color_scheme="dark" if colour_scheme == "dark" else "light",
            viewport={"width": 1100, "height": 900},
            service_workers="block",
        )
        opened.append((context, watch(context), tolerate))
        page = context.new_page()
        page.goto(path.resolve().as_uri())
        return page

    yield open_page
    problems = []
    for context, watched, tolerate in opened:
        context.close()
        problems += [f"asked for {url}" for url in watched.outside(tolerate)]
        problems += [f"error in a script: {error}" for error in watched.errors]
    assert not problems, "\n".join(problems)


def to_html(notebook: Path, folder: Path) -> Path:
    """The notebook as the page that `jupyter nbconvert --to html` makes of it, in a folder."""
    from nbconvert import HTMLExporter

    text, _ = HTMLExporter().from_filename(str(notebook))
    page = folder / f"{notebook.stem}.html"
    page.write_text(text, encoding="utf-8")
    return page

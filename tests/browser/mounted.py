"""A view in Chromium with no notebook around it: the real module, and a stand-in for the model that a host gives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from dreamy_lens.panels import bundle

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

# One exact event name for each listener, as marimo has it, and what is set travels only when changes are saved. Lone
# surrogates do not survive the way from Python, so the state comes as the JSON that the frozen form has too.
HOST = """
async ({ esm, css, json }) => {
  const heard = {}, unsaved = new Set();
  const host = globalThis.host = { state: JSON.parse(json), sent: [], saved: [], dialogs: 0 };
  const fire = (name, ...given) => { for (const f of [...(heard[name] ?? [])]) f(...given); };
  globalThis.model = {
    get: (name) => host.state[name],
    set: (name, value) => { host.state[name] = value; unsaved.add(name); fire("change:" + name); },
    save_changes: () => { for (const name of unsaved) host.saved.push([name, host.state[name]]); unsaved.clear(); },
    send: (message) => { host.sent.push(structuredClone(message)); },
    on: (name, f) => (heard[name] ??= []).push(f),
    off: (name, f) => { heard[name] = (heard[name] ?? []).filter((g) => g !== f); },
  };
  host.fire = fire;
  host.listeners = () => Object.values(heard).flat().length;
  host.change = (json) => {
    const changes = JSON.parse(json);
    Object.assign(host.state, changes);
    for (const name of Object.keys(changes)) fire("change:" + name);
  };
  host.say = (json) => fire("msg:custom", JSON.parse(json), []);
  document.head.appendChild(document.createElement("style")).textContent = css;
  const url = URL.createObjectURL(new Blob([esm], { type: "text/javascript" }));
  const view = (await import(url)).default;
  host.forget = await view.initialize?.({ model });
  host.leave = await view.render({ model, el: document.body.appendChild(document.createElement("div")) });
  host.again = async () => {
    host.leave();
    host.leave = await view.render({ model, el: document.body.appendChild(document.createElement("div")) });
  };
}
"""
PAGE = '<!DOCTYPE html><html lang="en"><title>a view</title><body style="margin:8px"></body></html>'
# Two frames: what is marked in one is drawn in the next.
FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))"


class Mounted:
    """A view that is shown.

    Args:
        page: it is on.
        view: its name.
        state: its traits.
    """

    def __init__(self, page: Page, view: str, state: dict[str, Any]) -> None:
        from json import dumps

        self._json: Callable[[Any], str] = dumps
        self.page = page
        page.route("http://localhost/", lambda route: route.fulfill(body=PAGE, content_type="text/html"))
        page.goto("http://localhost/")  # where a page may use the clipboard, if it is let
        given = {"esm": bundle.view_module(view), "css": bundle.view_stylesheet(), "json": dumps(state)}
        page.evaluate(HOST, given)
        self.frames()

    def frames(self) -> None:
        """Wait until what was marked is drawn."""
        self.page.evaluate(FRAMES)

    def again(self) -> None:
        """Draw the view again from its model, as a notebook does when an output changes."""
        self.page.evaluate("() => host.again()")
        self.frames()

    def change(self, **traits: Any) -> None:
        """Traits from Python, all at once."""
        self.page.evaluate("(json) => host.change(json)", self._json(traits))
        self.frames()

    def say(self, **message: Any) -> None:
        """A message from Python."""
        self.page.evaluate("(json) => host.say(json)", self._json(message))
        self.frames()

    def sent(self, kind: str = "") -> list[dict[str, Any]]:
        """Messages to Python, of one kind."""
        found = self.page.evaluate("() => host.sent")
        return [one for one in found if not kind or one["type"] == kind]

    def saved(self) -> dict[str, Any]:
        """What the view wrote to Python, the last of each trait."""
        return dict(self.page.evaluate("() => host.saved"))

    def find(self, selector: str) -> Locator:
        """Elements by CSS."""
        return self.page.locator(selector)

    def button(self, name: str) -> Locator:
        """A button by its name."""
        return self.page.get_by_role("button", name=name, exact=True)

    def text(self, selector: str) -> str:
        """What an element says."""
        return self.page.locator(selector).first.inner_text()

    @property
    def focused(self) -> str:
        """What has the focus: its accessible name, or its text."""
        return self.page.evaluate("() => document.activeElement.ariaLabel ?? document.activeElement.textContent")


@pytest.fixture
def mount(page_for: Callable[..., Page]) -> Callable[..., Mounted]:
    """`mount(view, state, scheme=, width=)` shows a view; an error in a script, a dialog or a request fails."""

    def show(view: str, state: dict[str, Any], scheme: str = "light", width: int = 1000, **more: Any) -> Mounted:
        return Mounted(page_for(scheme, width, 1000, **more), view, state)

    return show

"""The one seam through which lower layers reach upper ones.

Results and runs offer conveniences that belong to layers above them: `prompt.attribution()` shows a panel, `run` shows
itself, `run.to_html()` writes a page. Those calls go through this module and nowhere else. Each function imports one
upper function by name when it is called, so that no import arrow points upwards: `make lint` checks the arrows, and a
convenience that is missing here is a convenience that the layers do not allow.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def _late(module: str, name: str) -> Callable[..., Any]:
    """Return a function of an upper layer, imported now."""
    return getattr(import_module(f"dreamy_lens.{module}"), name)


def attribution(feature: str, prompt: Any, model: str, **settings: Any) -> Any:
    """Compute the attribution of a prompt, as `dreamy_lens.attribution` does."""
    return import_module("dreamy_lens").attribution(feature, prompt, model, **settings)


def show_attribution(result: Any) -> None:
    """Display the view of a known attribution in the current notebook cell."""
    _late("panels.cells", "show_attribution")(result)


def card_page(card: Any, top: int, static: bool) -> str:
    """Return the page of a card."""
    return _late("panels.card_page", "card_page")(card, top=top, static=static)


def card_fragment(card: Any) -> str:
    """Return what a notebook's cell shows of a card."""
    return _late("panels.card_page", "card_fragment")(card)


def show(run: Any) -> None:
    """Display the live panel of a run, or of several, in the current notebook cell."""
    _late("panels.cells", "show")(run)


def panel_of(run: Any) -> Any:
    """Return a live panel of a run, or of several."""
    return _late("panels.cells", "panel_of")(run)


def explore_run(run: Any, prompt: Any) -> Any:
    """Return a panel to play with a prompt under a run's feature; a dream that starts there is like the run."""
    return _late("panels.attribution", "explore_run")(run, prompt)


def page_of_run(run: Any, k: int, strips: int) -> str:
    """Return a run as one page of HTML with its panel, which answers clicks without a kernel."""
    return _late("panels.pages", "page_of_run")(run, k=k, strips=strips)

"""The one seam through which lower layers reach upper ones.

Results and runs offer conveniences that belong to layers above them: an attribution displays a view, a run displays
its panel, `run.to_html()` writes a page. These calls go through this module and nowhere else. Each function here
imports one upper function by name when it is called, so no module-level import points upwards. `make lint` checks the
imports; a convenience that is not listed here is not allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def _late(module: str, name: str) -> Callable[..., Any]:
    """Import a module of an upper layer, and return one of its functions."""
    return getattr(import_module(f"dreamy_lens.{module}"), name)


def attribution(feature: str, prompt: Any, model: str, **settings: Any) -> Any:
    """Compute the attribution of a prompt, as `dreamy_lens.attribution` does."""
    return import_module("dreamy_lens").attribution(feature, prompt, model, **settings)


def generate(prompt: Any, model: str, n_tokens: int, **settings: Any) -> Any:
    """Continue a prompt, as `dreamy_lens.generate` does."""
    return import_module("dreamy_lens").generate(prompt, model, n_tokens, **settings)


def upstream(feature: str, prompt: Any, model: str, **settings: Any) -> Any:
    """Divide a feature's value into contributions of components, as `dreamy_lens.upstream` does."""
    return import_module("dreamy_lens").upstream(feature, prompt, model, **settings)


def steer(feature: str, prompt: Any, model: str, **settings: Any) -> Any:
    """Change a feature at strengths, as `dreamy_lens.steer` does."""
    return import_module("dreamy_lens").steer(feature, prompt, model, **settings)


def ablate(parts: Any, prompts: Any, model: str, **settings: Any) -> Any:
    """Take parts out of a model, as `dreamy_lens.ablate` does."""
    return import_module("dreamy_lens").ablate(parts, prompts, model, **settings)


def patch(feature: str, prompt: Any, neutral: Any, model: str, **settings: Any) -> Any:
    """Patch activations between prompts, as `dreamy_lens.patch` does."""
    return import_module("dreamy_lens").patch(feature, prompt, neutral, model, **settings)


def mechanisms(run: Any, **settings: Any) -> Any:
    """Find the ways in which the prompts of a run drive its feature, as `dreamy_lens.mechanisms` does."""
    return import_module("dreamy_lens").mechanisms(run, **settings)


def baselines(run: Any) -> Any:
    """Measure a run's feature on random prompts, as `dreamy_lens.baselines` does."""
    return import_module("dreamy_lens").baselines(run)


def cross_entropies(prompts: list[list[int]], model: Any, prepend_bos: bool) -> list[float]:
    """Return the cross-entropy of prompts of any lengths under a model, in nats per token."""
    score, found = import_module("dreamy_lens").score, [0.0] * len(prompts)
    for length in {len(ids) for ids in prompts}:
        places = [i for i, ids in enumerate(prompts) if len(ids) == length]
        scores = score("mean_cross_entropy()", [prompts[i] for i in places], model, prepend_bos=prepend_bos)
        for i, value in zip(places, scores.cross_entropy.tolist(), strict=True):
            found[i] = value
    return found


def show_attribution(result: Any) -> None:
    """Display the view of a finished attribution in the current notebook cell."""
    _late("panels.cells", "show_attribution")(result)


def card_page(card: Any, top: int, static: bool) -> str:
    """Return the page of a card."""
    return _late("panels.card_page", "card_page")(card, top=top, static=static)


def card_fragment(card: Any) -> str:
    """Return the HTML that a notebook cell shows for a card."""
    return _late("panels.card_page", "card_fragment")(card)


def show(run: Any) -> None:
    """Display the live panel of a run, or of several, in the current notebook cell."""
    _late("panels.cells", "show")(run)


def panel_of(run: Any) -> Any:
    """Return a live panel of a run, or of several."""
    return _late("panels.cells", "panel_of")(run)


def page_of_runs(runs: Any) -> str:
    """Return the page of several runs, with their panel."""
    return _late("panels.pages", "page_of_runs")(runs)


def explore_run(run: Any, prompt: Any) -> Any:
    """Return a panel that explores a prompt under a run's feature; a dream started there has the run's settings."""
    return _late("panels.attribution", "explore_run")(run, prompt)


def page_of_run(run: Any, k: int, strips: int) -> str:
    """Return one HTML page of a run, with its panel, which answers clicks without a kernel."""
    return _late("panels.pages", "page_of_run")(run, k=k, strips=strips)

"""Fluent dreaming for language models: find prompts that drive an internal feature while they still read as language.

>>> import dreamy_lens as dl
>>> feature = dl.neuron(2, 17)
>>> feature == dl.parse("L2.N17") == dl.hook("blocks.2.mlp.hook_post")[-1, 17]
True
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Every public name and where it lives. Nothing is imported before it is used, so that `import dreamy_lens` is instant.
_HOMES = {
    "load_model": "dreamy_lens.models.load",
    "hook": "dreamy_lens.features.constructors",
    "neuron": "dreamy_lens.features.constructors",
    "logit": "dreamy_lens.features.constructors",
    "logit_difference": "dreamy_lens.features.constructors",
    "log_prob": "dreamy_lens.features.constructors",
    "sae_latent": "dreamy_lens.features.constructors",
    "mean_cross_entropy": "dreamy_lens.features.constructors",
    "custom": "dreamy_lens.features.constructors",
    "neurons": "dreamy_lens.features.families",
    "parse": "dreamy_lens.features.parser",
    "bind": "dreamy_lens.features.binding",
    "score": "dreamy_lens.api.score",
    "EPOConfig": "dreamy_lens.search.config",
    "constraints": "dreamy_lens.search.constraints",
    "dream": "dreamy_lens.api.dream",
    "load_run": "dreamy_lens.api.dream",
    "merge": "dreamy_lens.results.merged",
    "sweep": "dreamy_lens.api.sweep",
    "Sweep": "dreamy_lens.sweeps.sweep",
    "max_activating": "dreamy_lens.api.max_activating",
    "Examples": "dreamy_lens.scan.examples",
    "compare": "dreamy_lens.api.compare",
    "card": "dreamy_lens.api.card",
    "logit_effect": "dreamy_lens.analysis.logit_effects",
    "attribution": "dreamy_lens.api.attribution",
    "explore": "dreamy_lens.panels.attribution",
    "browse": "dreamy_lens.panels.browser",
    "panels": "dreamy_lens.panels",
    "corpus": "dreamy_lens.corpus",
    "errors": "dreamy_lens.errors",
}
_MODULES = {"constraints", "corpus", "errors", "panels"}

__all__ = [*_HOMES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dreamy_lens' has no attribute {name!r}; it has: {', '.join(sorted(_HOMES))}")
    module = importlib.import_module(_HOMES[name])
    found = module if name in _MODULES else getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

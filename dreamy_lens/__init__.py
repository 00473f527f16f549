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
    "hook": "dreamy_lens.features.build",
    "neuron": "dreamy_lens.features.build",
    "logit": "dreamy_lens.features.build",
    "logit_difference": "dreamy_lens.features.build",
    "log_prob": "dreamy_lens.features.build",
    "sae_latent": "dreamy_lens.features.build",
    "mean_cross_entropy": "dreamy_lens.features.build",
    "custom": "dreamy_lens.features.build",
    "neurons": "dreamy_lens.features.families",
    "parse": "dreamy_lens.features.grammar",
    "bind": "dreamy_lens.features.bind",
    "score": "dreamy_lens.scoring.scorer",
    "EPOConfig": "dreamy_lens.search.config",
    "constraints": "dreamy_lens.search.constraints",
    "dream": "dreamy_lens.dreaming",
    "load_run": "dreamy_lens.dreaming",
    "merge": "dreamy_lens.results.merge",
    "sweep": "dreamy_lens.cluster.sweeping",
    "Sweep": "dreamy_lens.cluster.sweep",
    "max_activating": "dreamy_lens.scanning",
    "Examples": "dreamy_lens.dataset.examples",
    "compare": "dreamy_lens.comparing",
    "card": "dreamy_lens.carding",
    "logit_effect": "dreamy_lens.effects",
    "attribution": "dreamy_lens.attributing",
    "explore": "dreamy_lens.panels.attribution",
    "browse": "dreamy_lens.panels.browser",
    "panels": "dreamy_lens.panels",
    "corpus": "dreamy_lens.dataset",
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

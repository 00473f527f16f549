"""Fluent dreaming for language models: find prompts that drive an internal feature while they still read as language.

`load_model` loads a model, and `dream` searches for prompts that drive a feature of it. `neuron`, `hook`, `logit` and
`sae_latent` name features, and `parse` reads a feature from text. `attribution` shows which tokens carry a feature,
`max_activating` finds the text of a corpus that drives it most, and `compare` compares dreams with that text.

>>> import dreamy_lens as dl
>>> feature = dl.neuron(2, 17)
>>> feature == dl.parse("L2.N17") == dl.hook("blocks.2.mlp.hook_post")[-1, 17]
True
"""

from __future__ import annotations

from typing import Any

import lazy_loader as _lazy

__version__ = "0.1.0"

# __init__.pyi says where each public name lives. A name is imported when it is first used, so that
# `import dreamy_lens` takes no time, and editors complete the names all the same.
_load, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'dreamy_lens' has no attribute {name[:80]!r}; it has: {', '.join(__all__)}")
    return _load(name)

"""Analyses of a feature on given prompts: attribution, effect on the logits, checks of a model."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

"""Analyses of a feature: attribution to tokens, direct effect on the logits, checks of feature and model."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

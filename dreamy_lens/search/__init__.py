"""Evolutionary Prompt Optimization (EPO): settings, constraints, operators, selection, restarts and the loop."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

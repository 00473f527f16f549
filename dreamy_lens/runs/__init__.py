"""Runs of the search: how they start, go on, stop, and are saved."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

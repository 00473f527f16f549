"""Runs of the search: starting, pausing, resuming, stopping and saving them."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

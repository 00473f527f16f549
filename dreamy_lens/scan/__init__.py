"""Scans of a corpus: the strongest windows and the distribution of values of every feature, and their tables."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

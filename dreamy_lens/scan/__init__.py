"""Scans of a corpus: the strongest windows of every feature, its distribution, and the tables that keep them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

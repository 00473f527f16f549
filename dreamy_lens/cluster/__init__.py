"""Scans and sweeps on the workers of a Ray cluster, of this machine or of many."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

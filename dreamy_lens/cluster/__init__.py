"""Scans on the workers of a Ray cluster, on one machine or on many, and what sweeps need to run there too."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

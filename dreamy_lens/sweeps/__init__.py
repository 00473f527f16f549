"""Sweeps: many runs over features, settings and seeds, made in this process or on the workers of a Ray cluster."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

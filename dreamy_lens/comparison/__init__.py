"""Comparisons of dreams with a corpus at every fluency: as numbers, sentences, figures and pages.

A comparison is plain data made of results and examples. Only computing it may use a model.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

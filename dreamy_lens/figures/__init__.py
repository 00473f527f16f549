"""Plotly figures of results, to be restyled and printed: pure functions, each of which returns a new figure.

Plotly is imported when a figure is made, not before.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

"""Plotly figures of results, for notebooks, pages and papers.

Every function returns a new figure that you may restyle, and changes nothing else. Plotly is imported only when you
make a figure.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

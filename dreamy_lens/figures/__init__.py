"""Figures of results, for notebooks, pages and papers.

Every function returns a new figure and changes nothing else. Most figures are plotly's, and you may restyle them;
plotly is imported only when you make one. Strips of tokens and maps of substitutes are SVG, which needs no browser.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

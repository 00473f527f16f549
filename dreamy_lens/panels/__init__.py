"""Live views of runs and attributions for notebooks, and the same views frozen: anywidget, no kernel extension.

Panels sit on top of everything else: they show results and ask runs. Nothing imports them before something is shown.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

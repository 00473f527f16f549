"""Live views of runs and attributions for notebooks, and frozen copies that need no kernel.

The views are anywidget widgets, so they need no notebook extension. Other packages import this one only when a view is
displayed.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

"""Results of a dream as plain data: prompts, history, frontier, attribution, and the folders that keep them.

Nothing here needs a model or torch: results are read, compared, drawn and saved on any machine.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

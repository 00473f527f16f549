"""Results of a dream as plain data: prompts, history, frontier, attribution, and their files.

Results need neither a model nor torch. You can read, compare, draw and save them on any machine.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

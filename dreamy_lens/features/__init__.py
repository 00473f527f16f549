"""Features: scalar functions of a prompt. They are plain values, and need no model until they are bound to one."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

"""Models: loading, running and hooking them, their vocabularies, and the model that ships with the package."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

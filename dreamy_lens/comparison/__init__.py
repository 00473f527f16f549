"""Dreams held against a corpus: what both reach at every fluency, in numbers, sentences, pictures and pages.

Comparisons are plain data over results and examples; only finding them may use a model.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

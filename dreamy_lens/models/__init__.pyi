from .bypass import Bypass as Bypass
from .hooked_model import HookedModel as HookedModel
from .kernels import Kernels as Kernels
from .load import as_hooked as as_hooked
from .load import load_model as load_model
from .packed_forward import PackedModel as PackedModel
from .prefix_tree import PrefixTree as PrefixTree
from .vocabulary import Vocabulary as Vocabulary

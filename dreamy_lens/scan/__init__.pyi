from .checkpoint import Checkpoint as Checkpoint
from .config import ScanConfig as ScanConfig
from .examples import Examples as Examples
from .feature_examples import FeatureExamples as FeatureExamples
from .scan import Scan as Scan
from .scanner import Scanner as Scanner
from .window import Histogram as Histogram
from .window import Window as Window

from .card import Card as Card
from .comparison import Comparison as Comparison
from .corpus_frontier import CorpusFrontier as CorpusFrontier
from .figure import comparison_figure as comparison_figure
from .ngrams import NgramIndex as NgramIndex

"""Text to hold dreams against: files, data sets, lists, and the documentation that ships with Python packages."""

from dreamy_lens.dataset.corpora import Block, Corpus, Section
from dreamy_lens.dataset.documentation import PACKAGES, Document, docstrings, is_held_out
from dreamy_lens.dataset.problems import Problem, Problems
from dreamy_lens.dataset.sources import open_corpus
from dreamy_lens.dataset.sources import open_corpus as open
from dreamy_lens.dataset.windows import Windows, WindowSettings, windows_of

__all__ = [
    "PACKAGES",
    "Block",
    "Corpus",
    "Document",
    "Problem",
    "Problems",
    "Section",
    "WindowSettings",
    "Windows",
    "docstrings",
    "is_held_out",
    "open",
    "open_corpus",
    "windows_of",
]

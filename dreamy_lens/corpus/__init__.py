"""Texts to compare dreams with: files, data sets, lists, and the documentation that ships with Python packages."""

from dreamy_lens.corpus.corpus import Block, Corpus, Section
from dreamy_lens.corpus.documentation import PACKAGES, Document, docstrings, is_held_out
from dreamy_lens.corpus.drawing import passages
from dreamy_lens.corpus.problems import Problem, Problems
from dreamy_lens.corpus.sources import open_corpus
from dreamy_lens.corpus.sources import open_corpus as open
from dreamy_lens.corpus.windows import Windows, WindowSettings, cut_windows

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
    "cut_windows",
    "docstrings",
    "is_held_out",
    "open",
    "open_corpus",
    "passages",
]


def __dir__() -> list[str]:
    return sorted(__all__)

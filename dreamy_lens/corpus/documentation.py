"""The documentation that ships with Python packages, as a text corpus.

What this module promises:

* *No download.* The text is read from the source files of packages that are already installed; none of their code runs.
  What is not installed is passed over, so the corpus is that of this machine.
* *Deterministic.* Packages in the order given, files by path, docstrings by line: the same installation gives the same
  documents in the same order.
* *No near-duplicates.* Libraries copy their own documentation a great deal; a document most of whose word sequences
  were already seen is dropped, so that a held-out document has no twin in the training split.
* *A split that does not move.* A document is held out if the MD5 of its UTF-8 text, read as an integer, is divisible by
  50. It depends on nothing but the text, so it is the same on every machine.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import inspect
import os
import re
import sys
import sysconfig
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dreamy_lens._files import cached_json
from dreamy_lens.errors import SettingsError

PACKAGES: tuple[str, ...] = (
    "stdlib",
    "pydoc_data.topics",
    "torch",
    "numpy",
    "transformers",
    "transformer_lens",
    "pandas",
    "datasets",
    "sympy",
    "huggingface_hub",
    "accelerate",
    "IPython",
)
"""Where the documentation is taken from, in this order; packages that are not installed are passed over."""

SPLITS = ("train", "held_out")

HELD_OUT_DIVISOR = 50
VERSION = 1
"""Of the way from source files to documents."""

SHINGLE_WORDS = 6
NEAR_DUPLICATE = 0.5
MIN_CHARACTERS = 24

_SKIPPED_FOLDERS = {"test", "tests", "_tests", "site-packages", "dist-packages", "__pycache__", "lib2to3"}
_DOC_SETTERS = {"add_docstr", "_add_docstr", "add_newdoc", "add_docstr_all"}
_DOC_SETTER = re.compile("add_docstr|add_newdoc")  # a source without a match calls none of them
_BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")  # where statements hold other statements, in order
_WORD = re.compile(r"[a-z]+|[0-9]+")
_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")  # NUL, and halves of surrogate pairs, which have no UTF-8


@dataclass(frozen=True)
class Document:
    """One docstring: its cleaned `text` and the `source` it came from, as ``package/file.py:qualified.name``."""

    text: str
    source: str

    @property
    def held_out(self) -> bool:
        """Whether the MD5 of the UTF-8 text, as an integer, is divisible by 50."""
        return is_held_out(self.text)


def is_held_out(text: str) -> bool:
    """Whether a text belongs to the held-out split, decided by its MD5 alone.

    >>> is_held_out("Return the sum of the elements.")
    False
    """
    digest = hashlib.md5(text.encode("utf-8", "surrogatepass"), usedforsecurity=False)
    return int(digest.hexdigest(), 16) % HELD_OUT_DIVISOR == 0


def docstrings(split: str | None = None, packages: Iterable[str] = PACKAGES) -> list[Document]:
    """The documentation installed on this machine, without near-duplicates, always in the same order.

    With all of :data:`PACKAGES` installed these are about 48,000 documents, 21 MB. Reading them takes about half a
    minute; the result is kept on disk, so that only the first call waits, and the first after an installation.

    Args:
        split: "train", what the embedded model was trained on; "held_out", about one document in fifty, of which it saw
            nothing; None, both, training documents first.
        packages: names of top-level packages, "stdlib" for Python's own library, and "pydoc_data.topics" for the texts
            behind ``help("with")``.

    Returns:
        A list of documents, yours to change.

    Raises:
        SettingsError: there is no such split.

    >>> documents = docstrings(packages=["pydoc_data.topics"])
    >>> len(documents) > 50, documents[0].source
    (True, 'pydoc_data/topics.py:assert')
    >>> print(documents[0].text[:23])
    The "assert" statement
    """
    if split is not None and split not in SPLITS:
        raise SettingsError(f"There is no split {split!r}; use 'train', 'held_out', or None for both.")
    train, held_out = _splits(tuple(packages))
    return [*(() if split == "held_out" else train), *(() if split == "train" else held_out)]


def read_documents(packages: Iterable[str] = PACKAGES) -> Iterator[Document]:
    """Every docstring of the installed packages, exact repeats included, in the promised order."""
    for package in packages:
        if package == "pydoc_data.topics":
            yield from _topics()
            continue
        for root, label in _source_roots(package):
            for parts in sorted(_python_files(root)):
                yield from _docstrings_of_file(root.joinpath(*parts), "/".join((label, *parts)))


def without_near_duplicates(documents: Iterable[Document]) -> tuple[list[Document], list[Document]]:
    """Split documents into (training, held out) such that neither split repeats itself or the other.

    A document is a near-duplicate if at least half of its word 6-grams (letters and digits, case-folded) occur in
    documents kept before it; held-out documents are kept first, so nothing like them reaches the training split. A
    training document is also dropped if it contains half of the 6-grams of any one held-out document.

    Args:
        documents: in the order in which the first of several copies should win.

    Returns:
        The training documents and the held-out documents, each in their original order.
    """
    everything = [(document, _shingles(document.text)) for document in documents]
    held_out, train = [], []
    seen: set[int] = set()
    owners: dict[int, list[int]] = {}
    sizes: list[int] = []
    for document, shingles in everything:
        if document.held_out and not _mostly_in(shingles, seen):
            for shingle in shingles:
                owners.setdefault(shingle, []).append(len(held_out))
            held_out.append(document)
            sizes.append(len(shingles))
            seen.update(shingles)
    for document, shingles in everything:
        if document.held_out or _mostly_in(shingles, seen) or _swallows_one(shingles, owners, sizes):
            continue
        train.append(document)
        seen.update(shingles)
    return train, held_out


@lru_cache(maxsize=2)
def _splits(packages: tuple[str, ...]) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    found = cached_json("documentation", [VERSION, *packages, _files_digest(packages)], lambda: _read_splits(packages))
    train, held_out = (tuple(Document(text, source) for text, source in split) for split in found)
    return train, held_out


def _read_splits(packages: tuple[str, ...]) -> list[list[tuple[str, str]]]:
    return [[(d.text, d.source) for d in split] for split in without_near_duplicates(read_documents(packages))]


def _files_digest(packages: tuple[str, ...]) -> str:
    """Digest of names, sizes and times of all source files of the packages."""
    digest = hashlib.sha256(sys.version.encode())
    for package in packages:
        for root, label in _source_roots(package.split(".")[0]):
            for parts in sorted(_python_files(root)):
                with contextlib.suppress(OSError):
                    stat, name = root.joinpath(*parts).stat(), "/".join((label, *parts))
                    digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _mostly_in(shingles: list[int], seen: set[int]) -> bool:
    return not shingles or sum(s in seen for s in shingles) >= NEAR_DUPLICATE * len(shingles)


def _swallows_one(shingles: list[int], owners: dict[int, list[int]], sizes: list[int]) -> bool:
    """Whether these shingles hold half of those of some held-out document that is long enough to judge."""
    hits: dict[int, int] = {}
    for shingle in shingles:
        for owner in owners.get(shingle, ()):
            hits[owner] = hits.get(owner, 0) + 1
    return any(n >= NEAR_DUPLICATE * sizes[owner] and sizes[owner] >= 4 for owner, n in hits.items())


def _shingles(text: str) -> list[int]:
    """Distinct 64-bit hashes of the word 6-grams of a text; shorter texts have one, of all their words."""
    words = _WORD.findall(text.lower())
    if not words:
        return []
    codes = np.fromiter((_word_code(w) for w in words), dtype=np.uint64, count=len(words))
    width = min(SHINGLE_WORDS, len(words))
    hashes = np.zeros(len(words) - width + 1, dtype=np.uint64)
    for i in range(width):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + codes[i : i + len(hashes)]
        hashes ^= hashes >> np.uint64(29)
    return np.unique(hashes).tolist()


@cache
def _word_code(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def _source_roots(package: str) -> list[tuple[Path, str]]:
    if package == "stdlib":
        return [(Path(sysconfig.get_paths()["stdlib"]), "stdlib")]
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return []
    return [(Path(p), package) for p in (spec.submodule_search_locations or ())] if spec else []


def _python_files(root: Path) -> Iterator[tuple[str, ...]]:
    """Path parts, below root, of every source file that is not part of a test suite."""
    for folder, inner, files in os.walk(root):
        inner[:] = [name for name in inner if name not in _SKIPPED_FOLDERS]
        parts = Path(folder).relative_to(root).parts
        yield from ((*parts, name) for name in files if name.endswith(".py"))


def _docstrings_of_file(path: Path, label: str) -> Iterator[Document]:
    try:
        with tokenize.open(path) as file:
            source = file.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError, OSError, RecursionError):  # templates and files for other Pythons
        return
    found: list[tuple[int, str, str]] = []
    _collect(tree, "", ast.iter_child_nodes if _DOC_SETTER.search(source) else _statements, found)
    for _, name, text in sorted(found, key=lambda item: item[0]):
        if _is_prose(text):
            yield Document(text, f"{label}:{name}" if name else label)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """The statements directly inside a node: all there is to visit where only definitions matter."""
    for block in _BLOCKS:
        yield from getattr(node, block, ())


def _collect(node: ast.AST, name: str, children: Any, found: list[tuple[int, str, str]]) -> None:
    """Append (line, qualified name, text) of the docstrings of a node and of what its `children` lead to."""
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        if not isinstance(node, ast.Module):
            name = f"{name}.{node.name}".lstrip(".")
        text = ast.get_docstring(node)
        if text:
            found.append((getattr(node, "lineno", 0), name, text.strip()))
    elif isinstance(node, ast.Call):
        # torch and numpy attach the documentation of compiled functions by a call.
        setter = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if setter in _DOC_SETTERS:
            strings = [
                c for a in node.args for c in ast.walk(a) if isinstance(c, ast.Constant) and isinstance(c.value, str)
            ]
            if strings:
                text = max((str(c.value) for c in strings), key=len)
                found.append((node.lineno, name, inspect.cleandoc(text).strip()))
    for child in children(node):
        _collect(child, name, children, found)


def _topics() -> Iterator[Document]:
    try:
        from pydoc_data.topics import topics  # data and nothing else, so importing it is reading it
    except ImportError:  # some distributions leave it out
        return
    for name, text in sorted(topics.items()):
        if _is_prose(text):
            yield Document(text.strip(), f"pydoc_data/topics.py:{name}")


def _is_prose(text: str) -> bool:
    return len(text) >= MIN_CHARACTERS and not _NOT_TEXT.search(text)

"""The documentation that ships with Python packages, as a text corpus.

What this module promises:

* *No download.* The text is read from the source files of packages that are already installed; none of their code runs.
  Packages that are not installed are skipped, so the corpus depends on the machine.
* *Deterministic.* Packages come in the order given, files in the order of their paths, docstrings in the order of their
  lines. The same installation gives the same documents in the same order.
* *No near-duplicates.* Libraries often repeat their own documentation. A document is dropped if most of its word
  sequences occur in earlier documents, so that a held-out document has no copy in the training split.
* *A stable split.* A document is held out if the MD5 of its UTF-8 text, read as an integer, is divisible by 50. The
  split depends only on the text, so it is equal on every machine.
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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dreamy_lens._files import cached_json
from dreamy_lens._host import working
from dreamy_lens._warnings import ignored_warnings
from dreamy_lens.errors import SettingsError, quoted

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
"""Packages whose documentation is read, in this order; packages that are not installed are skipped."""

SPLITS = ("train", "held_out")

HELD_OUT_DIVISOR = 50
VERSION = 1
"""Version of the rules that turn source files into documents; a part of the cache's key."""

SHINGLE_WORDS = 6
"""Words of the sequences that are compared to find near-duplicates."""

NEAR_DUPLICATE = 0.5
"""Share of a document's word sequences that makes it a near-duplicate if they occur elsewhere."""

MIN_CHARACTERS = 24
"""Characters of the shortest docstring that is a document."""

_SKIPPED_FOLDERS = {"test", "tests", "_tests", "site-packages", "dist-packages", "__pycache__", "lib2to3"}
_DOC_SETTERS = {"add_docstr", "_add_docstr", "add_newdoc", "add_docstr_all"}
_DOC_SETTER = re.compile("add_docstr|add_newdoc")  # a source without a match calls none of `_DOC_SETTERS`
_BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")  # fields of AST nodes that hold statements, in order
_WORD = re.compile(r"[a-z]+|[0-9]+")
_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")  # NUL, and lone surrogates, which UTF-8 cannot encode


@dataclass(frozen=True)
class Document:
    """A docstring as a document of a corpus.

    Attributes:
        text: Cleaned text of the docstring.
        source: Definition that has the docstring, as ``package/file.py:qualified.name``.
    """

    text: str
    source: str

    @property
    def held_out(self) -> bool:
        """True if the document belongs to the held-out split; see :func:`is_held_out`."""
        return is_held_out(self.text)


def is_held_out(text: str) -> bool:
    """Return whether a text belongs to the held-out split: whether its MD5, as an integer, is divisible by 50.

    >>> is_held_out("Return the sum of the elements.")
    False
    """
    digest = hashlib.md5(text.encode("utf-8", "surrogatepass"), usedforsecurity=False)
    return int(digest.hexdigest(), 16) % HELD_OUT_DIVISOR == 0


def docstrings(split: str | None = None, packages: Iterable[str] = PACKAGES) -> list[Document]:
    """Return the documentation installed on this machine, without near-duplicates, always in the same order.

    With all of :data:`PACKAGES` installed there are about 48,000 documents, 21 MB. Reading them takes about half a
    minute. The result is kept on disk, so only the first call and the first call after an installation take that long.

    Args:
        split: "train" for the documents that the embedded model was trained on; "held_out" for the others, about one
            in fifty, which the model has never seen; None for both, training documents first.
        packages: Names of top-level packages, "stdlib" for Python's own library, and "pydoc_data.topics" for the texts
            behind ``help("with")``.

    Returns:
        A new list of documents, which you may change.

    Raises:
        SettingsError: The split does not exist.

    >>> documents = docstrings(packages=["pydoc_data.topics"])
    >>> len(documents) > 50, documents[0].source
    (True, 'pydoc_data/topics.py:assert')
    >>> print(documents[0].text[:23])
    The "assert" statement
    """
    if split is not None and split not in SPLITS:
        raise SettingsError(f"There is no split {quoted(split)}; use 'train', 'held_out', or None for both.")
    train, held_out = _splits(tuple(packages))
    return [*(() if split == "held_out" else train), *(() if split == "train" else held_out)]


def notice_of_scan(tokens: int | str | None, part: str, other: str) -> str:
    """Return a sentence on what it takes to scan the documentation, for a user who has named no corpus.

    Args:
        tokens: Number of tokens that will be scanned; None is the whole documentation.
        part: What scans a part, as in "--tokens 500k".
        other: What names another corpus, as in "--corpus SOURCE".
    """
    if tokens is not None:
        count = f"{tokens:,}" if isinstance(tokens, int) else tokens
        return f"No corpus is given: {count} tokens of the documentation of the installed packages will be scanned."
    return (
        "No corpus is given: the documentation of the installed packages, about 7 million tokens, will be scanned, "
        f"unless a scan of it is in the cache. This can take more than ten minutes. {part} scans a part, and {other} "
        "another text."
    )


def read_documents(packages: Iterable[str] = PACKAGES) -> Iterator[Document]:
    """Yield every docstring of the installed packages, including repeats, in the order that the module promises."""
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
    documents that were kept before it. Held-out documents are selected first, so nothing similar to them reaches the
    training split. A training document is also dropped if it contains half of the 6-grams of any held-out document.

    Args:
        documents: Documents in order; the first of several copies is kept.

    Returns:
        The training documents and the held-out documents, each in their original order.
    """
    candidates = [(document, _shingles(document.text)) for document in documents]
    held_out, train = [], []
    seen: set[int] = set()
    owners: dict[int, list[int]] = {}
    sizes: list[int] = []
    for document, shingles in candidates:
        if document.held_out and not _mostly_in(shingles, seen):
            for shingle in shingles:
                owners.setdefault(shingle, []).append(len(held_out))
            held_out.append(document)
            sizes.append(len(shingles))
            seen.update(shingles)
    for document, shingles in candidates:
        if document.held_out or _mostly_in(shingles, seen) or _contains_held_out(shingles, owners, sizes):
            continue
        train.append(document)
        seen.update(shingles)
    return train, held_out


@lru_cache(maxsize=2)
def _splits(packages: tuple[str, ...]) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    with working("Reading the documentation of the installed packages, which is kept for the next time"):
        key = [VERSION, *packages, _files_digest(packages)]
        splits = cached_json("documentation", key, lambda: _read_splits(packages))
    train, held_out = (tuple(Document(text, source) for text, source in split) for split in splits)
    return train, held_out


def _read_splits(packages: tuple[str, ...]) -> list[list[tuple[str, str]]]:
    return [[(d.text, d.source) for d in split] for split in without_near_duplicates(read_documents(packages))]


def _files_digest(packages: tuple[str, ...]) -> str:
    """Return a digest of the names, sizes and times of all source files of the packages."""
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


def _contains_held_out(shingles: list[int], owners: dict[int, list[int]], sizes: list[int]) -> bool:
    """Return whether the shingles contain half of those of a held-out document with at least four shingles.

    Args:
        shingles: Shingles of a training document.
        owners: For each shingle, the indices of the held-out documents that have it.
        sizes: Number of shingles of each held-out document.
    """
    hits: dict[int, int] = {}
    for shingle in shingles:
        for owner in owners.get(shingle, ()):
            hits[owner] = hits.get(owner, 0) + 1
    return any(n >= NEAR_DUPLICATE * sizes[owner] and sizes[owner] >= 4 for owner, n in hits.items())


def _shingles(text: str) -> list[int]:
    """Return distinct 64-bit hashes of the word 6-grams of a text; a shorter text has one hash, of all its words."""
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
    """Yield the path, as parts relative to `root`, of every source file that is not part of a test suite."""
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _SKIPPED_FOLDERS]
        parts = Path(folder).relative_to(root).parts
        yield from ((*parts, name) for name in files if name.endswith(".py"))


def _docstrings_of_file(path: Path, label: str) -> Iterator[Document]:
    try:
        with tokenize.open(path) as file:
            source = file.read()
        with ignored_warnings():  # packages may have invalid escapes in their strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError, OSError, RecursionError):  # templates, and files for other versions of Python
        return
    docs: list[tuple[int, str, str]] = []
    _collect(tree, "", ast.iter_child_nodes if _DOC_SETTER.search(source) else _statements, docs)
    for _, name, text in sorted(docs, key=lambda item: item[0]):
        if _is_prose(text):
            yield Document(text, f"{label}:{name}" if name else label)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements directly inside a node, which is enough to visit all definitions."""
    for block in _BLOCKS:
        yield from getattr(node, block, ())


def _collect(node: ast.AST, name: str, children: Any, docs: list[tuple[int, str, str]]) -> None:
    """Append (line, qualified name, text) of every docstring at and below a node to `docs`.

    Args:
        node: Node to visit.
        name: Qualified name of the definition that contains the node; empty for a module.
        children: Function that yields the nodes to visit below a node.
        docs: List to append to.
    """
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        if not isinstance(node, ast.Module):
            name = f"{name}.{node.name}".lstrip(".")
        text = ast.get_docstring(node)
        if text:
            docs.append((getattr(node, "lineno", 0), name, text.strip()))
    elif isinstance(node, ast.Call):
        # torch and numpy attach documentation to compiled functions by calling one of `_DOC_SETTERS`.
        setter = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if setter in _DOC_SETTERS:
            strings = [
                c for a in node.args for c in ast.walk(a) if isinstance(c, ast.Constant) and isinstance(c.value, str)
            ]
            if strings:
                text = max((str(c.value) for c in strings), key=len)
                docs.append((node.lineno, name, inspect.cleandoc(text).strip()))
    for child in children(node):
        _collect(child, name, children, docs)


def _topics() -> Iterator[Document]:
    try:
        from pydoc_data.topics import topics  # the module holds only data, so importing it runs no other code
    except ImportError:  # some distributions of Python leave the module out
        return
    for name, text in sorted(topics.items()):
        if _is_prose(text):
            yield Document(text.strip(), f"pydoc_data/topics.py:{name}")


def _is_prose(text: str) -> bool:
    return len(text) >= MIN_CHARACTERS and not _NOT_TEXT.search(text)

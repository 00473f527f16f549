"""The corpus is read from source, in a fixed order, without near-duplicates, and its split never moves."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import pytest

from dreamy_lens.corpus import Document, docstrings, documentation, is_held_out
from dreamy_lens.errors import SettingsError

WORDS = [
    f"{a}{b}"
    for a in ("red", "tall", "cold", "late", "wide", "soft")
    for b in ("stone", "river", "house", "door", "lamp")
]


def held_out_by_definition(text: str) -> bool:
    return int(hashlib.md5(text.encode("utf-8")).hexdigest(), 16) % 50 == 0


def text(n: int, held_out: bool, count: int = 14) -> str:
    """Return the n-th of many texts that share no six words in a row, from the requested side of the split."""
    start = 1000 * n
    while True:
        words = [f"{WORDS[(start + i) % len(WORDS)]} {start}" for i in range(count)]
        found = " ".join(words) + "."
        if held_out_by_definition(found) == held_out:
            return found
        start += 1


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a package on the path that raises an error when it is imported."""
    root = tmp_path / "imaginary_docs"
    root.mkdir()
    (root / "__init__.py").write_text(
        "'''The docstring of a package is a document.'''\nraise RuntimeError('imported')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return root


def read(*names: str) -> list[Document]:
    return list(documentation.read_documents(names))


def test_every_docstring_is_read_in_the_order_of_paths_and_lines_and_nothing_is_imported(package: Path):
    (package / "b.py").write_text(
        '''"""Module text, which comes first in its file."""
class Outer:
    """The class has a docstring of its own."""
    def method(self):
        """    Indented text is cleaned
        as inspect.cleandoc does.
        """
        if True:
            async def inner(): "A function inside a branch of a method."
    x = 1
    """A bare string that is no docstring at all."""
try:
    pass
except ValueError:
    def fallback():
        """Defined where an exception is handled."""
match 1:
    case 1:
        def cased(): """Defined inside a case of a match."""
'''
    )
    (package / "a").mkdir()
    (package / "a" / "z.py").write_text('def f():\n    """A folder sorts by its name, before b.py."""\n')
    found = [(d.source, d.text) for d in read("imaginary_docs")]
    assert found == [
        ("imaginary_docs/__init__.py", "The docstring of a package is a document."),
        ("imaginary_docs/a/z.py:f", "A folder sorts by its name, before b.py."),
        ("imaginary_docs/b.py", "Module text, which comes first in its file."),
        ("imaginary_docs/b.py:Outer", "The class has a docstring of its own."),
        ("imaginary_docs/b.py:Outer.method", "Indented text is cleaned\nas inspect.cleandoc does."),
        ("imaginary_docs/b.py:Outer.method.inner", "A function inside a branch of a method."),
        ("imaginary_docs/b.py:fallback", "Defined where an exception is handled."),
        ("imaginary_docs/b.py:cased", "Defined inside a case of a match."),
    ]
    assert "imaginary_docs" not in sys.modules


def test_documentation_attached_by_a_call_is_read(package: Path):
    (package / "docs.py").write_text(
        "add_docstr(f, 'This is the text of a compiled function.')\n"
        "_C._add_docstr(g, r'''\n    Formatted and indented text, of {n}.\n    '''.format(n=1))\n"
        "np.add_newdoc('module', 'name', ('attribute', 'The longest of its strings is the text.'))\n"
        "other(h, 'A call that sets no documentation at all.')\n"
    )
    assert [d.text for d in read("imaginary_docs")][1:] == [
        "This is the text of a compiled function.",
        "Formatted and indented text, of {n}.",
        "The longest of its strings is the text.",
    ]


def test_test_suites_and_files_that_are_not_python_are_passed_over(package: Path):
    for folder in ("tests", "test", "__pycache__"):
        (package / folder).mkdir()
        (package / folder / "some.py").write_text('"""This text must not be found anywhere."""')
    (package / "template.py").write_text('"""This text neither.""" {{ jinja }} !')
    (package / "other.txt").write_text('"""Nor is this text a document."""')
    (package / "binary.py").write_bytes(b"\x00\xff\xfe")
    (package / "latin.py").write_bytes(
        '# coding: latin-1\n"""A declared encoding is respected: \xe9."""'.encode("latin-1")
    )
    (package / "short.py").write_text(
        '"""The functions are too short."""\ndef f(): "Short."\ndef g(): "Has a NUL \\0 inside of its text."'
    )
    assert [d.text for d in read("imaginary_docs")][1:] == [
        "A declared encoding is respected: é.",
        "The functions are too short.",
    ]


def test_packages_that_are_not_installed_are_passed_over(package: Path):
    assert [d.source for d in read("not_installed_anywhere", "imaginary_docs")] == ["imaginary_docs/__init__.py"]
    assert docstrings(packages=["not_installed_anywhere"]) == []


def test_documents_are_held_out_by_the_md5_of_their_text_alone():
    assert is_held_out(text(1, True)) and not is_held_out(text(1, False))
    assert Document(text(1, True), "anywhere").held_out


def test_of_copies_the_first_is_kept_and_held_out_documents_leave_no_twin_in_training():
    kept, secret, other = text(1, False), text(2, True), text(3, False)
    almost = secret + " With an ending."
    while held_out_by_definition(almost):
        almost += "."
    documents = [
        Document(t, str(i))
        for i, t in enumerate([almost, kept, kept.upper(), secret, kept, other, "... --- ... --- ..."])
    ]
    train, held_out = documentation.without_near_duplicates(documents)
    assert [d.source for d in train] == ["1", "5"]
    assert [d.source for d in held_out] == ["3"]


def test_a_long_document_that_quotes_most_of_a_held_out_one_is_dropped():
    secret = text(2, True)
    quoting = next(t for n in range(3, 99) if not is_held_out(t := f"{text(n, False, 200)} {secret}"))
    train, held_out = documentation.without_near_duplicates([Document(quoting, "quoting"), Document(secret, "secret")])
    assert (train, [d.source for d in held_out]) == ([], ["secret"])


def test_the_corpus_of_a_real_package_has_no_near_duplicates_between_its_splits():
    """The check uses sets of word tuples, and not the hashes that the corpus itself uses."""
    train, held_out = (docstrings(split, packages=["numpy", "pydoc_data.topics"]) for split in ("train", "held_out"))
    assert len(train) > 500 and len(held_out) > 10
    assert all(held_out_by_definition(d.text) for d in held_out)
    assert not any(held_out_by_definition(d.text) for d in train)

    def sixes(document: Document) -> set[tuple[str, ...]]:
        words = re.findall("[a-z]+|[0-9]+", document.text.lower())
        width = min(6, len(words))
        return {tuple(words[i : i + width]) for i in range(len(words) - width + 1)}

    all_held_out = set().union(*map(sixes, held_out))
    for document in train:
        mine = sixes(document)
        assert 2 * len(mine & all_held_out) < len(mine), document.source
    trained = [sixes(d) for d in train]
    for document in held_out:
        mine = sixes(document)
        if len(mine) >= 4:
            assert all(2 * len(mine & theirs) < len(mine) for theirs in trained), document.source


def test_the_corpus_is_the_same_every_time_and_the_callers_list_is_its_own(package: Path):
    (package / "m.py").write_text("\n".join(f"def f{n}():\n    '''{text(n, n % 3 == 0)}'''" for n in range(1, 12)))
    everything = docstrings(packages=["imaginary_docs"])
    train, held_out = (docstrings(split, packages=("imaginary_docs",)) for split in ("train", "held_out"))
    assert everything == train + held_out
    assert len(held_out) == 3 and len(train) == 9
    train.clear()
    assert docstrings("train", packages=["imaginary_docs"])
    documentation._splits.cache_clear()
    assert docstrings(packages=["imaginary_docs"]) == everything


def test_it_is_remembered_on_disk_until_a_file_changes(package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("DREAMY_LENS_CACHE", str(tmp_path / "cache"))
    (package / "m.py").write_text(f"def f():\n    '''{text(1, False)}'''")
    documentation._splits.cache_clear()
    first = docstrings(packages=["imaginary_docs"])
    documentation._splits.cache_clear()
    with monkeypatch.context() as closed:
        closed.setattr(documentation, "read_documents", lambda packages: pytest.fail("read again"))
        assert docstrings(packages=["imaginary_docs"]) == first
    (package / "m.py").write_text(f"def f():\n    '''{text(2, False)} and more'''")
    documentation._splits.cache_clear()
    assert docstrings(packages=["imaginary_docs"]) != first
    # A damaged file of the cache is written again.
    *_, newest = sorted((tmp_path / "cache").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    newest.write_bytes(b"half")
    documentation._splits.cache_clear()
    assert len(docstrings(packages=["imaginary_docs"])) == 2


def test_an_unknown_split_is_an_error_that_names_the_splits():
    with pytest.raises(SettingsError, match="no split 'test'; use 'train', 'held_out', or None"):
        docstrings("test")

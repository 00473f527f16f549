"""Every kind of source gives equal blocks, wherever reading begins."""

from __future__ import annotations

import gzip
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamy_lens.corpus import Document, docstrings, open_corpus, records, sections
from tests.helpers.texts import TEXTS, dataset_of, small, texts_of, write

SOURCES: dict[str, Callable[[Path], tuple[Any, dict[str, Any]]]] = {
    "list": lambda folder: (TEXTS, {}),
    "function": lambda folder: (lambda: iter(TEXTS), {}),
    "one text file": lambda folder: (write(folder / "a.txt", TEXTS), {}),
    "text file": lambda folder: (write(folder / "a.txt", TEXTS), {"separator": "\n\n\n"}),
    "text file.zst": lambda folder: (write(folder / "a.txt.zst", TEXTS), {"separator": "\n\n\n"}),
    "text file.gz": lambda folder: (write(folder / "a.md.gz", TEXTS), {"separator": "\n\n\n"}),
    "json lines": lambda folder: (write(folder / "a.jsonl", TEXTS), {}),
    "json lines.gz": lambda folder: (write(folder / "a.jsonl.gz", TEXTS), {}),
    "json lines.zst": lambda folder: (write(folder / "a.jsonl.zst", TEXTS), {}),
    "json array": lambda folder: (write(folder / "a.json", TEXTS), {}),
    "parquet": lambda folder: (write(folder / "a.parquet", TEXTS, row_group_size=7), {}),
    "data set": lambda folder: (dataset_of(TEXTS), {}),
    "shuffled data set": lambda folder: (dataset_of(TEXTS).shuffle(seed=0), {}),
    "streamed data set": lambda folder: (dataset_of(TEXTS).to_iterable_dataset(num_shards=2), {}),
    "folder": lambda folder: (
        [write(folder / f"{i % 3}/{i:02}.jsonl", [text, "", text[::-1]]) for i, text in enumerate(TEXTS)] and folder,
        {},
    ),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_reading_from_any_block_on_gives_the_same_blocks(kind: str, tmp_path: Path):
    with small():
        source, options = SOURCES[kind](tmp_path)
        whole = open_corpus(source, **options)
        documents = texts_of(whole)
        if kind == "one text file":
            assert list(documents.values()) == ["\n\n\n".join(TEXTS)]
        elif kind == "folder":
            assert sorted(documents.values()) == sorted([*TEXTS, *(text[::-1] for text in TEXTS)])
        else:
            wanted = TEXTS if kind != "shuffled data set" else source["text"]
            assert list(documents.values()) == [text.strip() if "file" in kind else text for text in wanted]
        for shard in range(len(whole.shards)):
            blocks = list(open_corpus(source, **options).blocks(shard))
            assert len(blocks) > 5 and [block.number for block in blocks] == list(range(len(blocks)))
            assert all(256 <= sum(len(s.text.encode()) for s in b.sections) < 512 for b in blocks[:-1])
            assert all(len(section.text) <= 64 for block in blocks for section in block.sections)
            sent = pickle.loads(pickle.dumps(whole)) if kind != "function" else whole
            for start in range(len(blocks) + 2):
                assert list(open_corpus(source, **options).blocks(shard, start)) == blocks[start:]
                assert list(whole.blocks(shard, start)) == blocks[start:]
                assert list(sent.blocks(shard, start)) == blocks[start:]
            assert whole.characters(shard) == sum(block.characters for block in blocks)
            at = [whole.share_before(shard, block.done) for block in blocks]
            assert at == sorted(at, key=lambda x: x or 0.0)
            known = [block.done for block in blocks if block.done is not None]
            assert known == sorted(known) and all(0 < done <= 1 for done in known)
            assert not known or known[-1] == 1
        assert sum(block.documents for s in range(len(whole.shards)) for block in whole.blocks(s)) == len(documents)
        assert whole.fingerprint == open_corpus(source, **options).fingerprint == sent.fingerprint


@given(
    text=st.lists(
        st.sampled_from([" ", "\n", "\r\n", "\r", "\t", "a", "word", "é", "日本", "🙂", "\u3000"]), max_size=150
    ),
    chunk=st.integers(1, 200),
    mark=st.sampled_from([None, "\n\n", "word", "é"]),
)
def test_a_text_file_is_what_python_reads(tmp_path_factory: pytest.TempPathFactory, text: list[str], chunk: int, mark):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes("".join(text).encode())
    if not path.stat().st_size:
        return
    with small(section=16, block=40, chunk=chunk):
        corpus = open_corpus(path, separator=mark)
        expected = path.read_text(encoding="utf-8")
        if mark is None:
            assert "".join(texts_of(corpus).values()) == expected
        else:
            spaces = " \t\n\r\v\f"
            documents = [part.strip(spaces) for part in expected.split(mark)]
            if mark != "\n\n" or "\r" not in "".join(text):
                assert list(texts_of(corpus).values()) == [document for document in documents if document]
        blocks = list(corpus.blocks(0))
        for start in range(len(blocks)):
            assert list(open_corpus(path, separator=mark).blocks(0, start)) == blocks[start:]
            assert list(corpus.blocks(0, start)) == blocks[start:]


@given(text=st.text(st.sampled_from(" \n\ta日🙂"), max_size=200))
def test_sections_are_the_text_and_end_where_words_do(text: str):
    with small(section=16):
        cuts = list(sections.cut_text(text))
        assert "".join(cut for _, cut in cuts) == text
        position = 0
        for start, cut in cuts:
            assert start == position and 0 < len(cut) <= 16
            position += len(cut)
            inside = 0 < position < len(text) and not text[position - 1].isspace() and not text[position].isspace()
            assert not inside or not any(c.isspace() for c in cut[8:])


def test_line_breaks_of_windows_do_not_hide_separators(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"One\r\ntext.\r\n\r\n\r\nAnother.\r\n\n\n\n\nThird.")
    assert list(texts_of(open_corpus(tmp_path / "a.txt", separator="\n\n\n")).values()) == [
        "One\ntext.",
        "Another.",
        "Third.",
    ]


def test_documents_are_named_after_their_place(tmp_path: Path):
    write(tmp_path / "b" / "rows.jsonl", ["One.", "Two."])
    write(tmp_path / "a.txt", ["First.", "Second."])
    write(tmp_path / "t.parquet", ["x", "y"], row_group_size=1)
    assert list(texts_of(open_corpus(tmp_path, separator="\n\n\n"))) == [
        "a.txt:1",
        "a.txt:2",
        "b/rows.jsonl:1",
        "b/rows.jsonl:2",
        "t.parquet:0",
        "t.parquet:1",
    ]
    assert list(texts_of(open_corpus(tmp_path / "a.txt"))) == ["a.txt"]
    assert list(texts_of(open_corpus(["a", Document("b", "where it is from")]))) == ["text 0", "where it is from"]


def test_corpora_are_named_for_people(tmp_path: Path):
    write(tmp_path / "corpus" / "a.txt", TEXTS)
    write(tmp_path / "corpus" / "b.txt", TEXTS)
    assert open_corpus(tmp_path / "corpus" / "a.txt").name == "a.txt"
    assert open_corpus(tmp_path / "corpus").name == f"folder {tmp_path}/corpus/ (2 files)"
    assert open_corpus(f"{tmp_path}/corpus/*.txt").name == f"{tmp_path}/corpus/*.txt (2 files)"
    assert open_corpus(["one"]).name == "1 text"
    assert open_corpus().name == open_corpus("docstrings").name == "docstrings"
    assert repr(open_corpus(["one", "two"])) == "<corpus '2 texts': 1 shard>"


def test_the_documentation_is_a_corpus_with_a_shard_for_each_split():
    corpus = open_corpus(packages=["numpy"])
    assert corpus.shards == ("train", "held_out") and corpus.characters(0) is None
    assert [len(open_corpus(None, split=s, packages=["numpy"]).shards) for s in corpus.shards] == [1, 1]
    (block,) = open_corpus("docstrings", split="held_out", packages=["numpy"]).blocks(0)
    assert [(s.document, s.text) for s in block.sections] == [
        (d.source, d.text) for d in docstrings("held_out", ["numpy"])
    ]
    fingerprints = {
        open_corpus(split=s, packages=p).fingerprint for s in (None, "train") for p in (["numpy"], ["torch"])
    }
    assert len(fingerprints) == 4
    sent = pickle.loads(pickle.dumps(corpus))
    with mock.patch("dreamy_lens.corpus.memory.docstrings", side_effect=AssertionError):
        assert len(list(sent.blocks(1))) == 1


def test_a_place_in_the_corpus_counts_shards_by_their_size(tmp_path: Path):
    train, held_out = (sum(len(d.text) for d in docstrings(split, ["numpy"])) for split in ("train", "held_out"))
    corpus = open_corpus(packages=["numpy"])
    assert train > 9 * held_out > 0
    assert corpus.share_before(0, 0.5) == pytest.approx(0.5 * train / (train + held_out))
    assert [corpus.share_before(1, done) for done in (None, 1.0)] == pytest.approx([train / (train + held_out), 1])
    with mock.patch("dreamy_lens.corpus.files.SMALL", 0):
        sizes = [write(tmp_path / f"{i}.txt", TEXTS * n).stat().st_size for i, n in enumerate((9, 1))]
        files = open_corpus(tmp_path)
    assert len(files.shards) == 2
    assert [files.share_before(0, 1.0), files.share_before(1, 0.5)] == pytest.approx(
        [sizes[0] / sum(sizes), (sizes[0] + 0.5 * sizes[1]) / sum(sizes)]
    )
    streams = open_corpus(dataset_of(TEXTS).to_iterable_dataset(num_shards=2))
    assert [streams.share_before(shard, None) for shard in range(len(streams.shards))] in ([None], [0, 0.5])


def test_a_fingerprint_changes_with_what_the_corpus_yields(tmp_path: Path):
    path = write(tmp_path / "a.txt", TEXTS)
    found = [open_corpus(path).fingerprint, open_corpus(path, separator="\n").fingerprint]
    write(path, TEXTS[:-1])
    found += [open_corpus(path).fingerprint, open_corpus(TEXTS).fingerprint, open_corpus(TEXTS[:-1]).fingerprint]
    found += [open_corpus(lambda: TEXTS).fingerprint, open_corpus(iter(TEXTS)).fingerprint]
    found += [open_corpus(iter(TEXTS)).fingerprint, open_corpus(dataset_of(TEXTS)).fingerprint]
    assert len(set(found)) == len(found)


def test_a_table_of_blocks_is_made_once_and_makes_skipping_quick(tmp_path: Path):
    write(tmp_path / "a.jsonl", TEXTS)
    with small():
        corpus = open_corpus(tmp_path / "a.jsonl")
        blocks = list(open_corpus(tmp_path / "a.jsonl").blocks(0))
        next(corpus.blocks(0))
        assert corpus.block_sizes() == [(0, block.number, block.characters) for block in blocks]
        sent = pickle.loads(pickle.dumps(corpus))
        with mock.patch.object(records.json, "loads", wraps=json.loads) as loads:
            assert next(sent.blocks(0, len(blocks) - 1)) == blocks[-1]
            assert loads.call_count <= len(blocks[-1].sections)
            assert sent.block_sizes() == corpus.block_sizes()


def test_a_table_is_right_after_a_reading_that_was_left_before_its_end():
    with small():
        corpus = open_corpus(TEXTS)
        blocks = corpus.blocks(0)
        expected = [(0, block.number, block.characters) for block in open_corpus(TEXTS).blocks(0)]
        for _ in expected:
            next(blocks)
        blocks.close()
        assert corpus.block_sizes() == expected


def test_small_files_share_a_shard_and_large_ones_have_their_own(tmp_path: Path):
    for i in range(5):
        write(tmp_path / f"{i}.txt", ["word " * (30 if i == 2 else 3)])
    with mock.patch("dreamy_lens.corpus.files.SMALL", 40):
        corpus = open_corpus(tmp_path)
    assert corpus.shards == ("0.txt … 1.txt (2 files)", "2.txt", "3.txt … 4.txt (2 files)")
    assert len(texts_of(corpus)) == 5


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl.zst"])
def test_memory_does_not_grow_with_a_file(name: str, tmp_path: Path):
    import tracemalloc

    row = ("The dog runs over the hill and the cat sleeps. " * 90).encode()
    line = json.dumps({"text": row.decode()}).encode() + b"\n" if "json" in name else row
    data = line * ((24 << 20) // len(line))
    if name.endswith(".gz"):
        data = gzip.compress(data, 1)
    elif name.endswith(".zst"):
        import pyarrow

        data = pyarrow.compress(data, codec="zstd", asbytes=True)
    (tmp_path / name).write_bytes(data)
    del data
    corpus = open_corpus(tmp_path / name)
    tracemalloc.start()
    try:
        total = sum(block.characters for block in corpus.blocks(0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total > 23 << 20 and peak < 8 << 20


def test_importing_the_corpora_is_light():
    code = "import sys, dreamy_lens.corpus; print({'torch', 'pyarrow', 'datasets', 'fsspec'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

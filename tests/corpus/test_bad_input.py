"""Unreadable input is skipped and counted once; errors about wrong sources say what exists instead."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from dreamy_lens.corpus import open_corpus
from dreamy_lens.corpus.problems import Problem
from dreamy_lens.errors import CorpusError, SettingsError
from tests.helpers.texts import TEXTS, small, texts_of, write


def test_what_is_broken_in_a_folder_is_passed_over_and_counted_once(tmp_path: Path):
    good = [f"A good line {i} " * 20 for i in range(12)]
    lines: list[Any] = [good[0], b"{broken\n", {"other": 1}, {"text": None}, b"[1]\n", b"[" * 100_000 + b"\n", b"\n"]
    lines += [good[1], {"text": ""}, b'"a line that is a text"\n', b'{"text": "not \xff UTF-8"}\n', {"text": 5}]
    write(tmp_path / "a.jsonl", [*lines, *good[2:5]])
    cut = gzip.compress("".join(json.dumps({"text": t + os.urandom(300).hex()}) + "\n" for t in good).encode())
    (tmp_path / "b.jsonl.gz").write_bytes(cut[: len(cut) // 2])
    (tmp_path / "c.parquet").write_bytes(b"PAR1 this is no table")
    (tmp_path / "d.zip").write_bytes(b"PK")
    (tmp_path / "e.txt").write_bytes(b"A text \xff\xfe with \0 and a word.")
    (tmp_path / "f.txt.zst").write_bytes(b"not compressed at all")
    (tmp_path / "g.txt").write_bytes("UTF-16".encode("utf-16"))
    (tmp_path / "h.txt").write_text("Vanishes.")
    (tmp_path / "i.jsonl").write_text('{"title": "has", "body": "two"}\n')
    (tmp_path / ".hidden.txt").write_text("Hidden.")
    (tmp_path / ".git").mkdir()
    write(tmp_path / ".git" / "x.txt", ["Hidden."])
    write(tmp_path / "z.txt", ["The last text."])
    with small(section=1 << 16, block=1000):
        corpus = open_corpus(tmp_path)
        assert [str(problem) for problem in corpus.problems] == ["d.zip (.zip)"]
        (tmp_path / "h.txt").unlink()
        documents = texts_of(corpus)
        counts = {"unknown format": 1, "broken line": 2, "no text": 4, "replaced characters": 3, "unreadable file": 6}
        assert corpus.problems.counts == counts
        assert [documents[f"a.jsonl:{i}"] for i in (1, 8, 10, 11)] == [
            *good[:2],
            "a line that is a text",
            "not \ufffd UTF-8",
        ]
        assert 2 < sum(name.startswith("b.jsonl.gz") for name in documents) < len(good)
        assert (documents["e.txt"], documents["z.txt"]) == (
            "A text \ufffd\ufffd with \ufffd and a word.",
            "The last text.",
        )
        assert not any(name.startswith((".", "c", "f", "g", "h", "i")) for name in documents)
        assert len(texts_of(corpus)) == len(documents) and corpus.problems.counts == counts
        reasons = {problem.name: problem.why for problem in corpus.problems}
        assert reasons["a.jsonl:2"].startswith("it is not JSON")
        assert (
            reasons["a.jsonl:3"] == "it has no field 'text'; its fields: 'other'"
            and reasons["a.jsonl:4"] == "its field 'text' is null"
        )
        assert reasons["a.jsonl:5"] == "an object was expected, but it is a list" and "deeply" in reasons["a.jsonl:6"]
        assert reasons["b.jsonl.gz"].startswith("it breaks off, and the rest is missing")
        assert reasons["h.txt"] == "No such file or directory" and "UTF-16" in reasons["g.txt"]
        assert reasons["i.jsonl"].startswith("it has several columns of strings: 'title', 'body'")
        blocks = list(corpus.blocks(0))
        assert len(blocks) > 3
        for start in range(len(blocks)):
            for reader in (corpus, open_corpus(tmp_path)):
                again = list(reader.blocks(0, start))
                assert again == blocks[start:]
                # "h.txt" was there when the corpus was opened, and is not when it is opened again.
                if reader is corpus:
                    assert [block.problems for block in again] == [block.problems for block in blocks[start:]]


def test_problems_after_the_last_text_come_in_a_block_of_their_own(tmp_path: Path):
    with small():
        corpus = open_corpus(write(tmp_path / "a.jsonl", ["x" * 256, b"{broken\n"]))
        first, last = corpus.blocks(0)
        assert (len(first.problems), last.sections, len(last.problems)) == (0, (), 1)
        assert list(corpus.blocks(0, 1)) == [last] and next(corpus.blocks(0, 1)).problems == last.problems


def test_a_file_of_nothing_but_broken_lines_has_no_text(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(b"{broken\n" * 50)
    corpus = open_corpus(tmp_path / "a.jsonl")
    (block,) = corpus.blocks(0)
    assert block.sections == () and corpus.problems.counts == {"broken line": 50}
    assert len(corpus.problems.first) == 20 and "and 30 more" in str(corpus.problems)


def test_a_damaged_row_group_costs_its_own_rows_only(tmp_path: Path):
    path = write(tmp_path / "a.parquet", TEXTS, row_group_size=10, compression="zstd", write_page_checksum=True)
    from pyarrow import parquet

    column = parquet.ParquetFile(path).metadata.row_group(1).column(1)
    data = bytearray(path.read_bytes())
    start, size = column.dictionary_page_offset, column.total_compressed_size
    data[start : start + size] = b"\xff" * size
    path.write_bytes(data)
    corpus = open_corpus(path)
    assert list(texts_of(corpus).values()) == [*TEXTS[:10], *TEXTS[20:]]
    assert [problem.name for problem in corpus.problems] == ["a.parquet, row group 1"]


def test_strings_of_a_table_that_are_not_text(tmp_path: Path):
    import pyarrow
    from pyarrow import parquet

    raw = pyarrow.array([b"good", b"not \xff UTF-8", None, b""], pyarrow.binary()).cast(pyarrow.string(), safe=False)
    parquet.write_table(pyarrow.table({"content": raw, "n": [1, 2, 3, 4]}), tmp_path / "a.parquet")
    corpus = open_corpus(tmp_path / "a.parquet")
    assert texts_of(corpus) == {"a.parquet:0": "good", "a.parquet:1": "not \ufffd UTF-8"}
    assert corpus.problems.counts == {"replaced characters": 1, "no text": 1}


def test_files_that_may_not_be_read_are_passed_over(tmp_path: Path):
    write(tmp_path / "a.txt", ["Secret."])
    write(tmp_path / "b.txt", ["Open."])
    whole = open

    def refuse(path: Any, *rest: Any) -> Any:
        if str(path).endswith("a.txt"):
            raise PermissionError(13, "Permission denied")
        return whole(path, *rest)

    with mock.patch("dreamy_lens.corpus.paths.open", refuse, create=True):
        corpus = open_corpus(tmp_path)
        assert texts_of(corpus) == {"b.txt": "Open."}
    assert [str(problem) for problem in corpus.problems] == ["a.txt (Permission denied)"]


def test_lone_surrogates_and_nul_are_replaced_one_by_one(tmp_path: Path):
    corpus = open_corpus(["a\0b\ud800c", "fine", 7, None])
    assert texts_of(corpus) == {"text 0": "a\ufffdb\ufffdc", "text 1": "fine"}
    assert corpus.problems.counts == {"replaced characters": 1, "no text": 2}
    (tmp_path / "a.jsonl").write_text('{"text": "half of \\ud83d a pair and \\u0000"}\n')
    assert list(texts_of(open_corpus(tmp_path / "a.jsonl")).values()) == ["half of \ufffd a pair and \ufffd"]


def test_a_line_that_is_too_long_is_passed_over(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", ["one", "x" * 5000, "two", "y" * 5000])
    with small(chunk=300), mock.patch("dreamy_lens.corpus.records.LONGEST_LINE", 1000):
        corpus = open_corpus(path)
        assert texts_of(corpus) == {"a.jsonl:1": "one", "a.jsonl:3": "two"}
    assert corpus.problems.counts == {"broken line": 2}


def test_a_row_that_is_too_long_is_not_read_into_memory(tmp_path: Path):
    from dreamy_lens.corpus import records
    from dreamy_lens.corpus.paths import local_file
    from dreamy_lens.corpus.streams import open_stream

    path = tmp_path / "a.jsonl"
    with open(path, "w") as file:
        file.write('{"text": "one"}\n{"text": "' + "x" * (1 << 22) + '"}\n{"text": "two"}\n')
    problems: list[Problem] = []
    with small(chunk=1 << 12), mock.patch.object(records, "LONGEST_LINE", 1 << 16):
        with open_stream(local_file(str(path), "a.jsonl")) as stream:
            most, fill = [0], stream.fill

            def measured(count: int) -> int:
                have = fill(count)
                most[0] = max(most[0], len(stream.data))
                return have

            stream.fill = measured  # type: ignore[method-assign]
            rows = list(records.json_rows(stream, "a.jsonl", (0, 1, 0), problems.append))
    assert [row for _, row, _, _ in rows] == [{"text": "one"}, {"text": "two"}]
    assert most[0] <= (1 << 16) + (1 << 13) and "the line is longer than" in problems[0].why


# What is an error


@pytest.mark.parametrize(
    "source, options, message",
    [
        ("stoires.txt", {}, r"There is no file or folder 'stoires.txt'. In . there are: stories.txt, "),
        ("empty", {}, r"There are no files with text in empty. Readable files end in .txt, .md, .jsonl"),
        ("notes.csv", {}, "notes.csv has a format that cannot be read"),
        ("void.txt", {}, "There is no text in void.txt: the file is empty"),
        ("*.jsonl", {}, r"No file matches '\*.jsonl'. In . there are: "),
        ("Once upon a time there was a dog.", {}, "If it is a text, give a list of texts"),
        ("", {}, "give a list of texts"),
        ("empty/stories", {}, "There is no file or folder 'empty/stories'. In empty there is nothing"),
        ("nothing", {}, "There is no file or folder 'nothing'"),
        ([], {}, "There is no text in the list: it is empty"),
        (["", ""], {}, "All texts of the list are empty"),
        ([1, 2], {}, "Expected texts, but the items of the list are of type int"),
        ([[1, 2]], {}, "items of the list are of type list"),
        (["stories.txt"], {}, "'stories.txt' is a file. A list of str is a list of texts; give pathlib.Path"),
        ({"a": "b"}, {}, "got dict: give list"),
        ({"a", "b"}, {}, "a set has no order"),
        (b"bytes", {}, "got bytes: decode them"),
        (5, {}, r"There is no corpus in 5 \(int\). Give a path"),
        (range(3), {}, "the items of range are of type int"),
        (
            "stories.txt",
            {"encoding": "utf-16"},
            "does not keep ASCII, so its files cannot be read here. Convert them to UTF-8",
        ),
        ("stories.txt", {"encoding": "klingon"}, "There is no encoding 'klingon'"),
        ("stories.txt", {"encoding": "ascii", "separator": "é"}, "cannot be written in ascii"),
        ("stories.txt", {"separator": ""}, "separator= is an empty text"),
        ("stories.txt", {"split": "train"}, "split= does not apply to files; its options are text_field"),
        (["a"], {"separator": "\n"}, "separator= does not apply to texts"),
        (None, {"split": "test"}, "There is no split 'test'; use 'train', 'held_out'"),
        (None, {"text_field": "text"}, "text_field= does not apply to the documentation"),
        ("memory://nowhere/a.txt", {}, "There is nothing at 'memory://nowhere/a.txt'"),
        ("nosuch://bucket/a.txt", {}, "cannot be opened: ValueError: Protocol not known: nosuch"),
    ],
)
def test_sources_that_are_none_say_what_there_is(source, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("stories.txt").write_text("A story.")
    Path("void.txt").write_text("")
    Path("notes.csv").write_text("a,b")
    Path("empty").mkdir()
    with pytest.raises((CorpusError, SettingsError), match=message):
        open_corpus(source, **options)


def test_the_field_of_texts_is_found_or_asked_for(tmp_path: Path):
    def first(row: dict[str, Any], field: str | None = None) -> str:
        path = write(tmp_path / "a.jsonl", [row])
        return next(iter(texts_of(open_corpus(path, text_field=field)).values()))

    assert first({"id": "x", "text": "the text"}) == first({"content": "the text", "id": "x"}) == "the text"
    assert first({"n": 1, "story": "the text"}) == first({"a": "x", "b": "the text"}, "b") == "the text"
    with pytest.raises(CorpusError, match=r"in a.jsonl\? It has several columns of strings: 'a', 'b'; name one with"):
        first({"a": "x", "b": "y"})
    with pytest.raises(CorpusError, match="It has no column 'c'; columns of strings: 'a', 'b'"):
        first({"a": "x", "b": "y", "n": 1}, "c")
    with pytest.raises(CorpusError, match="It has no column of strings; its columns: 'n'"):
        first({"n": 1})
    path = write(tmp_path / "a.parquet", TEXTS)
    with pytest.raises(
        CorpusError, match=r"in a.parquet\? Its column 'id' holds no strings; columns of strings: 'text'"
    ):
        open_corpus(path, text_field="id")


def test_a_shard_that_is_not_there_is_an_error():
    with pytest.raises(SettingsError, match="There is no shard 1; 1 text has 1 in all, numbered from 0"):
        open_corpus(["one"]).blocks(1)


def test_an_open_corpus_is_itself_and_paths_are_files(tmp_path: Path):
    corpus = open_corpus(["one"])
    assert open_corpus(corpus) is corpus
    paths = [write(tmp_path / "a.txt", ["One."]), write(tmp_path / "b.jsonl", ["Two."])]
    assert list(texts_of(open_corpus(paths)).values()) == ["One.", "Two."]


def test_an_array_that_is_not_quite_utf8_is_counted_once(tmp_path: Path):
    data = json.dumps([{"text": "x" * 300 + text} for text in "abc"]).encode()
    (tmp_path / "a.json").write_bytes(data.replace(b"xb", b"\xffb"))
    (tmp_path / "b.json").write_bytes(data[:-9])
    with small():
        corpus = open_corpus(tmp_path)
        assert [text[-2:] for text in texts_of(corpus).values()] == ["xa", "\ufffdb", "xc"]
        last = max(block for _, block, _ in corpus.block_sizes())
        assert [len(block.problems) for block in corpus.blocks(0)] == [1] + [0] * (last - 1) + [1]
        for start in range(1, last):
            assert sum(len(block.problems) for block in corpus.blocks(0, start)) == 1
    assert corpus.problems.counts == {"replaced characters": 1, "unreadable file": 1}

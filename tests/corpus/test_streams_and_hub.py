"""Generators, URLs and data sets behave like any other corpus."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from dreamy_lens.corpus import open_corpus
from dreamy_lens.errors import CorpusError
from tests.helpers.texts import TEXTS, dataset_of, small, texts_of, write


def test_a_generator_is_read_once_and_read_on_from_where_it_stands():
    with small():
        expected = list(open_corpus(TEXTS).blocks(0))
        corpus = open_corpus(text for text in TEXTS)
        assert [next(corpus.blocks(0, start)) for start in range(3)] == expected[:3]
        assert list(corpus.blocks(0, 3)) == expected[3:]
        with pytest.raises(CorpusError, match="can be read only once, and 40 of its texts have already been read"):
            list(corpus.blocks(0))
        with pytest.raises(CorpusError, match="can be read only once, and counting its blocks would use that up"):
            open_corpus(iter(TEXTS)).block_sizes()
        with pytest.raises(CorpusError, match="cannot be sent to another process"):
            pickle.dumps(open_corpus(text for text in TEXTS))
        assert list(open_corpus(iter(TEXTS)).blocks(0, 4)) == expected[4:]


def test_iterables_of_all_kinds():
    import numpy as np
    import pandas as pd

    for source in (np.array(["a", "b"]), pd.Series(["a", "b"]), {"a": 1, "b": 2}.keys(), lambda: ["a", "b"]):
        corpus = open_corpus(source)
        assert list(texts_of(corpus).values()) == list(texts_of(corpus).values()) == ["a", "b"]
    with pytest.raises(CorpusError, match="got DataFrame: give one of its columns"):
        open_corpus(pd.DataFrame({"a": ["x"]}))
    with pytest.raises(CorpusError, match="returned int, which is not an iterator of texts"):
        texts_of(open_corpus(lambda: 5))


# URLs and data sets


def test_urls_are_read_through_fsspec(tmp_path: Path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("a.txt", "sub/b.jsonl.gz", "sub/c.parquet", "d.csv", ".hidden/e.txt"):
        path = write(tmp_path / Path(name).name, [f"The text of {name}.", "Another."])
        memory.pipe(f"/corpus/{name}", path.read_bytes())
    try:
        corpus = open_corpus("memory://corpus")
        assert corpus.name == "folder memory://corpus/ (3 files)" and corpus.problems.counts == {"unknown format": 1}
        assert list(texts_of(corpus)) == [
            "a.txt",
            "sub/b.jsonl.gz:1",
            "sub/b.jsonl.gz:2",
            "sub/c.parquet:0",
            "sub/c.parquet:1",
        ]
        assert list(texts_of(open_corpus("memory://corpus/sub/*.parquet"))) == ["c.parquet:0", "c.parquet:1"]
        single = open_corpus("memory://corpus/a.txt")
        assert single.name == "a.txt" and list(texts_of(single)) == ["a.txt"]
        assert single.fingerprint == open_corpus("memory://corpus/a.txt").fingerprint
        with mock.patch.object(type(memory), "_open", side_effect=ConnectionResetError(104, "Connection reset")):
            with pytest.raises(CorpusError, match=r"could not be read: Connection reset\. Try again later"):
                texts_of(single)
        memory.rm("/corpus/a.txt")
        assert texts_of(single) == {} and single.problems.counts == {"unreadable file": 1}
    finally:
        memory.rm("/corpus", recursive=True)


def test_data_sets_in_memory_and_streamed(tmp_path: Path):
    import datasets

    table = dataset_of(["one", None, "two", ""])
    corpus = open_corpus(table)
    assert texts_of(corpus) == {"data set:0": "one", "data set:2": "two"}
    assert corpus.problems.counts == {"no text": 1}
    splits = datasets.DatasetDict(train=table, test=dataset_of(["three"]))
    with pytest.raises(CorpusError, match="Name one of its splits with split=: data set has 'train', 'test'"):
        open_corpus(splits)
    with pytest.raises(CorpusError, match="There is no split 'dev'; name another with split=: data set has 'train'"):
        open_corpus(splits, split="dev")
    assert list(texts_of(open_corpus(splits, split="test")).values()) == ["three"]
    with pytest.raises(CorpusError, match="There are no rows in data set"):
        open_corpus(dataset_of([]))
    with pytest.raises(CorpusError, match="Its column 'id' holds no strings"):
        open_corpus(table, text_field="id")
    stream = datasets.IterableDataset.from_generator(lambda: ({"n": i, "body": f"text {i}"} for i in range(9)))
    assert list(texts_of(open_corpus(stream)).values()) == [f"text {i}" for i in range(9)]
    assert open_corpus(stream).fingerprint == open_corpus(stream).fingerprint


def test_names_on_the_hub_are_streamed_with_a_shard_for_each_file(tmp_path: Path):
    import datasets

    for i in range(3):
        write(tmp_path / f"part{i}.jsonl", [f"text {i} {j}" for j in range(10)])
    local = datasets.load_dataset
    asked: list[Any] = []

    def load(name: str, config: str | None, split: str | None, streaming: bool) -> Any:
        asked.append((name, config, split, streaming))
        if name != "owner/name":
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist on the Hub")
        files = {"train": f"{tmp_path}/*.jsonl", "test": f"{tmp_path}/part0.jsonl"}
        return local("json", data_files=files, split=split, streaming=streaming, cache_dir=str(tmp_path / "cache"))

    with mock.patch("datasets.load_dataset", load):
        corpus = open_corpus("owner/name:train")
        assert asked == [("owner/name", None, "train", True)]
        assert corpus.name == "owner/name:train" and corpus.shards == tuple(f"owner/name:train[{i}]" for i in range(3))
        assert list(texts_of(corpus).values()) == [f"text {i} {j}" for i in range(3) for j in range(10)]
        assert corpus.fingerprint == open_corpus("owner/name", split="train").fingerprint
        assert len(open_corpus("owner/name", split="test", config="small").shards) == 1 and asked[-1][1] == "small"
        with pytest.raises(CorpusError, match="Name one of its splits with split=: owner/name has 'train', 'test'"):
            open_corpus("owner/name")
        with pytest.raises(
            CorpusError, match=r"'no/such' here, and no data set .* from the Hub\. DatasetNotFoundError: "
        ):
            open_corpus("no/such")
        with pytest.raises(CorpusError, match="names the split 'train', but split= names 'test'"):
            open_corpus("owner/name:train", split="test")


def test_a_lost_connection_is_an_error_and_reading_goes_on_later():
    import datasets

    lost = [True]

    def rows() -> Iterator[dict[str, str]]:
        for i, text in enumerate(TEXTS):
            if i == 30 and lost[0]:
                raise ConnectionError("connection lost")
            yield {"text": text}

    with small():
        corpus = open_corpus(datasets.IterableDataset.from_generator(rows))
        blocks = []
        with pytest.raises(CorpusError, match=r"could not be read beyond row 30\. ConnectionError: connection lost"):
            for block in corpus.blocks(0):
                blocks.append(block)
        lost[0] = False
        blocks += corpus.blocks(0, len(blocks))
        assert [s.text for b in blocks for s in b.sections] == [
            s.text for b in open_corpus(TEXTS).blocks(0) for s in b.sections
        ]

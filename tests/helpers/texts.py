"""Corpora for tests: a few texts in every format, and blocks small enough that these few have many."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from dreamy_lens.corpus import Corpus

TEXTS = [f"Story {i}. " + " ".join(f"word{i * j % 101}" for j in range(i * 7 % 90)) + " é日🙂\nEnd." for i in range(40)]


@contextmanager
def small(section: int = 64, block: int = 256, chunk: int = 100) -> Iterator[None]:
    """Sections, blocks and reads of a few bytes, so that few bytes have all there is to test."""
    places = {"sections.SECTION": section, "records.SECTION": section, "corpus.BLOCK": block, "files.BATCH": block}
    places |= {"streams.CHUNK": chunk, "streams.COMPRESSED_CHUNK": chunk, "hub.BATCH": block, "hub.ROWS_PER_STATE": 3}
    with ExitStack() as patches:
        for name, value in places.items():
            patches.enter_context(mock.patch(f"dreamy_lens.corpus.{name}", value))
        yield


def write(path: Path, rows: list[Any], **options: Any) -> Path:
    """A file of texts (or rows) in the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    if name.endswith(".parquet"):
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"id": list(range(len(rows))), "text": rows}), path, **options)
        return path
    if name.endswith(".json"):
        data = json.dumps([{"text": row} for row in rows]).encode()
    elif name.endswith(".jsonl"):
        data = b"".join(
            row
            if isinstance(row, bytes)
            else json.dumps(row if isinstance(row, dict) else {"text": row}).encode() + b"\n"
            for row in rows
        )
    else:
        data = b"\n\n\n".join(row if isinstance(row, bytes) else row.encode() for row in rows)
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        import pyarrow

        data = pyarrow.compress(data, codec="zstd", asbytes=True)
    path.write_bytes(data)
    return path


def texts_of(corpus: Corpus) -> dict[str, str]:
    """Every document by name, put together from its sections."""
    found: dict[str, str] = {}
    for shard in range(len(corpus.shards)):
        for block in corpus.blocks(shard):
            for section in block.sections:
                assert section.start == len(found.get(section.document, ""))
                assert section.text
                found[section.document] = found.get(section.document, "") + section.text
    return found


def dataset_of(texts: list[Any]) -> Any:
    import datasets

    return datasets.Dataset.from_dict({"id": list(range(len(texts))), "text": texts})

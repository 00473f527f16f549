"""Corpora for tests: a few texts in every format, and blocks so small that a few texts make many of them."""

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
    """Use sections, blocks and reads of a few bytes, so that short texts have many of each."""
    sizes = {"sections.SECTION": section, "records.SECTION": section, "corpus.BLOCK": block, "files.BATCH": block}
    sizes |= {"streams.CHUNK": chunk, "streams.COMPRESSED_CHUNK": chunk, "hub.BATCH": block, "hub.ROWS_PER_STATE": 3}
    with ExitStack() as patches:
        for name, value in sizes.items():
            patches.enter_context(mock.patch(f"dreamy_lens.corpus.{name}", value))
        yield


def write(path: Path, rows: list[Any], **options: Any) -> Path:
    """Write a file of texts or rows, in the format of its suffix."""
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
    """Return every document of a corpus by name, joined from its sections."""
    documents: dict[str, str] = {}
    for shard in range(len(corpus.shards)):
        for block in corpus.blocks(shard):
            for section in block.sections:
                assert section.start == len(documents.get(section.document, ""))
                assert section.text
                documents[section.document] = documents.get(section.document, "") + section.text
    return documents


def dataset_of(texts: list[Any]) -> Any:
    import datasets

    return datasets.Dataset.from_dict({"id": list(range(len(texts))), "text": texts})

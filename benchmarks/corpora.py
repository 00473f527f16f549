"""Measure how fast a corpus is read and cut into windows, and how much memory this takes.

    python benchmarks/corpora.py [--megabytes 200] [--tokens 2000000]

README.md beside this file describes the measurements.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one thread

import psutil
from measures import table

import dreamy_lens as dl
from dreamy_lens.models import as_hooked

FORMATS = ("a.txt", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet")


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of a piece of work, and what it returns."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def write(path: Path, texts: list[str], megabytes: int) -> None:
    """Write a file that repeats the texts up to a size."""
    import pyarrow
    from pyarrow import parquet

    rows = (texts[i % len(texts)] for i in range(megabytes * 2**20 // (sum(map(len, texts)) // len(texts))))
    if path.suffix == ".parquet":
        table = pyarrow.table({"text": list(rows)})
        parquet.write_table(table, path, row_group_size=len(table), use_dictionary=False)
        return
    lines = (row + "\n" if path.suffix == ".txt" else json.dumps({"text": row}) + "\n" for row in rows)
    if path.suffix == ".gz":
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.writelines(line.encode() for line in lines)
    elif path.suffix == ".zst":
        with pyarrow.CompressedOutputStream(str(path), "zstd") as file:
            for line in lines:
                file.write(line.encode())
    else:
        with open(path, "wb") as file:
            file.writelines(line.encode() for line in lines)


def resident() -> float:
    """Memory of this process, in MB."""
    return psutil.Process().memory_info().rss / 2**20


def read(path: Path) -> list[str]:
    """Measure one row of the table of formats."""
    corpus = dl.corpus.open(path)
    next(corpus.blocks(0))
    before, most, characters, last = resident(), 0.0, 0, 0

    def read_all() -> None:
        nonlocal most, characters, last
        for block in corpus.blocks(0):
            characters, last = characters + block.characters, block.number
            most = max(most, resident() - before)

    spent, _ = seconds(read_all)
    skipping, _ = seconds(lambda: next(dl.corpus.open(path).blocks(0, last)))
    remembered, _ = seconds(lambda: next(corpus.blocks(0, last)))
    size = path.stat().st_size / 2**20
    return [
        path.name.removeprefix("a"), f"{size:.0f}", f"{characters / 1e6 / spent:.0f}", f"{most:.1f}",
        f"{skipping:.2f}", f"{remembered:.3f}",
    ]  # fmt: skip


def windows(limit: int) -> list[list[str]]:
    """Measure the rows of the table of windows."""
    vocabulary = as_hooked().vocabulary
    blocks, count = [], 0
    for block in dl.corpus.open("docstrings").blocks(0):
        blocks.append(block)
        count += sum(map(len, vocabulary.encode_many([section.text for section in block.sections])))
        if count >= limit:
            break
    rows = []
    for stride in (None, 1):
        settings = dl.corpus.WindowSettings(12, stride)
        spent, total = seconds(lambda s=settings: sum(len(dl.corpus.cut_windows(b, vocabulary, s)) for b in blocks))
        rows.append([f"windows, stride {settings.step}", f"{count / spent:,.0f}", f"{total:,}"])
    spent, _ = seconds(lambda: [vocabulary.encode_many([s.text for s in block.sections]) for block in blocks])
    rows.append(["the tokenizer, as Hugging Face calls it", f"{count / spent:,.0f}", ""])
    return rows


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=200, help="megabytes of text in each file")
    parser.add_argument("--tokens", type=int, default=2_000_000, help="tokens of the documentation to cut into windows")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        print(json.dumps(read(arguments.read)))
        return
    texts = [document.text for document in dl.corpus.docstrings("train", ["numpy", "torch"])]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in FORMATS:
            write(Path(folder, name), texts, arguments.megabytes)
            # Read in a separate process: writing leaves memory behind, which reading would use again.
            command = [sys.executable, __file__, "--read", str(Path(folder, name))]
            rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            Path(folder, name).unlink()
    heads = ["", "MB stored", "M characters/s", "MB more memory", "s to the last block", "s, remembered"]
    print(table(heads, rows), "\n")
    print(table(["", "tokens/s", "windows"], windows(arguments.tokens)))


if __name__ == "__main__":
    main()

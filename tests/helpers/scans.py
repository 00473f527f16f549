"""Scans of corpora that are made up: a value and a cross-entropy for each window, and what a scan keeps of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dreamy_lens.scan import Checkpoint, Examples, Scan, Tables
from dreamy_lens.scan.examples import FeatureExamples
from tests.helpers.fakes import Pieces

FEATURE = "blocks.2.mlp.hook_post[-1, 17]"
HEADER: dict[str, Any] = {
    "model": "docstrings",
    "tokenizer": "t",
    "prepend_bos": True,
    "corpus": {"name": "a library", "fingerprint": "f"},
    "problems": [],
    "problem_count": 0,
    "failed_shards": [],
    "seconds": 1.0,
    "versions": {"dreamy-lens": "0"},
}


def scanned(
    value: Sequence[float],
    cross_entropy: Sequence[float],
    k: int = 4,
    measured: bool = True,
    labels: Sequence[str] = (FEATURE,),
    length: int = 4,
    pieces: tuple[str, ...] = (),
    known: bool = True,
    sample: Sequence[int] | None = None,
    finite: Sequence[bool] | None = None,
    **header: Any,
) -> Examples:
    """Examples of windows with these values and cross-entropies, the same for each feature.

    Args:
        value: of each window.
        cross_entropy: likewise.
        k: strongest windows kept.
        measured: whether the strongest of each quarter of a nat are kept too.
        labels: of the features.
        length: tokens of a window; the ids of window i are i, i + 1, ...
        pieces: texts of the first token ids.
        known: whether the cross-entropies of kept windows are known.
        sample: windows of the random sample; None is every twentieth part of them.
        finite: whether each window's value is a number; the others are in the sample alone.
        **header: other entries of the header.
    """
    v, c = np.asarray(value, dtype=np.float32), np.asarray(cross_entropy, dtype=np.float32)
    n = len(v)
    good = np.full(n, True) if finite is None else np.asarray(finite)
    whole = np.where(good, v, np.nan).astype(np.float32)
    order = sorted(np.flatnonzero(good).tolist(), key=lambda i: (-v[i], i))
    kept = [("top", rank, i) for rank, i in enumerate(order[:k])]
    if measured:
        bins: dict[int, int] = {}
        for i in order:
            bins.setdefault(min(63, math.floor(c[i] / 0.25)), i)
        kept += [("fluent", rank, bins[rank]) for rank in sorted(bins)]
    sample = list(range(0, n, max(1, n // 20))) if sample is None else list(sample)
    v = v[good]
    width = 2.0 ** (math.frexp(float(np.abs(v).max()))[1] - 6) if len(v) and v.any() else 1.0
    start = math.floor(float(v.min()) / width) if len(v) else 0
    counts = np.bincount(np.floor(v / width).astype(int) - start).tolist() if len(v) else []
    n = len(v)
    row = {
        "windows": n,
        "non_finite": len(whole) - n,
        "mean": float(v.mean()) if n else math.nan,
        "deviation": float(v.std()) if n else math.nan,
        "minimum": float(v.min()) if n else math.nan,
        "maximum": float(v.max()) if n else math.nan,
        "histogram_width": width,
        "histogram_start": start,
        "histogram": counts,
        "sample_values": whole[sample].tolist(),
        "sample_windows": sample,
    }
    features = {name: [one] * len(labels) for name, one in row.items()}
    features |= {"feature": list(range(len(labels))), "label": list(labels)}
    needed = sorted({i for _, _, i in kept} | set(sample))
    windows = {
        "window": needed,
        "document": [f"file{i % 3}.py" for i in needed],
        "character": [10 * i for i in needed],
        "ids": [list(range(i, i + length)) for i in needed],
        "before": [[i + 500] for i in needed],
        "after": [[i + 600] for i in needed],
        "cross_entropy": [float(c[i]) if known else None for i in needed],
    }
    found = [
        (f, kind, rank, float(whole[i]), i, [float(whole[i]) * (j + 1) / length for j in range(length)])
        for f in range(len(labels))
        for kind, rank, i in kept
    ]
    names = ("feature", "kind", "rank", "value", "window", "values")
    rows: dict[str, Any] = {name: [one[j] for one in found] for j, name in enumerate(names)}
    settings = {
        "k": k,
        "length": length,
        "stride": length,
        "context": 1,
        "cross_entropy": measured,
        "sample": len(sample),
    }
    counted = {"documents": 3, "characters": 10 * n, "windows": n, "tokens": n * length, "duplicates": 0, "short": 0}
    head = {**HEADER, "settings": settings, "counts": counted, **header}
    return Examples(Tables(head, features, windows, rows), Pieces(pieces))


def one(*given: Any, **options: Any) -> FeatureExamples:
    """The examples of one feature."""
    return scanned(*given, **options)[0]


def scanned_in_parts(scan: Scan, characters: int) -> list[Checkpoint]:
    """Scan parts of a corpus, of at least so many characters, each by itself."""
    parts: list[tuple[int, int, int]] = []  # shard, first block, block to end before
    size = 0
    for shard, block, count in scan.corpus.block_sizes():
        if not parts or parts[-1][0] != shard or size >= characters:
            parts.append((shard, block, block))
            size = 0
        parts[-1] = (shard, parts[-1][1], block + 1)
        size += count
    found = []
    for shard, first, end in parts:
        scanner = scan.scanner()
        state = scanner.new_checkpoint()
        state.shard, state.block = shard, first
        scanner.run(state, [shard], end)
        found.append(state)
    return found

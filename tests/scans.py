"""Scans of corpora that are made up: a value and a cross-entropy for each window, and what a scan keeps of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from fakes import Pieces

from dreamy_lens.dataset.examples import Examples, FeatureExamples
from dreamy_lens.dataset.parts import Tables

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
        **header: other entries of the header.
    """
    v, c = np.asarray(value, dtype=np.float32), np.asarray(cross_entropy, dtype=np.float32)
    n = len(v)
    order = sorted(range(n), key=lambda i: (-v[i], i))
    kept = [("top", rank, i) for rank, i in enumerate(order[:k])]
    if measured:
        bins: dict[int, int] = {}
        for i in order:
            bins.setdefault(math.floor(c[i] / 0.25), i)
        kept += [("fluent", rank, bins[rank]) for rank in sorted(bins)]
    sample = list(range(0, n, max(1, n // 20)))
    width = (float(np.ptp(v)) / 10 if n else 0.0) or 1.0
    start = math.floor(float(v.min()) / width) if n else 0
    counts = np.bincount(np.floor(v / width).astype(int) - start).tolist() if n else []
    row = {
        "windows": n,
        "non_finite": 0,
        "mean": float(v.mean()) if n else math.nan,
        "deviation": float(v.std()) if n else math.nan,
        "minimum": float(v.min()) if n else math.nan,
        "maximum": float(v.max()) if n else math.nan,
        "histogram_width": width,
        "histogram_start": start,
        "histogram": counts,
        "sample_values": v[sample].tolist(),
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
        (f, kind, rank, float(v[i]), i, [float(v[i]) * (j + 1) / length for j in range(length)])
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

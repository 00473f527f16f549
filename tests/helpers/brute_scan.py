"""What a scan must find, worked out one window at a time with `dl.score`: slow, plain, and independent of the scan.

Its tables are those of `dreamy_lens.scan.storage`. Texts are documents `names[i]` of one shard; `blocks` cuts them
into blocks, within which exact repeats are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

import dreamy_lens as dl
from dreamy_lens.errors import DreamyLensError
from dreamy_lens.features import parse
from dreamy_lens.models import as_hooked
from dreamy_lens.scan import Tables

SAMPLE = 64
FLUENT_STEP = 0.25


def cut_windows(
    model: Any,
    texts: Sequence[str],
    length: int = 12,
    stride: int | None = None,
    context: int = 24,
    names: Sequence[str] | None = None,
    blocks: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Every window of some texts: its number, document, character, ids, before, after.

    Args:
        model: whose tokenizer cuts the texts.
        texts: the documents.
        length: tokens of a window.
        stride: tokens from one to the next; None is `length`.
        context: tokens kept before and after.
        names: of the documents.
        blocks: for each text, the number of its block; None puts all into block 0.
    """
    vocabulary = as_hooked(model).vocabulary
    stride = length if stride is None else stride
    names = [f"text {i}" for i in range(len(texts))] if names is None else names
    blocks = [0] * len(texts) if blocks is None else blocks
    found: list[dict[str, Any]] = []
    seen: dict[int, set[tuple[int, ...]]] = {}
    counts: dict[int, int] = {}
    for text, name, block in zip(texts, names, blocks, strict=True):
        ids = vocabulary.encode(text)
        for start in range(0, len(ids) - length + 1, stride):
            own = tuple(ids[start : start + length])
            if any(i in vocabulary.special for i in own) or own in seen.setdefault(block, set()):
                continue
            seen[block].add(own)
            index = counts[block] = counts.get(block, -1) + 1
            found.append(
                {
                    "window": block << 20 | index,
                    "document": name,
                    "character": len(vocabulary.text(ids[:start])),
                    "ids": list(own),
                    "before": ids[max(0, start - context) : start],
                    "after": ids[start + length : start + length + context],
                }
            )
    return found


def brute_scan(
    features: Sequence[Any],
    model: Any,
    texts: Sequence[str],
    k: int = 64,
    length: int = 12,
    stride: int | None = None,
    *,
    context: int = 24,
    cross_entropy: bool = True,
    names: Sequence[str] | None = None,
    blocks: Sequence[int] | None = None,
    sample: int = SAMPLE,
    sampled: Sequence[int] | None = None,
    widths: Sequence[float] | None = None,
    prepend_bos: bool | None = None,
) -> Tables:
    """The tables of a scan.

    Args:
        features: expressions or texts.
        model: a bridge, or None for the embedded model.
        texts: the documents.
        k: strongest windows kept of each feature.
        length: tokens of a window.
        stride: tokens from one to the next; None is `length`.
        context: tokens kept before and after.
        cross_entropy: whether that of every window counts as measured, so that the fluent ones are kept too.
        names: of the documents.
        blocks: for each text, the number of its block.
        sample: windows drawn at random.
        sampled: their numbers, where another scan has drawn them.
        widths: of each feature's histogram bins; None makes about 40 of each.
        prepend_bos: whether windows follow a BOS; None is the model's convention.
    """
    hooked = as_hooked(model)
    windows = cut_windows(model, texts, length, stride, context, names, blocks)
    ids = np.array([w["ids"] for w in windows], dtype=np.int64).reshape(len(windows), length)
    numbers = [w["window"] for w in windows]
    if sampled is None:
        drawn = np.random.default_rng(0).permutation(len(windows))[:sample]
        sampled = sorted(numbers[i] for i in drawn)
    place = {n: i for i, n in enumerate(numbers)}
    around = {"prepend_bos": prepend_bos}
    costs = dl.score(features[0], ids, hooked.source, **around).cross_entropy if len(ids) else np.empty(0)
    rows: dict[str, list[Any]] = {}
    kept: dict[str, list[Any]] = {name: [] for name in ("feature", "kind", "rank", "value", "window", "values")}
    for f, feature in enumerate(features):
        value = dl.score(feature, ids, hooked.source, **around).value if len(ids) else np.empty(0, np.float32)
        finite = np.flatnonzero(np.isfinite(value))
        order = sorted(finite.tolist(), key=lambda i: (-value[i], numbers[i]))
        chosen = [("top", rank, i) for rank, i in enumerate(order[:k])]
        if cross_entropy:
            bins: dict[int, int] = {}
            for i in order:
                bins.setdefault(int(costs[i] // FLUENT_STEP), i)
            chosen += [("fluent", rank, bins[rank]) for rank in sorted(bins)]
        those = sorted({i for _, _, i in chosen})
        ends = [_values(feature, ids[those, : end + 1], hooked.source, around) for end in range(length)]
        series = dict(zip(those, np.transpose(ends).tolist(), strict=True))
        for kind, rank, i in chosen:
            for name, one in zip(kept, (f, kind, rank, value[i], numbers[i], series[i]), strict=True):
                kept[name].append(one)
        good = value[finite].astype(np.float64)
        low, high = (float(good.min()), float(good.max())) if len(good) else (0.0, 0.0)
        width = widths[f] if widths is not None else (high - low) / 40 or 1.0
        start = math.floor(low / width)
        bins_of = np.floor(good / width).astype(int) - start
        row = {
            "feature": f,
            "label": str(parse(feature)),
            "windows": len(finite),
            "non_finite": len(value) - len(finite),
            "mean": good.mean() if len(good) else np.nan,
            "deviation": good.std() if len(good) else np.nan,
            "minimum": low,
            "maximum": high,
            "histogram_width": width,
            "histogram_start": start,
            "histogram": np.bincount(bins_of).tolist() if len(good) else [],
            "sample_values": [float(value[place[n]]) for n in sampled],
            "sample_windows": list(sampled),
        }
        for name, one in row.items():
            rows.setdefault(name, []).append(one)
    needed = sorted({*kept["window"], *sampled})
    table = {name: [windows[place[n]][name] for n in needed] for name in ("window", "document", "character")}
    table |= {name: [windows[place[n]][name] for n in needed] for name in ("ids", "before", "after")}
    table["cross_entropy"] = [float(costs[place[n]]) for n in needed]
    header = {
        "model": hooked.name,
        "tokenizer": hooked.vocabulary.digest,
        "prepend_bos": bool(hooked.bos(prepend_bos)),
        "corpus": {"name": f"{len(texts)} texts", "fingerprint": "brute"},
        "settings": {
            "k": k,
            "length": length,
            "stride": length if stride is None else stride,
            "context": context,
            "tokens": None,
            "seed": 0,
            "cross_entropy": cross_entropy,
            "sample": sample,
        },
        "counts": {
            "documents": len(texts),
            "characters": sum(map(len, texts)),
            "windows": len(windows),
            "tokens": len(windows) * length,
            "duplicates": 0,
            "short": 0,
        },
        "problems": [],
        "problem_count": 0,
        "failed_shards": [],
        "seconds": 0.0,
        "versions": {},
    }
    return Tables(header, rows, table, kept)


def _values(feature: Any, ids: np.ndarray, model: Any, around: dict[str, Any]) -> np.ndarray:
    """The feature's values if the prompts ended here; NaN if it has none, as a feature of position 5 before it."""
    try:
        return dl.score(feature, ids, model, **around).value
    except DreamyLensError:
        return np.full(len(ids), np.nan)

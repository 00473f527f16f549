"""Storage of a comparison as one JSON file, which has everything that its page, figure, table and sentences need."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from dreamy_lens.comparison.content import ComparisonContent
from dreamy_lens.comparison.overlap import NearestWindow, Overlap, SharedSpan
from dreamy_lens.comparison.scan_source import ScanSource
from dreamy_lens.errors import RunFolderError
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.results.prompt import Prompt
from dreamy_lens.results.storage import read_json
from dreamy_lens.scan.window import Histogram, Window

FORMAT = "dreamy_lens comparison"
VERSION = 1

_PLAIN = ("feature", "title", "model", "evaluated", "settings")
_TUPLES = ("seeds", "limits", "warnings", "quantile_values")


def comparison_to_dict(content: ComparisonContent) -> dict[str, Any]:
    """Return a comparison as JSON values, which :func:`read_comparison` reads. A window is written once.

    Args:
        content: Comparison to write.
    """
    windows: list[dict[str, Any]] = []
    places: dict[str, int] = {}

    def place(window: Window) -> int:
        values = None if window.values is None else np.asarray(window.values).tolist()
        entry = {**_fields(window), "values": values}
        text = json.dumps(entry)
        if text not in places:
            places[text] = len(windows)
            windows.append(entry)
        return places[text]

    def overlap(each: Overlap) -> dict[str, Any]:
        near = each.nearest
        nearest = None if near is None else {**_fields(near), "window": place(near.window)}
        corpus = None if each.corpus is None else _fields(each.corpus)
        return {"kept": _fields(each.kept), "nearest": nearest, "corpus": corpus}

    histogram = content.histogram
    return {
        "format": FORMAT,
        "version": VERSION,
        **{name: _plain(getattr(content, name)) for name in (*_PLAIN, *_TUPLES)},
        "fluent_levels": _plain(content.fluent_levels),
        "code": content.code,
        "frontier": [prompt.to_dict() for prompt in content.frontier],
        "top": [place(window) for window in content.top],
        "fluent": [place(window) for window in content.fluent],
        "quantiles": [[share, [place(window) for window in group]] for share, group in content.quantiles],
        "cloud": content.cloud.tolist(),
        "histogram": {"width": histogram.width, "start": histogram.start, "counts": histogram.counts.tolist()},
        "scanned": _plain(_fields(content.scanned)),
        "overlaps": [overlap(each) for each in content.overlaps],
        "series": [[list(map(int, ids)), np.asarray(values).tolist()] for ids, values in content.series.items()],
        "windows": windows,
    }


def read_comparison(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the fields of a comparison from a file.

    Args:
        path: File with the JSON values of :func:`comparison_to_dict`.

    Returns:
        Arguments of :class:`~dreamy_lens.comparison.comparison.Comparison`.

    Raises:
        RunFolderError: The file is missing or damaged, is not a comparison, or has another version of the format.
    """
    data = read_json(path, FORMAT)
    if data["version"] != VERSION:
        raise RunFolderError(
            f"{os.fspath(path)!r} has version {data['version']} of the format of comparisons, and this dreamy_lens "
            f"reads version {VERSION}. Make the comparison again, or use the dreamy_lens that wrote it."
        )
    try:
        return _fields_of(data)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        reason = f"the entry {error} is missing" if isinstance(error, KeyError) else error
        raise RunFolderError(
            f"The file {os.fspath(path)!r} is not a complete comparison: {reason}. Save it again."
        ) from None


def _fields_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a comparison that JSON values describe."""
    windows = [_window(entry) for entry in data["windows"]]
    histogram = data["histogram"]
    levels = data["fluent_levels"]
    return {
        **{name: data[name] for name in _PLAIN},
        **{name: tuple(data[name]) for name in _TUPLES},
        "code": str(data.get("code", "")),
        "fluent_levels": None if levels is None else tuple(levels),
        "frontier": Frontier(Prompt.from_dict(entry) for entry in data["frontier"]),
        "top": tuple(windows[i] for i in data["top"]),
        "fluent": tuple(windows[i] for i in data["fluent"]),
        "quantiles": tuple((share, tuple(windows[i] for i in group)) for share, group in data["quantiles"]),
        "cloud": np.array(data["cloud"], dtype=np.float64).reshape(-1, 2),
        "histogram": Histogram(histogram["width"], histogram["start"], np.array(histogram["counts"], dtype=np.int64)),
        "scanned": ScanSource(**data["scanned"]),
        "overlaps": tuple(_overlap(entry, windows) for entry in data["overlaps"]),
        "series": {tuple(ids): np.array(values, dtype=np.float32) for ids, values in data["series"]},
    }


def _window(entry: Mapping[str, Any]) -> Window:
    values = None if entry["values"] is None else np.array(entry["values"], dtype=np.float32)
    return Window(**{**entry, "ids": tuple(entry["ids"]), "tokens": tuple(entry["tokens"]), "values": values})


def _overlap(entry: Mapping[str, Any], windows: list[Window]) -> Overlap:
    near, corpus = entry["nearest"], entry["corpus"]
    nearest = None if near is None else NearestWindow(**{**near, "window": windows[near["window"]]})
    return Overlap(SharedSpan(**entry["kept"]), nearest, None if corpus is None else SharedSpan(**corpus))


def _fields(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, without those inside them."""
    return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}


def _plain(value: Any) -> Any:
    """Return a value whose numbers of numpy are those of Python, and whose tuples are lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value

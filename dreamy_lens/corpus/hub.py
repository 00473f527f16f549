"""Shards of data sets of the library `datasets`, in memory, on disk, or streamed from the Hub."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

from dreamy_lens.corpus.corpus import Piece, Shard
from dreamy_lens.corpus.memory import SAMPLE, texts_digest
from dreamy_lens.corpus.problems import Problem
from dreamy_lens.corpus.records import Note
from dreamy_lens.corpus.text_field import choose_text_field, explain_no_text
from dreamy_lens.errors import CorpusError

BATCH = 1 << 20
"""Characters of the rows that are fetched at once."""

REMEMBER = 1000
"""Rows of a stream from one place that is remembered to the next."""


class TableShard(Shard):
    """A `datasets.Dataset`; points are its rows."""

    def __init__(self, name: str, table: Any, field: str) -> None:
        self.name, self.field = name, field
        self.table = table.with_format(None).select_columns([field])

    def pieces(self, point: Any, note: Note) -> Iterator[Piece]:
        """The texts from a row on."""
        row, count, characters, rows = point or 0, len(self.table), 0, 16
        while row < count:
            for text in self.table[row : row + rows][self.field]:
                yield from _piece(self, text, row, note)
                row += 1
                characters += len(text) if isinstance(text, str) else 0
            rows = max(1, min(1024, BATCH * (row - (point or 0)) // max(1, characters)))

    def done(self, point: Any) -> float | None:
        """The part of the rows."""
        return 1.0 if point is None else point / max(1, len(self.table))


class StreamShard(Shard):
    """A `datasets.IterableDataset`, or one of the files it is made of; points are its rows.

    Reading on from a row goes back to the last place that was remembered, where the data set can be set to it.
    """

    def __init__(self, name: str, stream: Any, field: str) -> None:
        self.name, self.stream, self.field = name, stream, field
        self._places: list[tuple[int, Any]] = []

    def pieces(self, point: Any, note: Note) -> Iterator[Piece]:
        """The texts from a row on.

        Raises:
            CorpusError: the data set raises an error, as it does when a connection is lost.
        """
        point = point or 0
        stream, row = self.stream.with_format(None), 0
        at = bisect.bisect_right(self._places, point, key=lambda place: place[0]) - 1
        if at >= 0:
            row = self._places[at][0]
            stream.load_state_dict(self._places[at][1])
        rows = iter(stream)
        while True:
            try:
                found = next(rows)
            except StopIteration:
                return
            except Exception as error:
                why = f"{type(error).__name__}: {error}"
                raise CorpusError(f"{self.name} could not be read beyond row {row}. {why}") from error
            if row >= point:
                yield from _piece(self, found.get(self.field), row, note)
            row += 1
            if row % REMEMBER == 0 and row > (self._places[-1][0] if self._places else 0):
                self._places.append((row, stream.state_dict()))


def _piece(shard: TableShard | StreamShard, text: Any, row: int, note: Note) -> Iterator[Piece]:
    label = f"{shard.name}:{row}"
    if not isinstance(text, str):
        note(Problem(label, explain_no_text({shard.field: text}, shard.field), "no text"))
    elif text:
        yield Piece(label, 0, text, row, row + 1)


def is_dataset(source: Any) -> bool:
    """Whether something is a data set, found out without importing the library."""
    return any(kind.__module__.partition(".")[0] == "datasets" for kind in type(source).__mro__)


def load_dataset(name: str, split: str | None, config: str | None) -> tuple[str, Any]:
    """(name for people, data set) of a name on the Hub, streamed.

    Raises:
        CorpusError: it cannot be loaded, or has several splits and none was named.
    """
    import datasets

    path, _, part = name.partition(":")
    if part and split and part != split:
        raise CorpusError(f"{name!r} names the split {part!r}, and split= says {split!r}; give one of them.")
    split = part or split
    try:
        found = datasets.load_dataset(path, config, split=split, streaming=True)
    except Exception as error:  # no connection, no such name, a split or configuration that is not there
        why = f"{type(error).__name__}: {error}"
        raise CorpusError(
            f"There is no file or folder {path!r} here, and no data set of that name can be had from the Hub. {why}"
        ) from error
    return f"{path}:{split}" if split else path, found


def dataset_shards(source: Any, name: str, split: str | None, wanted: str | None) -> tuple[str, list[Shard], Any]:
    """(name for people, shards, fingerprint or a function that finds it) of a data set.

    Raises:
        CorpusError: it has several splits and none was named, no text, or not the column that was asked for.
    """
    if isinstance(source, dict):
        source, split = _one_split(source, name, split)
        name = f"{name}:{split}"
    elif split is not None and str(getattr(source, "split", None)) != split:
        raise CorpusError(f"This data set has no split {split!r}: it is one by itself. Leave split= away.")
    streamed = not hasattr(source, "__len__")
    field = _field(source, name, wanted)
    if not streamed:
        return name, [TableShard(name, source, field)], f"{source._fingerprint}-{field}"
    parts = max(1, source.num_shards)
    one = source.select_columns([field]) if source.column_names else source
    shards: list[Shard] = [
        StreamShard(name if parts == 1 else f"{name}[{i}]", one if parts == 1 else one.shard(parts, i), field)
        for i in range(parts)
    ]
    return name, shards, lambda: _stream_fingerprint(source, name, parts, field)


def _one_split(splits: Any, name: str, split: str | None) -> tuple[Any, str]:
    if split is None and len(splits) == 1:
        split = next(iter(splits))
    if split not in splits:
        asked = "Name one of its splits" if split is None else f"There is no split {split!r}; name another"
        raise CorpusError(f"{asked} with split=: {name} has {', '.join(map(repr, splits))}.")
    return splits[split], str(split)


def _field(source: Any, name: str, wanted: str | None) -> str:
    features = source.features
    if hasattr(source, "__len__") and not len(source):
        raise CorpusError(f"There are no rows in {name}.")
    if features is not None:
        columns = {key: getattr(kind, "dtype", "") in ("string", "large_string") for key, kind in features.items()}
    else:
        rows = list(itertools.islice(iter(source), 20))
        if not rows:
            raise CorpusError(f"There are no rows in {name}.")
        columns: dict[str, bool] = {}
        for row in rows:
            columns |= {key: columns.get(key, False) or isinstance(value, str) for key, value in row.items()}
    field, why = choose_text_field(columns, wanted)
    if field is None:
        raise CorpusError(f"Where is the text in {name}? {why[0].upper()}{why[1:]}.")
    return field


def _stream_fingerprint(source: Any, name: str, parts: int, field: str) -> str:
    """Of what is known about a stream without reading it, and of its first texts."""
    info = source.info
    known = [name, parts, field, info.dataset_name, info.config_name, str(info.version), info.dataset_size]
    known += sorted(map(str, info.download_checksums or {}))
    texts = (row[field] for row in itertools.islice(iter(source), 200))
    digest = hashlib.sha256(json.dumps([*known, texts_digest(texts, SAMPLE)]).encode())
    return digest.hexdigest()[:16]

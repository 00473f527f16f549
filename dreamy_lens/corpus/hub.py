"""Shards of a corpus that read data sets of the library `datasets`: in memory, on disk, or streamed from the Hub."""

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
from dreamy_lens.corpus.remote import patiently
from dreamy_lens.corpus.text_field import choose_text_field, explain_no_text
from dreamy_lens.errors import CorpusError, WaitError, quoted

BATCH = 1 << 20
"""Characters of rows that are fetched at once."""

ROWS_PER_READ = 32
"""Most rows of a stream that are fetched at once; a wait for them has a limit."""

ROWS_PER_STATE = 1000
"""Rows of a stream between two states that are kept, from which reading can go on."""


class TableShard(Shard):
    """Shard of a `datasets.Dataset`. A point of the shard is the number of a row."""

    def __init__(self, name: str, table: Any, field: str) -> None:
        self.name, self.field = name, field
        self.table = table.with_format(None).select_columns([field])
        self.size = len(table)

    def pieces(self, point: Any, note: Note) -> Iterator[Piece]:
        """Yield the texts from a row to the end."""
        row, count, characters, rows = point or 0, len(self.table), 0, 16
        while row < count:
            for text in self.table[row : row + rows][self.field]:
                yield from _piece(self, text, row, note)
                row += 1
                characters += len(text) if isinstance(text, str) else 0
            rows = max(1, min(1024, BATCH * (row - (point or 0)) // max(1, characters)))

    def done(self, point: Any) -> float | None:
        """Return the share of the rows that comes before a point."""
        return 1.0 if point is None else point / max(1, len(self.table))


class StreamShard(Shard):
    """Shard of a `datasets.IterableDataset`, or of one of its files. A point of the shard is the number of a row.

    Reading from a row begins at the last kept state of the stream before that row.
    """

    def __init__(self, name: str, stream: Any, field: str) -> None:
        self.name, self.stream, self.field = name, stream, field
        self._states: list[tuple[int, Any]] = []  # row, and the stream's state before this row

    def pieces(self, point: Any, note: Note) -> Iterator[Piece]:
        """Yield the texts from a row to the end.

        Raises:
            CorpusError: The data set raises an error, for example because the connection is lost.
        """
        point = point or 0
        stream, row = self.stream.with_format(None), 0
        at = bisect.bisect_right(self._states, point, key=lambda state: state[0]) - 1
        if at >= 0:
            row = self._states[at][0]
            stream.load_state_dict(self._states[at][1])
        rows = iter(stream)
        while True:
            # States are kept between two reads, when the stream is exactly at `row`.
            count = min(ROWS_PER_READ, ROWS_PER_STATE - row % ROWS_PER_STATE)
            read, ended, error = patiently(self.name, lambda count=count: _rows(rows, count))
            for fields in read:
                if row >= point:
                    yield from _piece(self, fields.get(self.field), row, note)
                row += 1
            if error is not None:
                why = f"{type(error).__name__}: {error}"
                raise CorpusError(f"{self.name} could not be read beyond row {row}. {why}") from error
            if ended:
                return
            if row % ROWS_PER_STATE == 0 and row > (self._states[-1][0] if self._states else 0):
                self._states.append((row, stream.state_dict()))


def _rows(rows: Iterator[Any], count: int) -> tuple[list[Any], bool, Exception | None]:
    """Return the next rows, whether they are the last ones, and the error that ended the reading, or None."""
    read: list[Any] = []
    try:
        while len(read) < count:
            read.append(next(rows))
    except StopIteration:
        return read, True, None
    except Exception as error:
        return read, False, error
    return read, False, None


def _piece(shard: TableShard | StreamShard, text: Any, row: int, note: Note) -> Iterator[Piece]:
    label = f"{shard.name}:{row}"
    if not isinstance(text, str):
        note(Problem(label, explain_no_text({shard.field: text}, shard.field), "no text"))
    elif text:
        yield Piece(label, 0, text, row, row + 1)


def is_dataset(source: Any) -> bool:
    """Return whether an object is a data set of the library `datasets`, without importing the library."""
    return any(kind.__module__.partition(".")[0] == "datasets" for kind in type(source).__mro__)


def load_dataset(name: str, split: str | None, config: str | None) -> tuple[str, Any]:
    """Return (name to show, data set) of a data set on the Hub, which is streamed.

    Args:
        name: Name on the Hub, perhaps with a split: "owner/name" or "owner/name:train".
        split: Split to load, or None.
        config: Configuration of the data set, or None.

    Raises:
        CorpusError: The data set cannot be loaded, or two different splits are named.
    """
    import datasets

    path, _, part = name.partition(":")
    if part and split and part != split:
        raise CorpusError(
            f"{quoted(name, 300)} names the split {quoted(part)}, but split= names {quoted(split)}; name only "
            "one of them."
        )
    split = part or split
    try:
        dataset = patiently(path, lambda: datasets.load_dataset(path, config, split=split, streaming=True))
    except WaitError:
        raise
    except Exception as error:  # no connection, or the name, the split or the configuration does not exist
        why = f"{type(error).__name__}: {error}"
        raise CorpusError(
            f"There is no file or folder {quoted(path, 300)} here, and no data set of that name can be loaded from the "
            f"Hub. {why}"
        ) from error
    return f"{path}:{split}" if split else path, dataset


def dataset_shards(source: Any, name: str, split: str | None, wanted: str | None) -> tuple[str, list[Shard], Any]:
    """Return (name to show, shards, fingerprint or a function that returns it) of a data set.

    Args:
        source: Data set, or dictionary of its splits.
        name: Name of the data set, to show.
        split: Split to read, or None.
        wanted: Column that the user named, or None.

    Raises:
        CorpusError: The data set has several splits and none was named, or it has no text, or no text column can be
            chosen.
    """
    if isinstance(source, dict):
        source, split = _one_split(source, name, split)
        name = f"{name}:{split}"
    elif split is not None and str(getattr(source, "split", None)) != split:
        raise CorpusError(f"This data set has no split {quoted(split)}: it is a single split. Leave out split=.")
    is_streamed = not hasattr(source, "__len__")
    field = _field(source, name, wanted)
    if not is_streamed:
        return name, [TableShard(name, source, field)], f"{source._fingerprint}-{field}"
    parts = max(1, source.num_shards)
    stream = source.select_columns([field]) if source.column_names else source
    shards: list[Shard] = [
        StreamShard(name if parts == 1 else f"{name}[{i}]", stream if parts == 1 else stream.shard(parts, i), field)
        for i in range(parts)
    ]
    return name, shards, lambda: _stream_fingerprint(source, name, parts, field)


def _one_split(splits: Any, name: str, split: str | None) -> tuple[Any, str]:
    if split is None and len(splits) == 1:
        split = next(iter(splits))
    if split not in splits:
        advice = "Name one of its splits" if split is None else f"There is no split {quoted(split)}; name another"
        raise CorpusError(f"{advice} with split=: {name} has {', '.join(map(repr, splits))}.")
    return splits[split], str(split)


def _field(source: Any, name: str, wanted: str | None) -> str:
    """Return the column with the texts of a data set; raise CorpusError if none can be chosen."""
    features = source.features
    if hasattr(source, "__len__") and not len(source):
        raise CorpusError(
            f"There are no rows in {name}, so there is no text. Give a data set or a split that has rows."
        )
    if features is not None:
        columns = {key: getattr(kind, "dtype", "") in ("string", "large_string") for key, kind in features.items()}
    else:
        rows = list(itertools.islice(iter(source), 20))
        if not rows:
            raise CorpusError(
                f"There are no rows in {name}, so there is no text. Give a data set or a split that has rows."
            )
        columns: dict[str, bool] = {}
        for row in rows:
            columns |= {key: columns.get(key, False) or isinstance(value, str) for key, value in row.items()}
    field, why = choose_text_field(columns, wanted)
    if field is None:
        raise CorpusError(f"Where is the text in {name}? {why[0].upper()}{why[1:]}.")
    return field


def _stream_fingerprint(source: Any, name: str, parts: int, field: str) -> str:
    """Return a fingerprint of a stream, from its description and its first texts."""
    info = source.info
    description = [name, parts, field, info.dataset_name, info.config_name, str(info.version), info.dataset_size]
    description += sorted(map(str, info.download_checksums or {}))
    texts = (row[field] for row in itertools.islice(iter(source), 200))
    digest = hashlib.sha256(json.dumps([*description, texts_digest(texts, SAMPLE)]).encode())
    return digest.hexdigest()[:16]

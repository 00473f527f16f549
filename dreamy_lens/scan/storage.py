"""The tables that a scan of a corpus leaves: a folder of Parquet files that is whole at every moment.

What this module promises:

* *Plain files.* `examples.json` says what was scanned and how; `features.parquet`, `windows.parquet`, `kept.parquet`
  and `tokens.parquet` have the schemas of :func:`~dreamy_lens.scan.schema.schema`, and any program that reads Parquet
  can use them.
* *Old or new, never between.* Tables are written under names of their own first; replacing `examples.json`, a single
  step of the file system, makes them valid; then they take over the usual names. Cut off anywhere, by a full disk for
  instance, the folder reads as it did before or as it will, and whatever else lies in it stays.
* *Opened at once.* Reading a folder reads no more than the ends of its files; a feature's rows are looked up by the
  statistics of the row groups, so a scan of a million neurons opens as fast as one of a single neuron.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dreamy_lens._files import write_whole
from dreamy_lens.errors import ExamplesError
from dreamy_lens.scan.schema import NAMES, Rows, schema, table
from dreamy_lens.scan.tables import Table, Tables

FORMAT = "dreamy_lens examples"
VERSION = 1
HEADER = "examples.json"

_GENERATION = b"dreamy_lens generation"
_GROUPS = 2000  # row groups of a file, about; each is looked at by its statistics alone
_SMALLEST, _USUAL = 1024, 16384  # rows of a group: at least, and where their number is not known beforehand
_ABANDONED = 3600.0  # seconds after which a table that no header names belongs to a write that was cut off


def write(
    folder: str | os.PathLike[str],
    header: Mapping[str, Any],
    features: Rows,
    windows: Rows,
    kept: Rows,
    tokens: Rows | None = None,
) -> Path:
    """Write examples into a folder, in the place of those that are there.

    Args:
        folder: Folder to write to, made if it is not there; other files in it stay.
        header: JSON values for `examples.json`; its format and version are added.
        features: Rows of the table `features`, as for :func:`~dreamy_lens.scan.schema.table`. Record batches are
            written as they come, without all of them in memory; their rows should rise by the table's key.
        windows: Rows of the table `windows`.
        kept: Rows of the table `kept`.
        tokens: Rows of the table `tokens`, as from :func:`~dreamy_lens.scan.schema.token_table`. Without them, texts
            are read with the model's own tokenizer.

    Returns:
        The folder.

    Raises:
        ExamplesError: there is no room, or no permission; what was there before is as it was.
    """
    place, generation = Path(folder).expanduser(), secrets.token_hex(8)
    given = {"features": features, "windows": windows, "kept": kept} | ({} if tokens is None else {"tokens": tokens})
    given = {name: rows.batches() if isinstance(rows, Table) else rows for name, rows in given.items()}
    try:
        place.mkdir(parents=True, exist_ok=True)
        files = {name: _write_part(_pending(place, name, generation), name, rows) for name, rows in given.items()}
        head = {"format": FORMAT, "version": VERSION, **header, "generation": generation, "rows": files}
        text = json.dumps(head, indent=1, default=_plain).encode("ascii")
        write_whole(place / HEADER, text)  # from here on the folder is the new examples
    except BaseException as error:
        for name in NAMES:
            with suppress(OSError):
                _pending(place, name, generation).unlink()
        if isinstance(error, OSError):
            raise ExamplesError(
                f"The examples cannot be written to {str(place)!r}: {error.strerror or error}. What was there before "
                "is as it was; make room, or name another folder."
            ) from error
        raise
    for name in NAMES:
        with suppress(OSError):  # a reader on Windows may hold the old file; then the new one keeps its own name
            if name in given:
                os.replace(_pending(place, name, generation), _usual(place, name))
            else:
                _usual(place, name).unlink(missing_ok=True)
    _remove_abandoned(place, generation)
    return place


def read(folder: str | os.PathLike[str]) -> Tables:
    """Open what :func:`write` wrote; rows are read when they are asked for.

    Raises:
        ExamplesError: the folder is missing, has no examples, is damaged, or of a newer version.
    """
    place = Path(folder).expanduser()
    for attempt in range(3):  # again if another process wrote the folder between the two readings
        head = _read_header(place)
        try:
            parts = {name: Table(_file(place, name, head["generation"])) for name in head["rows"]}
        except _Missing as missing:
            if attempt == 2:
                raise ExamplesError(
                    f"The examples in {str(place)!r} are damaged: {missing}. Copy the folder again, or scan again."
                ) from None
            continue
        for name, part in parts.items():
            if len(part) != head["rows"][name]:
                raise ExamplesError(
                    f"The examples in {str(place)!r} are damaged: {name}.parquet has {len(part):,} rows, and {HEADER} "
                    f"says {head['rows'][name]:,}. Copy the folder again, or scan again."
                )
        return Tables(head, **parts)
    raise AssertionError("unreachable")


class _Missing(Exception):
    """A table's file is not there, or not the one that belongs to the header."""


def _write_part(file: Path, name: str, rows: Rows) -> int:
    """Write one table; returns its number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    generation = file.stem.rpartition("-")[2].encode()
    form = schema(name).with_metadata({_GENERATION: generation})
    streamed = not isinstance(rows, (Mapping, pa.Table))
    found = rows if streamed else [table(name, rows)]
    count, options = 0, {"compression": "zstd", "write_page_checksum": True}
    with pq.ParquetWriter(file, form, **options) as writer:
        for batch in found:
            part = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
            part = part.select(form.names).cast(form)
            writer.write_table(part, row_group_size=_USUAL if streamed else max(_SMALLEST, len(part) // _GROUPS))
            count += len(part)
    with open(file, "rb+") as stream:
        os.fsync(stream.fileno())
    return count


def _read_header(place: Path) -> dict[str, Any]:
    where = repr(str(place))
    if not place.is_dir():
        raise ExamplesError(f"There is no folder {where}.")
    file = place / HEADER
    if not file.is_file():
        raise ExamplesError(f"{where} has no {HEADER}, so there are no examples in it, or their scan is not done yet.")
    try:
        head = json.loads(file.read_bytes())
    except ValueError:
        raise ExamplesError(f"The {HEADER} of {where} is not whole JSON: it was truncated or altered.") from None
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ExamplesError(f"The {HEADER} of {where} does not say that it is of {FORMAT!r}.")
    version = head.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise ExamplesError(
            f"The examples in {where} have format version {version}, and this dreamy_lens reads up to {VERSION}: they "
            "were written by a newer one. Update with `pip install -U dreamy-lens`."
        )
    rows = head.get("rows")
    if not isinstance(rows, dict) or not set(NAMES[:3]) <= set(rows) <= set(NAMES) or "generation" not in head:
        raise ExamplesError(f"The {HEADER} of {where} was altered: parts of it are missing.")
    return head


def _file(place: Path, name: str, generation: str) -> Path:
    """The file that holds a table of a generation: under the usual name, or under its own if that was cut off."""
    import pyarrow.parquet as pq

    reason = f"it has no {name}.parquet"
    for file in (_usual(place, name), _pending(place, name, str(generation))):
        if not file.is_file():
            continue
        try:
            found = pq.read_schema(file).metadata or {}
        except (OSError, ValueError) as error:
            reason = f"{file.name} is truncated or altered ({error})"
            continue
        if found.get(_GENERATION, b"").decode() == generation:
            return file
        reason = f"{file.name} does not belong to its {HEADER}"
    raise _Missing(reason)


def _usual(place: Path, name: str) -> Path:
    return place / f"{name}.parquet"


def _pending(place: Path, name: str, generation: str) -> Path:
    return place / f"{name}-{generation}.parquet"


def _remove_abandoned(place: Path, generation: str) -> None:
    """Remove the tables of writes that were cut off."""
    for name in NAMES:
        for left in place.glob(f"{name}-{'[0-9a-f]' * 16}.parquet"):
            with suppress(OSError):
                if not left.stem.endswith(generation) and time.time() - left.stat().st_mtime > _ABANDONED:
                    left.unlink()


def _plain(value: Any) -> Any:
    """Numbers of numpy as JSON's, and anything else as its text."""
    return value.item() if isinstance(value, np.generic) else str(value)

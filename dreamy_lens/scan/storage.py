"""Storage of the tables of a scan: a folder of Parquet files that is complete at every moment.

Promises of this module:

* *Plain files.* `examples.json` describes the scan. `features.parquet`, `windows.parquet`, `kept.parquet` and
  `tokens.parquet` have the schemas of :func:`~dreamy_lens.scan.schema.schema`, so any program that reads Parquet can
  use them.
* *Old or new, never a mixture.* New tables first get temporary names. Replacing `examples.json`, a single step of the
  file system, makes them valid. Then they get their usual names. If writing is cut off at any point, for example by a
  full disk, the folder still reads as the old or as the new examples. Other files in the folder stay.
* *Fast to open.* Opening a folder reads only the ends of its files. The statistics of the row groups locate a
  feature's rows, so a scan of a million neurons opens as fast as a scan of one neuron.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dreamy_lens._files import FAILURES, check_folder_name, check_writable, failure_of, write_whole
from dreamy_lens._folder_lock import FolderBusy, lock_folder
from dreamy_lens.errors import ExamplesError, FileWriteError
from dreamy_lens.scan.schema import NAMES, Rows, arrow_table, schema
from dreamy_lens.scan.tables import Table, Tables

FORMAT = "dreamy_lens examples"
VERSION = 1
HEADER = "examples.json"

CHECKPOINT_FILE = "scan.safetensors"
"""Name of the file of an unfinished scan."""

_GENERATION = b"dreamy_lens generation"
_GROUPS = 2000  # approximate number of row groups of a file; a lookup reads the statistics of each
_SMALLEST, _USUAL = 1024, 16384  # rows of a group: fewest, and where the number of rows is not known in advance
_ABANDONED = 3600.0  # seconds after which a table that no header names is taken for the rest of a failed write


def write_tables(
    folder: str | os.PathLike[str],
    header: Mapping[str, Any],
    features: Rows,
    windows: Rows,
    kept: Rows,
    tokens: Rows | None = None,
) -> Path:
    """Write examples into a folder, replacing the examples in it.

    Args:
        folder: Folder to write to; it is created if it does not exist, and other files in it stay.
        header: JSON values for `examples.json`; format and version are added to them.
        features: Rows of the table `features`, in any form that :func:`~dreamy_lens.scan.schema.arrow_table` takes.
            Record batches are written one by one, so they need not fit in memory together; their rows must be sorted
            by the table's key.
        windows: Rows of the table `windows`, in the same forms as `features`.
        kept: Rows of the table `kept`, in the same forms as `features`.
        tokens: Rows of the table `tokens`, as from :func:`~dreamy_lens.scan.schema.token_table`. Without them, readers
            need the model's tokenizer to decode windows.

    Returns:
        The folder.

    Raises:
        ExamplesError: The disk is full, or the folder is not writable. The examples that it held are unchanged.
    """
    folder, generation = Path(folder).expanduser(), secrets.token_hex(8)
    sources = {"features": features, "windows": windows, "kept": kept} | ({} if tokens is None else {"tokens": tokens})
    sources = {name: rows.batches() if isinstance(rows, Table) else rows for name, rows in sources.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = {name: _write_part(_pending(folder, name, generation), name, rows) for name, rows in sources.items()}
        head = {"format": FORMAT, "version": VERSION, **header, "generation": generation, "rows": files}
        text = json.dumps(head, indent=1, default=_plain).encode("ascii")
        with lock_folder(folder):
            _commit(folder, text, generation, sources)
    except BaseException as error:
        for name in NAMES:
            with suppress(OSError):
                _pending(folder, name, generation).unlink()
        if isinstance(error, OSError):
            raise ExamplesError(
                f"The examples cannot be written to {str(folder)!r}: {failure_of(error)} The examples that it held "
                "before are unchanged."
            ) from error
        if isinstance(error, FolderBusy):
            raise ExamplesError(f"The examples cannot be written: {error}. Name another folder, or wait.") from error
        raise
    return folder


def check_out(folder: str | os.PathLike[str]) -> None:
    """Check, before a scan, that examples can be written to a folder. A URL is not checked.

    Args:
        folder: Folder that will hold the examples; it need not exist.

    Raises:
        ExamplesError: The path is a file, its name ends like that of a file, or the folder cannot be written.
    """
    if "://" in os.fspath(folder):
        return
    folder = Path(os.path.expanduser(folder))
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise ExamplesError(f"{str(folder)!r} is a file; examples are a folder. Choose another name.")
    try:
        pages = "examples.of(feature).to_html(path) writes a page, .to_pandas() returns a table."
        check_folder_name(folder, "a set of examples", pages)
        check_writable(folder)
    except FileWriteError as error:
        raise ExamplesError(str(error)) from None
    except FAILURES as error:
        raise ExamplesError(f"The examples cannot be written to {str(folder)[:300]!r}: {failure_of(error)}") from error


def _commit(folder: Path, text: bytes, generation: str, names: Collection[str]) -> None:
    """Make the tables of a generation valid, and give them their usual names.

    Args:
        folder: Folder that has the tables under their temporary names.
        text: Content of `examples.json`.
        generation: Mark of the tables.
        names: Names of the tables.
    """
    write_whole(folder / HEADER, text)  # from here on, the folder holds the new examples
    for name in NAMES:
        # On Windows, a reader may hold the old file open; then the new file keeps its temporary name.
        with suppress(OSError):
            if name in names:
                os.replace(_pending(folder, name, generation), _usual(folder, name))
            else:
                _usual(folder, name).unlink(missing_ok=True)
    _remove_abandoned(folder, generation)


def read_tables(folder: str | os.PathLike[str]) -> Tables:
    """Open the tables in a folder that :func:`write_tables` wrote; rows are read when they are needed.

    Raises:
        ExamplesError: The folder is missing, has no examples, is damaged, or has a newer version.
    """
    folder = Path(folder).expanduser()
    tries, before = 0, None
    while True:  # another process may write the folder between reading the header and reading the tables
        head = _read_header(folder)
        tries, before = (tries + 1 if head["generation"] == before else 0), head["generation"]
        try:
            parts = {name: _opened(folder, name, str(head["generation"])) for name in head["rows"]}
        except _Missing as missing:
            if tries == 2:
                raise ExamplesError(
                    f"The examples in {str(folder)!r} are damaged: {missing}. Copy the folder again, or scan again."
                ) from None
            continue
        for name, part in parts.items():
            if len(part) != head["rows"][name]:
                raise ExamplesError(
                    f"The examples in {str(folder)!r} are damaged: {name}.parquet has {len(part):,} rows, and {HEADER} "
                    f"says {head['rows'][name]:,}. Copy the folder again, or scan again."
                )
        return Tables(head, **parts)


def _opened(folder: Path, name: str, generation: str) -> Table:
    """Open a table of a generation, or raise _Missing: its file may be renamed or replaced before it is open."""
    table = Table(_file(folder, name, generation))
    try:
        if table.metadata.get(_GENERATION) == generation.encode():
            return table
    except (OSError, ValueError) as error:
        raise _Missing(f"{name}.parquet cannot be opened ({error})") from None
    raise _Missing(f"{name}.parquet does not belong to its {HEADER}")


class _Missing(Exception):
    """Error for a table whose file does not exist, or does not belong to the header."""


def _write_part(file: Path, name: str, rows: Rows) -> int:
    """Write one table, and return its number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    generation = file.stem.rpartition("-")[2].encode()
    form = schema(name).with_metadata({_GENERATION: generation})
    streamed = not isinstance(rows, (Mapping, pa.Table))
    batches = rows if streamed else [arrow_table(name, rows)]
    count, options = 0, {"compression": "zstd", "write_page_checksum": True}
    with pq.ParquetWriter(file, form, **options) as writer:
        for batch in batches:
            part = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
            part = part.select(form.names).cast(form)
            writer.write_table(part, row_group_size=_USUAL if streamed else max(_SMALLEST, len(part) // _GROUPS))
            count += len(part)
    with open(file, "rb+") as stream:
        os.fsync(stream.fileno())
    return count


def _read_header(folder: Path) -> dict[str, Any]:
    """Return the content of `examples.json`, or raise ExamplesError."""
    name = repr(str(folder))
    if not folder.is_dir():
        raise ExamplesError(f"There is no folder {name}. Give the folder that a scan wrote.")
    file = folder / HEADER
    if not file.is_file():
        raise ExamplesError(f"{name} has no {HEADER}, so it holds no examples, or their scan is not finished yet.")
    try:
        head = json.loads(file.read_bytes())
    except ValueError:
        raise ExamplesError(
            f"The {HEADER} of {name} is not valid JSON: it was truncated or altered. Copy the folder again."
        ) from None
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ExamplesError(f"The {HEADER} of {name} does not have the format {FORMAT!r}; name a folder of examples.")
    version = head.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise ExamplesError(
            f"The examples in {name} have format version {version}, and this dreamy_lens reads versions up to "
            f"{VERSION}: a newer dreamy_lens wrote them. Update with `pip install -U dreamy-lens`."
        )
    rows = head.get("rows")
    if not isinstance(rows, dict) or not set(NAMES[:3]) <= set(rows) <= set(NAMES) or "generation" not in head:
        raise ExamplesError(f"The {HEADER} of {name} was altered: parts of it are missing. Copy the folder again.")
    return head


def _file(folder: Path, name: str, generation: str) -> Path:
    """Return the file of a table of a generation: the usual one, or the temporary one if writing was cut off."""
    import pyarrow.parquet as pq

    reason = f"it has no {name}.parquet"
    for file in (_usual(folder, name), _pending(folder, name, str(generation))):
        if not file.is_file():
            continue
        try:
            written = pq.read_schema(file)
            metadata = written.metadata or {}
        except (OSError, ValueError) as error:
            reason = f"{file.name} is truncated or altered ({error})"
            continue
        wrong = [form.name for form in schema(name) if form.name not in written.names]
        wrong += [form.name for form in schema(name) if form.name in written.names and written.field(form.name) != form]
        if wrong:
            reason = f"{file.name} was altered: its column {wrong[0]!r} is missing or has another type"
            continue
        if metadata.get(_GENERATION, b"").decode("ascii", "replace") == generation:
            return file
        reason = f"{file.name} does not belong to its {HEADER}"
    raise _Missing(reason)


def _usual(folder: Path, name: str) -> Path:
    return folder / f"{name}.parquet"


def other_entries(folder: Path) -> set[str]:
    """Return the names in a folder, without those of writes that go on or were cut off; none if it is missing."""
    if not folder.is_dir():
        return set()
    written = re.compile(rf"\..*|({'|'.join(NAMES)})-[0-9a-f]{{16}}\.parquet")
    return {path.name for path in folder.iterdir() if not written.fullmatch(path.name)}


def _pending(folder: Path, name: str, generation: str) -> Path:
    return folder / f"{name}-{generation}.parquet"


def _remove_abandoned(folder: Path, generation: str) -> None:
    """Remove temporary tables that a failed write left behind."""
    for name in NAMES:
        for file in folder.glob(f"{name}-{'[0-9a-f]' * 16}.parquet"):
            with suppress(OSError):
                if not file.stem.endswith(generation) and time.time() - file.stat().st_mtime > _ABANDONED:
                    file.unlink()


def _plain(value: Any) -> Any:
    """Return a NumPy number as a Python number, and any other value as its text."""
    return value.item() if isinstance(value, np.generic) else str(value)

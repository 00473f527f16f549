"""Tables of examples, in memory or on disk, which are read only as far as needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.errors import ExamplesError
from dreamy_lens.scan.schema import arrow_table

if TYPE_CHECKING:
    import pyarrow as pa


class Table:
    """Table in memory or in a Parquet file, which is read only as far as needed.

    Args:
        source: Arrow table, or path of a Parquet file.
    """

    def __init__(self, source: pa.Table | Path) -> None:
        self.source = source

    @cached_property
    def _file(self) -> Any:
        import pyarrow.parquet as pq

        # The pages of the file have checksums, so that reading an altered page fails.
        return pq.ParquetFile(self.source, memory_map=True, page_checksum_verification=True)

    @property
    def metadata(self) -> dict[bytes, bytes]:
        """Metadata of the file's schema. This opens the file, which then stays open."""
        return self._file.schema_arrow.metadata or {}

    @property
    def is_file(self) -> bool:
        """True if the rows are on disk."""
        return isinstance(self.source, Path)

    def all(self, columns: list[str] | None = None) -> pa.Table:
        """Return every row."""
        if not self.is_file:
            return self.source if columns is None else self.source.select(columns)  # type: ignore[union-attr]
        with _damage(self.source):
            return self._file.read(columns=columns)

    def batches(self) -> Any:
        """Return every row, in record batches; of a file, only one batch is in memory at a time."""
        if not self.is_file:
            return self.source.to_batches()  # type: ignore[union-attr]
        return self._file.iter_batches()

    def where(self, key: str, values: Iterable[int], columns: list[str] | None = None) -> pa.Table:
        """Return the rows whose integer column `key` has one of the given values."""
        import pyarrow as pa

        wanted = np.unique(np.asarray(list(values), dtype=np.int64))
        names = columns if columns is None or key in columns else [key, *columns]
        if self.is_file:
            with _damage(self.source):
                rows = self._file.read_row_groups(self._groups(key, wanted), columns=names)
        else:
            rows = self.all(names)
        rows = rows.filter(pa.array(np.isin(rows[key].to_numpy(), wanted)))
        return rows if columns is None else rows.select(columns)

    def _groups(self, key: str, wanted: np.ndarray) -> list[int]:
        """Return the row groups that can hold one of the wanted values."""
        low, high = self._ranges(key)
        first, last = np.searchsorted(wanted, low, "left"), np.searchsorted(wanted, high, "right")
        return np.flatnonzero(last > first).tolist()

    def _ranges(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the least and the largest value of a column in each row group."""
        meta, limits = self._file.metadata, np.iinfo(np.int64)
        paths = [self._file.schema.column(i).path for i in range(meta.num_columns)]
        column = paths.index(key)
        ranges = np.empty((meta.num_row_groups, 2), dtype=np.int64)
        for group in range(meta.num_row_groups):
            stats = meta.row_group(group).column(column).statistics
            ranges[group] = (stats.min, stats.max) if stats and stats.has_min_max else (limits.min, limits.max)
        return ranges[:, 0], ranges[:, 1]

    def __len__(self) -> int:
        return self._file.metadata.num_rows if self.is_file else len(self.source)  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source}


class Tables:
    """Result of a scan: a header of JSON values, and three or four tables.

    Args:
        header: Content of `examples.json`.
        features: Table `features`: a :class:`Table`, or rows that :func:`~dreamy_lens.scan.schema.arrow_table` takes.
        windows: Table `windows`, in the same forms as `features`.
        kept: Table `kept`, in the same forms as `features`.
        tokens: Table `tokens`, in the same forms as `features`; None if there is none.
    """

    def __init__(self, header: Mapping[str, Any], features: Any, windows: Any, kept: Any, tokens: Any = None) -> None:
        self.header = dict(header)
        sources = {"features": features, "windows": windows, "kept": kept, "tokens": tokens}
        self.parts = {
            name: rows if isinstance(rows, Table) else Table(arrow_table(name, rows))
            for name, rows in sources.items()
            if rows is not None
        }

    @property
    def features(self) -> pa.Table:
        """All rows of the table `features`."""
        return self.parts["features"].all()

    @property
    def windows(self) -> pa.Table:
        """All rows of the table `windows`."""
        return self.parts["windows"].all()

    @property
    def kept(self) -> pa.Table:
        """All rows of the table `kept`."""
        return self.parts["kept"].all()

    @property
    def tokens(self) -> pa.Table | None:
        """All rows of the table `tokens`; None if there is none."""
        return self.parts["tokens"].all() if "tokens" in self.parts else None

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(part):,} {name}" for name, part in self.parts.items())
        return f"Tables({counts})"


class _damage:
    """Context in which pyarrow's errors about a damaged file become an ExamplesError."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (OSError, ValueError)):
            raise ExamplesError(
                f"The file {str(self.file)!r} cannot be read: it was truncated or altered ({error}). Copy the folder "
                "again, or scan again."
            ) from error

"""Tables of examples, in memory or on disk, of which no more is read than is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.errors import ExamplesError
from dreamy_lens.scan.schema import table

if TYPE_CHECKING:
    import pyarrow as pa


class Table:
    """One table, in memory or in a Parquet file, of which no more is read than is asked for."""

    def __init__(self, source: pa.Table | Path) -> None:
        self.source = source

    @cached_property
    def _file(self) -> Any:
        import pyarrow.parquet as pq

        # The file's pages carry checksums, so that what was altered is found out where it is read.
        return pq.ParquetFile(self.source, memory_map=True, page_checksum_verification=True)

    @property
    def is_file(self) -> bool:
        """Whether the rows are on disk."""
        return isinstance(self.source, Path)

    def all(self, columns: list[str] | None = None) -> pa.Table:
        """Every row."""
        if not self.is_file:
            return self.source if columns is None else self.source.select(columns)  # type: ignore[union-attr]
        with _damage(self.source):
            return self._file.read(columns=columns)

    def batches(self) -> Any:
        """Every row, in record batches: never more of a file in memory than one of them."""
        if not self.is_file:
            return self.source.to_batches()  # type: ignore[union-attr]
        return self._file.iter_batches()

    def where(self, key: str, values: Iterable[int], columns: list[str] | None = None) -> pa.Table:
        """The rows whose integer column `key` has one of some values."""
        import pyarrow as pa

        wanted = np.unique(np.asarray(list(values), dtype=np.int64))
        names = columns if columns is None or key in columns else [key, *columns]
        if self.is_file:
            with _damage(self.source):
                found = self._file.read_row_groups(self._groups(key, wanted), columns=names)
        else:
            found = self.all(names)
        found = found.filter(pa.array(np.isin(found[key].to_numpy(), wanted)))
        return found if columns is None else found.select(columns)

    def _groups(self, key: str, wanted: np.ndarray) -> list[int]:
        """Row groups that can hold one of some values."""
        low, high = self._ranges(key)
        first, last = np.searchsorted(wanted, low, "left"), np.searchsorted(wanted, high, "right")
        return np.flatnonzero(last > first).tolist()

    def _ranges(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        meta, whole = self._file.metadata, np.iinfo(np.int64)
        paths = [self._file.schema.column(i).path for i in range(meta.num_columns)]
        column = paths.index(key)
        ranges = np.empty((meta.num_row_groups, 2), dtype=np.int64)
        for group in range(meta.num_row_groups):
            found = meta.row_group(group).column(column).statistics
            ranges[group] = (found.min, found.max) if found and found.has_min_max else (whole.min, whole.max)
        return ranges[:, 0], ranges[:, 1]

    def __len__(self) -> int:
        return self._file.metadata.num_rows if self.is_file else len(self.source)  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source}


class Tables:
    """What a scan found: a header of JSON values, and three or four tables.

    Args:
        header: Content of `examples.json`.
        features: Table `features`: a :class:`Table`, or rows as for :func:`~dreamy_lens.scan.schema.table`.
        windows: Table `windows`, in the same forms.
        kept: Table `kept`, in the same forms.
        tokens: Table `tokens`, in the same forms, or None.
    """

    def __init__(self, header: Mapping[str, Any], features: Any, windows: Any, kept: Any, tokens: Any = None) -> None:
        self.header = dict(header)
        given = {"features": features, "windows": windows, "kept": kept, "tokens": tokens}
        self.parts = {
            name: rows if isinstance(rows, Table) else Table(table(name, rows))
            for name, rows in given.items()
            if rows is not None
        }

    @property
    def features(self) -> pa.Table:
        """All of the table `features`."""
        return self.parts["features"].all()

    @property
    def windows(self) -> pa.Table:
        """All of the table `windows`."""
        return self.parts["windows"].all()

    @property
    def kept(self) -> pa.Table:
        """All of the table `kept`."""
        return self.parts["kept"].all()

    @property
    def tokens(self) -> pa.Table | None:
        """All of the table `tokens`, if there is one."""
        return self.parts["tokens"].all() if "tokens" in self.parts else None

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(part):,} {name}" for name, part in self.parts.items())
        return f"Tables({counts})"


class _damage:
    """Turns what pyarrow says of a damaged file into a sentence."""

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

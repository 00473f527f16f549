"""Arrow schemas of the tables of a scan. pyarrow is imported only when a schema is made."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange

from dreamy_lens.errors import ExamplesError
from dreamy_lens.scan.detokenize import token_bytes

if TYPE_CHECKING:
    import pyarrow as pa

NAMES = ("features", "windows", "kept", "tokens")

KEYS = {"features": "feature", "windows": "window", "kept": "feature", "tokens": "id"}
"""Column by which the rows of each table are sorted and looked up."""

Rows = Any  # a pyarrow Table, a mapping of columns, or an iterable of record batches


@cache
def schema(name: str) -> pa.Schema:
    """Return the schema of one of the tables :data:`NAMES`.

    `features` has one row per feature; `feature` is the feature's number, from 0. Bin i of the histogram holds the
    values v with `(histogram_start + i) * histogram_width <= v < (histogram_start + i + 1) * histogram_width`.
    `sample_values` are the feature's values on a uniform random sample of the windows; `sample_windows` are the numbers
    of these windows, which are the same for every feature.

    `windows` has one row for each window that a feature keeps or that is in the sample. `character` is the character of
    the document at which the window begins; `before` and `after` are the token ids around it; `cross_entropy` is in
    nats per token.

    `kept` lists the windows that each feature keeps. Rows of kind "top" are the strongest windows, best first. A row
    of kind "fluent" is the strongest window among those with a cross-entropy in `[rank / 4, (rank + 1) / 4)`; such rows
    exist where the cross-entropy of all windows was measured. `values` are the feature's values if the prompt ended at
    each token.

    `tokens` has the bytes of each token that occurs in `windows`.

    >>> schema("kept").names
    ['feature', 'kind', 'rank', 'value', 'window', 'values']
    """
    import pyarrow as pa

    i32, i64, f32, f64, text = pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.string()
    columns: dict[str, dict[str, Any]] = {
        "features": {
            "feature": i32,
            "label": text,
            "windows": i64,
            "non_finite": i64,
            "mean": f64,
            "deviation": f64,
            "minimum": f64,
            "maximum": f64,
            "histogram_width": f64,
            "histogram_start": i32,
            "histogram": pa.list_(i64),
            "sample_values": pa.list_(f32),
            "sample_windows": pa.list_(i64),
        },
        "windows": {
            "window": i64,
            "document": text,
            "character": i64,
            "ids": pa.list_(i32),
            "before": pa.list_(i32),
            "after": pa.list_(i32),
            "cross_entropy": f32,
        },
        "kept": {"feature": i32, "kind": text, "rank": i32, "value": f32, "window": i64, "values": pa.list_(f32)},
        "tokens": {"id": i32, "bytes": pa.binary()},
    }
    return pa.schema(list(columns[name].items()))


def arrow_table(name: str, rows: Rows) -> pa.Table:
    """Return rows as an Arrow table with the columns, order and types of :func:`schema`, sorted by its key.

    Args:
        name: Name of the table, one of :data:`NAMES`.
        rows: pyarrow Table; or columns by name, as sequences or arrays, where an array `[rows, n]` is a column of
            lists; or record batches.

    Raises:
        ExamplesError: A column is missing or has another type.
    """
    import pyarrow as pa

    form = schema(name)
    try:
        if isinstance(rows, Mapping):
            result = pa.table({f.name: _column(rows[f.name], f.type) for f in form}, schema=form)
        elif isinstance(rows, pa.Table):
            result = rows.select(form.names).cast(form)
        else:
            result = pa.Table.from_batches(list(rows), schema=form)
    except (KeyError, TypeError, ValueError) as error:  # pyarrow's errors are subclasses of these
        raise ExamplesError(
            f"These are not rows for the table {name!r}, whose columns are {form.names}: {error}."
        ) from error
    key = result[KEYS[name]].to_numpy()
    if (np.diff(key) < 0).any():
        result = result.take(np.argsort(key, kind="stable"))
    return result


def token_table(vocabulary: Any, windows: pa.Table) -> pa.Table:
    """Return the table `tokens`: the bytes of every token of the windows and their surroundings.

    Args:
        vocabulary: Vocabulary of the model, a :class:`dreamy_lens.models.vocabulary.Vocabulary`.
        windows: Table `windows`.
    """
    names = ("ids", "before", "after")
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for n in names for chunk in windows[n].chunks]
    ids = np.unique(np.concatenate([*parts, np.empty(0, dtype=np.int32)])).astype(np.int32)
    return arrow_table("tokens", {"id": ids, "bytes": [token_bytes(vocabulary, int(i)) for i in ids]})


def _column(values: Any, kind: Any) -> Any:
    """Return a column of a given type. Arrays `[rows, n]` become lists; NaN in a column of floats becomes null."""
    import pyarrow as pa

    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values.cast(kind)
    if isinstance(values, np.ndarray) and values.ndim == 2:
        rows, width = values.shape
        offsets = pa.array(np.arange(rows + 1) * width, type=pa.int32())
        flat = pa.array(rearrange(values, "rows width -> (rows width)"))
        return pa.ListArray.from_arrays(offsets, flat.cast(kind.value_type))
    if pa.types.is_string(kind):
        # Names of documents can contain lone surrogates, which UTF-8 cannot encode.
        values = [v.encode("utf-8", "backslashreplace").decode() if isinstance(v, str) else v for v in values]
    return pa.array(values, type=kind, from_pandas=not pa.types.is_list(kind))

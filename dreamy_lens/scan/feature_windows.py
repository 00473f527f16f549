"""One feature's windows: those that drive it most, those near a quantile, a random sample, and how values spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.errors import FeatureError, SettingsError
from dreamy_lens.features.parser import parse
from dreamy_lens.figures.protocols import TextDecoder
from dreamy_lens.scan.distribution import Distribution
from dreamy_lens.scan.window import Histogram, Window, frontier_windows

if TYPE_CHECKING:
    from dreamy_lens.features.expressions import Feature
    from dreamy_lens.scan.tables import Tables

FLUENT_STEP = 0.25
"""Nats per token: of each such step of cross-entropy the strongest window is kept, where that of all was measured."""


class FeatureWindows:
    """What a scan of a corpus found for one feature; rows are read when they are asked for.

    Args:
        tables: tables of the scan.
        index: number of the feature in the scan.
        reader: function that returns the decoder of token ids; called when the decoder is needed first.

    Attributes:
        index: number of the feature in the scan.
        label: text of the feature, which parses back to it.
        windows: how many windows of the corpus were scored.
        non_finite: how many more windows had no finite value, and count nowhere else.
        mean: mean of the values.
        deviation: standard deviation of the values.
        minimum: lowest value.
        maximum: highest value.
        histogram: histogram of the values.
    """

    def __init__(self, tables: Tables, index: int, reader: Callable[[], TextDecoder]) -> None:
        self._tables, self._reader, self.index = tables, reader, index
        row = tables.parts["features"].where("feature", [index]).to_pylist()[0]
        self.label: str = row["label"]
        self.windows, self.non_finite = int(row["windows"]), int(row["non_finite"])
        self.mean, self.deviation = _number(row["mean"]), _number(row["deviation"])
        self.minimum, self.maximum = _number(row["minimum"]), _number(row["maximum"])
        counts = np.asarray(row["histogram"], dtype=np.int64)
        self.histogram = Histogram(float(row["histogram_width"]), int(row["histogram_start"]), counts)
        self._sample = np.asarray(row["sample_values"], dtype=np.float32), np.asarray(row["sample_windows"], np.int64)

    @cached_property
    def reader(self) -> TextDecoder:
        """What turns ids into text."""
        return self._reader()

    @property
    def header(self) -> dict[str, Any]:
        """What was scanned and how, as in `examples.json`."""
        return self._tables.header

    @property
    def counts(self) -> dict[str, int]:
        """Documents, characters, windows and tokens of the corpus, and what was passed over."""
        return dict(self.header.get("counts", {}))

    @property
    def measured(self) -> bool:
        """Whether the cross-entropy of every window of the corpus was measured, not only of those that are kept."""
        return bool(self.header.get("settings", {}).get("cross_entropy"))

    @cached_property
    def feature(self) -> Feature:
        """The feature, as an expression."""
        return parse(self.label)

    @property
    def title(self) -> str:
        """The feature in short."""
        try:
            return self.feature.label
        except FeatureError:  # a custom function has a name, and nothing to parse it to
            return self.label

    @cached_property
    def top(self) -> tuple[Window, ...]:
        """The strongest windows, best first."""
        return self._kept("top")

    @cached_property
    def fluent(self) -> tuple[Window, ...]:
        """The strongest window of each quarter of a nat, fluent first, where all cross-entropies were measured.

        The last step has no end: it has everything from 15.75 nats on.
        """
        return self._kept("fluent")

    @cached_property
    def fluent_levels(self) -> tuple[int, ...]:
        """For each of :attr:`fluent`, which quarter of a nat it is the strongest of; the last has everything beyond."""
        return tuple(row["rank"] for row in self._kept_rows("fluent"))

    @cached_property
    def frontier(self) -> tuple[Window, ...]:
        """The kept windows that no kept one beats in both value and cross-entropy, fluent to strong.

        Where :attr:`measured`, this is the frontier of all windows of the corpus to within a quarter of a nat.
        """
        return frontier_windows([*self.top, *self.fluent])

    @property
    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Values float32 `[S]` and numbers int64 `[S]` of windows drawn at random, the same for every feature."""
        return self._sample

    @cached_property
    def _finite_sample(self) -> tuple[np.ndarray, np.ndarray]:
        values, numbers = self._sample
        known = np.isfinite(values)
        return values[known], numbers[known]

    @cached_property
    def sampled(self) -> tuple[Window, ...]:
        """The windows of :attr:`sample`."""
        values, numbers = self._sample
        return self._windows(numbers.tolist(), values.tolist())

    @cached_property
    def distribution(self) -> Distribution:
        """How the values of all windows are distributed."""
        values, _ = self._finite_sample
        top = np.array([row["value"] for row in self._kept_rows("top")], dtype=np.float64)
        return Distribution(self.histogram, (self.minimum, self.maximum), top, values.astype(np.float64))

    def quantile_value(self, q: float) -> float:
        """The lowest value that at least a share `q` of the corpus' windows does not exceed.

        It is exact where the strongest windows reach so far down, and as exact as the sample elsewhere.

        Args:
            q: from 0 to 1, for example 0.99.

        Returns:
            The value; NaN if no window had a finite one.

        Raises:
            SettingsError: `q` is outside its range.
        """
        return self.distribution.quantile(_share(q))

    def quantile(self, q: float, count: int = 8) -> tuple[Window, ...]:
        """Windows about as strong as a share `q` of the corpus is weaker than.

        Args:
            q: from 0 to 1, for example 0.99.
            count: how many windows.

        Returns:
            Those of the random sample, and of the strongest, whose ranks are nearest to the quantile, strongest first.

        Raises:
            SettingsError: `q` is outside its range.
        """
        known, (values, numbers) = self.distribution, self._finite_sample
        tops = {w.number: w for w in self.top}
        far = known.distances(known.shares_of_sample(), _share(q))
        pool = [
            (d, n, v) for d, n, v in zip(far.tolist(), numbers.tolist(), values.tolist(), strict=True) if n not in tops
        ]
        far = known.distances(known.shares_of_top(), q)
        pool += [(d, w.number, w.value) for d, w in zip(far.tolist(), self.top, strict=True)]
        near = sorted(pool)[:count]
        rest = [(n, v) for _, n, v in near if n not in tops]
        found = [tops[n] for _, n, _ in near if n in tops]
        found += self._windows([n for n, _ in rest], [v for _, v in rest])
        return tuple(sorted(found, key=lambda w: (-w.value, w.number)))

    def passages(self, numbers: Iterable[int]) -> tuple[list[str], list[np.ndarray]]:
        """The tokens of windows together with what was kept around them, and the documents they stand in."""
        wanted = list(numbers)
        rows = {row["window"]: row for row in self._tables.parts["windows"].where("window", wanted).to_pylist()}
        found = [rows[n] for n in wanted if n in rows]
        whole = [[*(row["before"] or []), *row["ids"], *(row["after"] or [])] for row in found]
        return [row["document"] for row in found], [np.array(ids, dtype=np.int64) for ids in whole]

    # Rows to windows.

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        found = self._tables.parts["kept"].where("feature", [self.index])
        return sorted(found.to_pylist(), key=lambda row: (row["kind"], row["rank"]))

    def _kept_rows(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in self._rows if row["kind"] == kind]

    def _kept(self, kind: str) -> tuple[Window, ...]:
        rows = self._kept_rows(kind)
        numbers, values = [row["window"] for row in rows], [row["value"] for row in rows]
        return self._windows(numbers, values, [row["values"] for row in rows])

    def _windows(
        self, numbers: list[int], values: list[float], series: Iterable[Any] | None = None
    ) -> tuple[Window, ...]:
        rows = {row["window"]: row for row in self._tables.parts["windows"].where("window", numbers).to_pylist()}
        known = [None] * len(numbers) if series is None else series
        return tuple(
            self._window(rows[n], v, one) for n, v, one in zip(numbers, values, known, strict=True) if n in rows
        )

    def _window(self, row: dict[str, Any], value: float, series: Any) -> Window:
        read, ids = self.reader, tuple(row["ids"])
        return Window(
            number=row["window"],
            ids=ids,
            tokens=tuple(read.tokens(ids)),
            text=read.text(ids),
            value=float(value),
            cross_entropy=row["cross_entropy"],
            document=row["document"],
            character=row["character"],
            before=read.text(row["before"] or []),
            after=read.text(row["after"] or []),
            values=None if series is None else np.array([np.nan if v is None else v for v in series], np.float32),
        )


def _share(q: float) -> float:
    if isinstance(q, bool) or not isinstance(q, (int, float, np.number)) or not 0 <= q <= 1:
        raise SettingsError(f"A quantile is a share from 0 to 1, such as 0.99; got {q!r}.")
    return float(q)


def _number(x: float | None) -> float:
    """A number of a table, in which there is none where nothing had a finite value."""
    return math.nan if x is None else float(x)

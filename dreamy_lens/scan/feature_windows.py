"""Windows of one feature: the strongest, those near a quantile and a random sample, with the values' distribution."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens._literals import python_literal
from dreamy_lens.errors import SettingsError, quoted
from dreamy_lens.features.parser import feature_names, parse
from dreamy_lens.figures.protocols import TextDecoder
from dreamy_lens.scan.distribution import Distribution, Shape
from dreamy_lens.scan.window import PER_NAT, Histogram, Window, frontier_windows

if TYPE_CHECKING:
    from dreamy_lens.features.expressions import Feature
    from dreamy_lens.scan.tables import Tables

FLUENT_STEP = 1 / PER_NAT
"""Step of cross-entropy, in nats per token: a scan that measures it keeps the strongest window of each step."""


class FeatureWindows:
    """Result of a scan for one feature; rows are read when they are needed.

    Args:
        tables: Tables of the scan.
        index: Number of the feature in the scan.
        reader: Function that returns the decoder of token ids; it is called when the decoder is first needed.

    Attributes:
        index: Number of the feature in the scan.
        label: Text of the feature, which parses to the feature.
        windows: Number of windows of the corpus with a finite value.
        non_finite: Number of windows whose value was not finite; the other statistics ignore them.
        mean: Mean of the values.
        deviation: Standard deviation of the values.
        minimum: Lowest value.
        maximum: Highest value.
        histogram: Histogram of the values.
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
        """Decoder of token ids."""
        return self._reader()

    @property
    def header(self) -> dict[str, Any]:
        """Content of `examples.json`: what was scanned, and with which settings."""
        return self._tables.header

    @property
    def code(self) -> str:
        """Program that makes these examples again, as Python; "" if it is unknown."""
        code = self.header.get("code", "")
        which = python_literal(self.label) if len(self.label) <= 200 else str(self.index)
        return f"{code}\nexamples = examples.of({which})" if code else ""

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of documents, characters, windows and tokens that were scanned, and of what was skipped."""
        return dict(self.header.get("counts", {}))

    @property
    def measured(self) -> bool:
        """True if the cross-entropy of every window was measured, not only that of the kept windows."""
        return bool(self.header.get("settings", {}).get("cross_entropy"))

    @cached_property
    def feature(self) -> Feature:
        """Expression of the feature."""
        return parse(self.label)

    @property
    def title(self) -> str:
        """Short name of the feature, for titles."""
        return self.names[0]

    @cached_property
    def names(self) -> tuple[str, str]:
        """Short name of the feature for titles, and a longer one with its hook points for tooltips."""
        return feature_names(self.label)

    @cached_property
    def top(self) -> tuple[Window, ...]:
        """Strongest windows, best first."""
        return self._kept("top")

    @cached_property
    def fluent(self) -> tuple[Window, ...]:
        """Strongest window of each quarter of a nat of cross-entropy, fluent first; empty unless :attr:`measured`.

        The last step has no upper end: it holds every window from 15.75 nats per token.
        """
        return self._kept("fluent")

    @cached_property
    def fluent_levels(self) -> tuple[int, ...]:
        """Step of each window of :attr:`fluent`, counted in quarters of a nat; the last step has no upper end."""
        return tuple(row["rank"] for row in self._kept_rows("fluent"))

    @cached_property
    def frontier(self) -> tuple[Window, ...]:
        """Kept windows that no kept window beats in both value and cross-entropy, from fluent to strong.

        If :attr:`measured`, this is the frontier of all windows of the corpus to within a quarter of a nat.
        """
        return frontier_windows([*self.top, *self.fluent])

    @property
    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Values, float32 `[S]`, and numbers, int64 `[S]`, of windows drawn at random, equal for every feature."""
        return self._sample

    @cached_property
    def _finite_sample(self) -> tuple[np.ndarray, np.ndarray]:
        values, numbers = self._sample
        known = np.isfinite(values)
        return values[known], numbers[known]

    @cached_property
    def sampled(self) -> tuple[Window, ...]:
        """Windows of :attr:`sample`."""
        values, numbers = self._sample
        return self._windows(numbers.tolist(), values.tolist())

    @cached_property
    def distribution(self) -> Distribution:
        """Distribution of the values on all windows."""
        values, _ = self._finite_sample
        top = np.array([row["value"] for row in self._kept_rows("top")], dtype=np.float64)
        return Distribution(self.histogram, (self.minimum, self.maximum), top, values.astype(np.float64))

    @cached_property
    def shape(self) -> Shape:
        """Share of windows above 0, skewness and excess kurtosis, estimated from the histogram and the sample."""
        return self.distribution.shape()

    def quantile_value(self, q: float) -> float:
        """Return the lowest value that at least a share `q` of the corpus' windows does not exceed.

        The result is exact if it is among the strongest windows' values. Otherwise the random sample limits its
        precision.

        Args:
            q: Share of the windows, from 0 to 1, for example 0.99.

        Returns:
            The value, in the feature's units; NaN if no window had a finite value.

        Raises:
            SettingsError: `q` is outside its range.
        """
        return self.distribution.quantile(_share(q))

    def quantile(self, q: float, count: int = 8) -> tuple[Window, ...]:
        """Return windows near a quantile of the corpus.

        Args:
            q: Share of the corpus that is weaker than the windows, from 0 to 1, for example 0.99.
            count: Number of windows.

        Returns:
            The windows of the random sample and of the strongest whose ranks are nearest to the quantile, strongest
            first.

        Raises:
            SettingsError: `q` is outside its range.
        """
        distribution, (values, numbers) = self.distribution, self._finite_sample
        top = {w.number: w for w in self.top}
        distances = distribution.distances(distribution.shares_of_sample(), _share(q))
        sample = zip(distances.tolist(), numbers.tolist(), values.tolist(), strict=True)
        candidates = [(distance, number, value) for distance, number, value in sample if number not in top]
        distances = distribution.distances(distribution.shares_of_top(), q)
        candidates += [(distance, w.number, w.value) for distance, w in zip(distances.tolist(), self.top, strict=True)]
        nearest = sorted(candidates)[:count]
        sampled = [(number, value) for _, number, value in nearest if number not in top]
        windows = [top[number] for _, number, _ in nearest if number in top]
        windows += self._windows([number for number, _ in sampled], [value for _, value in sampled])
        return tuple(sorted(windows, key=lambda w: (-w.value, w.number)))

    def passages(self, numbers: Iterable[int]) -> tuple[list[str], list[np.ndarray]]:
        """Return the documents of windows, and the token ids of the windows with the kept context.

        Numbers of windows that are not kept are skipped.
        """
        wanted = list(numbers)
        rows = {row["window"]: row for row in self._tables.parts["windows"].where("window", wanted).to_pylist()}
        kept = [rows[n] for n in wanted if n in rows]
        passages = [[*(row["before"] or []), *row["ids"], *(row["after"] or [])] for row in kept]
        return [row["document"] for row in kept], [np.array(ids, dtype=np.int64) for ids in passages]

    # Conversion of rows to windows.

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        kept = self._tables.parts["kept"].where("feature", [self.index])
        return sorted(kept.to_pylist(), key=lambda row: (row["kind"], row["rank"]))

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
        all_series = [None] * len(numbers) if series is None else series
        return tuple(
            self._window(rows[number], value, values_at_tokens)
            for number, value, values_at_tokens in zip(numbers, values, all_series, strict=True)
            if number in rows
        )

    def _window(self, row: dict[str, Any], value: float, series: Any) -> Window:
        reader, ids = self.reader, tuple(row["ids"])
        return Window(
            number=row["window"],
            ids=ids,
            tokens=tuple(reader.tokens(ids)),
            text=reader.text(ids),
            value=float(value),
            cross_entropy=row["cross_entropy"],
            document=row["document"],
            character=row["character"],
            before=reader.text(row["before"] or []),
            after=reader.text(row["after"] or []),
            values=None if series is None else np.array([np.nan if v is None else v for v in series], np.float32),
        )


def _share(q: float) -> float:
    """Return a quantile as a float, or raise SettingsError if it is not from 0 to 1."""
    if isinstance(q, bool) or not isinstance(q, (int, float, np.number)) or not 0 <= q <= 1:
        raise SettingsError(f"A quantile is a share from 0 to 1, such as 0.99; got {quoted(q)}.")
    return float(q)


def _number(x: float | None) -> float:
    """Return a number of a table, where null stands for NaN."""
    return math.nan if x is None else float(x)

"""What a scan of a corpus found, feature by feature: `dl.max_activating` makes it, `Examples.load` opens it again."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.errors import ExamplesError
from dreamy_lens.figures.protocols import TextDecoder
from dreamy_lens.html.escaping import escape
from dreamy_lens.html.page import fragment, table
from dreamy_lens.scan import storage
from dreamy_lens.scan.detokenize import ByteDecoder
from dreamy_lens.scan.feature_examples import FeatureExamples
from dreamy_lens.scan.schema import token_table
from dreamy_lens.scan.tables import Tables
from dreamy_lens.scan.window import Histogram, Window, scanned_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Examples", "FeatureExamples", "Histogram", "Window"]

_ROWS = 12  # of features that a notebook shows
_CLOSE = 20_000  # labels that a misspelt one is compared with at most


class Examples:
    """The examples of many features in one corpus. Iterating gives the features' labels; `[...]` one's examples.

    Args:
        tables: of the scan, in memory or on storage.
        reader: turns ids into text; None reads the tokens' bytes that the tables keep, or else loads the model.
        model: loaded for its tokenizer where nothing else is at hand; None is the one the examples are of.
    """

    def __init__(self, tables: Tables, reader: TextDecoder | None = None, model: Any = None) -> None:
        self.tables = tables
        self.folder: Path | None = None
        self._given, self._model = reader, model

    @classmethod
    def load(cls, folder: str | os.PathLike[str], model: Any = None) -> Examples:
        """Open what :meth:`save`, or a scan, wrote. No model is needed, and no table is read whole.

        Args:
            folder: of the examples.
            model: whose tokenizer reads them, if the tables do not have the tokens' bytes.

        Raises:
            ExamplesError: the folder is missing, has no examples, is damaged, or of a newer version.
        """
        found = cls(storage.read(folder), model=model)
        found.folder = Path(folder).expanduser().absolute()
        return found

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the examples as a folder of JSON and Parquet, in one step.

        Args:
            folder: made if it is not there.
            overwrite: replace examples that are there.

        Raises:
            ExamplesError: something else is there, there is no room, or no permission. Nothing is changed then.
        """
        place = Path(folder).expanduser()
        if place.absolute() == self.folder:
            return place
        if place.exists() and not place.is_dir():
            raise ExamplesError(f"{str(place)!r} is a file; examples are a folder. Choose another name.")
        if (place / storage.HEADER).exists() and not overwrite:
            raise ExamplesError(f"{str(place)!r} holds examples already; choose another name, or pass overwrite=True.")
        if place.is_dir() and any(place.iterdir()) and not (place / storage.HEADER).exists():
            raise ExamplesError(f"{str(place)!r} exists and has no examples in it; choose another name.")
        parts = dict(self.tables.parts)
        tokens = parts.pop("tokens", None)
        if tokens is None and hasattr(self._given, "piece"):
            tokens = token_table(self._given, self.tables.windows)
        storage.write(place, self.tables.header, **parts, tokens=tokens)
        return place

    # What was scanned.

    @property
    def header(self) -> dict[str, Any]:
        """What was scanned and how, as in `examples.json`."""
        return self.tables.header

    @property
    def model(self) -> str:
        """Name or folder of the model."""
        return str(self.header.get("model", ""))

    @property
    def tokenizer(self) -> str | None:
        """What tells its tokenizer from others."""
        return self.header.get("tokenizer")

    @property
    def prepend_bos(self) -> bool:
        """Whether a BOS token stood before every window."""
        return bool(self.header.get("prepend_bos"))

    @property
    def corpus(self) -> str:
        """The corpus' name."""
        return str(self.header.get("corpus", {}).get("name", "a corpus"))

    @property
    def settings(self) -> dict[str, Any]:
        """Of the scan: k, length, stride, context, tokens, seed, cross_entropy, sample."""
        return dict(self.header.get("settings", {}))

    @property
    def counts(self) -> dict[str, int]:
        """Documents, characters, windows and tokens of the corpus, and what was passed over."""
        return dict(self.header.get("counts", {}))

    @property
    def problems(self) -> list[dict[str, str]]:
        """The first few documents and files that were passed over, by name, each with the reason."""
        return list(self.header.get("problems", []))

    @property
    def failed_shards(self) -> list[dict[str, str]]:
        """Parts of the corpus that could not be scanned, by name, each with the reason."""
        return list(self.header.get("failed_shards", []))

    # What was found.

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Every feature's text, in order; each parses back to its feature."""
        return tuple(self.tables.parts["features"].all(["label"])["label"].to_pylist())

    def of(self, feature: Any) -> FeatureExamples:
        """The examples of one feature.

        Args:
            feature: an expression, its text, or its number here.

        Raises:
            ExamplesError: it was not scanned; the message has the nearest that were.
        """
        return FeatureExamples(self.tables, self._index(feature), partial(getattr, self, "reader"))

    def __getitem__(self, feature: Any) -> FeatureExamples:
        return self.of(feature)

    def __contains__(self, feature: Any) -> bool:
        try:
            self._index(feature)
        except (ExamplesError, ValueError):
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.tables.parts["features"])

    def to_pandas(self) -> pd.DataFrame:
        """One row per feature: label, windows, non_finite, mean, deviation, minimum, maximum."""
        names = ["label", "windows", "non_finite", "mean", "deviation", "minimum", "maximum"]
        return self.tables.parts["features"].all(names).to_pandas()

    @cached_property
    def reader(self) -> TextDecoder:
        """What turns the windows' ids into text."""
        if self._given is not None:
            return self._given
        tokens = self.tables.tokens
        if tokens is not None:
            return ByteDecoder(dict(zip(tokens["id"].to_pylist(), tokens["bytes"].to_pylist(), strict=True)))
        from dreamy_lens.models.load import as_hooked

        return as_hooked(self.model if self._model is None else self._model).vocabulary

    @cached_property
    def _numbers(self) -> Mapping[str, int]:
        return {label: i for i, label in reversed(list(enumerate(self.labels)))}

    def _index(self, feature: Any) -> int:
        if isinstance(feature, (int, np.integer)) and not isinstance(feature, bool):
            n = len(self)
            if not -n <= feature < n:
                raise ExamplesError(f"There are {n:,} features here, numbered from 0; there is no number {feature}.")
            return int(feature) % n
        texts: list[str] = [feature] if isinstance(feature, str) else []
        if not texts or texts[0] not in self._numbers:
            from dreamy_lens.features.parser import parse

            expression = parse(feature)  # type: ignore[arg-type]
            texts += [str(expression), str(expression.absolute())]
        for text in texts:
            if text in self._numbers:
                return self._numbers[text]
        raise ExamplesError(
            f"{_short(texts[-1])} is not among the {len(self):,} features of these examples.{self._nearest(texts[-1])}"
        )

    def _nearest(self, text: str) -> str:
        """The labels most like one that is not here."""
        labels = self.labels
        same = [label for label in labels if label.split("[")[0] == text.split("[")[0]] or list(labels)
        pool = same[:: -(-len(same) // _CLOSE)]
        near = difflib.get_close_matches(text, pool, 3, 0.6) or pool[:3]
        return f" The nearest: {', '.join(map(_short, near))}." if near else ""

    def _repr_html_(self) -> str:
        frame = self.to_pandas()
        few = frame.nlargest(_ROWS, "maximum")
        numbers = few[["maximum", "mean", "deviation"]].to_numpy()
        rows = [[*(f"{x:.4g}" for x in row), _short(label)] for row, label in zip(numbers, few["label"], strict=True)]
        more = f", the {len(few)} strongest" if len(few) < len(frame) else ""
        note = f"<p>{escape(repr(self))}{more}; examples[feature] has the windows of one.</p>"
        return fragment(note + table(["maximum", "mean", "deviation", "feature"], rows))

    def __repr__(self) -> str:
        n, tokens = len(self), self.counts.get("tokens", 0)
        features = f"{n:,} feature{'s' * (n != 1)} of {self.model}"
        if not self.header.get("complete", True):
            return f"Examples({features} in {scanned_of(self.header)})"
        return f"Examples({features} in {tokens:,} tokens of {self.corpus})"


def _short(label: str) -> str:
    """A label for a message: inline directions make some very long."""
    return label if len(label) <= 80 else f"{label[:60]}…{label[-12:]}"

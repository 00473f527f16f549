"""Examples of many features: the result of a scan, which `max_activating` returns and `Examples.load` opens."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens._files import check_page, write_text
from dreamy_lens._host import working
from dreamy_lens.errors import ExamplesError, FeatureError, close_names
from dreamy_lens.figures.protocols import TextDecoder
from dreamy_lens.html.escaping import escape, with_tooltip
from dreamy_lens.html.page import fragment, html_table, python_details
from dreamy_lens.scan import storage
from dreamy_lens.scan.detokenize import ByteDecoder
from dreamy_lens.scan.feature_examples import FeatureExamples
from dreamy_lens.scan.index_folder import check_index_folder, is_index_folder
from dreamy_lens.scan.index_page import each_feature, index_page, write_index
from dreamy_lens.scan.schema import token_table
from dreamy_lens.scan.tables import Tables
from dreamy_lens.scan.window import Histogram, Window, scanned_part

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Examples", "FeatureExamples", "Histogram", "Window"]

_ROWS = 12  # features that a notebook shows
_CLOSE = 20_000  # largest number of labels that a misspelt label is compared with


class Examples:
    """Examples of many features in one corpus.

    `examples[feature]` returns the examples of one feature; iterating yields the labels of all features.

    Args:
        tables: Tables of the scan, in memory or on disk.
        reader: Decoder of token ids; None decodes with the bytes of the tokens in the tables, or else with the
            tokenizer of `model`.
        model: Model to load for its tokenizer if it is needed; None is the model that was scanned.
    """

    def __init__(self, tables: Tables, reader: TextDecoder | None = None, model: Any = None) -> None:
        self.tables = tables
        self.folder: Path | None = None
        self._given_reader, self._model = reader, model

    @classmethod
    def load(cls, folder: str | os.PathLike[str], model: Any = None) -> Examples:
        """Open examples that :meth:`save` or a scan wrote. This needs no model, and reads no complete table.

        Args:
            folder: Folder of the examples.
            model: Model whose tokenizer decodes windows, if the tables have no bytes of tokens.

        Raises:
            ExamplesError: The folder is missing, has no examples, is damaged, or has a newer version.
        """
        examples = cls(storage.read_tables(folder), model=model)
        examples.folder = Path(folder).expanduser().absolute()
        return examples

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the examples as a folder of JSON and Parquet, in one step.

        Args:
            folder: Folder to write to; it is created if it does not exist.
            overwrite: Whether to replace examples that the folder holds.

        Returns:
            The folder.

        Raises:
            ExamplesError: The folder holds something else, the disk is full, or the folder is not writable. Nothing is
                changed then.
        """
        folder = Path(folder).expanduser()
        if folder.absolute() == self.folder:
            return folder
        storage.check_out(folder)
        if (folder / storage.HEADER).exists() and not overwrite:
            raise ExamplesError(f"{str(folder)!r} holds examples already; choose another name, or pass overwrite=True.")
        others = storage.other_entries(folder)  # looked at before the header, which another process may be writing
        if others and not (folder / storage.HEADER).exists():
            raise ExamplesError(f"{str(folder)!r} exists and has no examples in it; choose another name.")
        parts = dict(self.tables.parts)
        tokens = parts.pop("tokens", None)
        if tokens is None and hasattr(self._given_reader, "piece"):
            tokens = token_table(self._given_reader, self.tables.windows)
        storage.write_tables(folder, self.tables.header, **parts, tokens=tokens)
        return folder

    # What was scanned.

    @property
    def header(self) -> dict[str, Any]:
        """Content of `examples.json`: what was scanned, and with which settings."""
        return self.tables.header

    @property
    def model(self) -> str:
        """Name or folder of the model."""
        return str(self.header.get("model", ""))

    @property
    def tokenizer(self) -> str | None:
        """Digest of the model's tokenizer."""
        return self.header.get("tokenizer")

    @property
    def prepend_bos(self) -> bool:
        """True if a BOS token was before every window."""
        return bool(self.header.get("prepend_bos"))

    @property
    def corpus(self) -> str:
        """Name of the corpus."""
        return str(self.header.get("corpus", {}).get("name", "a corpus"))

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the scan: k, length, stride, context, tokens, seed, cross_entropy, sample."""
        return dict(self.header.get("settings", {}))

    @property
    def code(self) -> str:
        """Program that makes the examples again, as Python; "" if it is unknown."""
        return str(self.header.get("code", ""))

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of documents, characters, windows and tokens that were scanned, and of what was skipped."""
        return dict(self.header.get("counts", {}))

    @property
    def problems(self) -> list[dict[str, str]]:
        """Names of the first few documents and files that were skipped, each with the reason."""
        return list(self.header.get("problems", []))

    @property
    def failed_shards(self) -> list[dict[str, str]]:
        """Names of the parts of the corpus that could not be scanned, each with the reason."""
        return list(self.header.get("failed_shards", []))

    # The features.

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Text of every feature, in order; each text parses to its feature."""
        return tuple(self.tables.parts["features"].all(["label"])["label"].to_pylist())

    def of(self, feature: Any) -> FeatureExamples:
        """Return the examples of one feature.

        Args:
            feature: Expression, its text, or its number in :attr:`labels`.

        Raises:
            ExamplesError: The feature was not scanned; the message names the nearest ones that were.
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
        """Return a table with one row per feature: label, windows, non_finite, mean, deviation, minimum, maximum."""
        names = ["label", "windows", "non_finite", "mean", "deviation", "minimum", "maximum"]
        return self.tables.parts["features"].all(names).to_pandas()

    def to_html(
        self, path: str | os.PathLike[str] | None = None, *, overwrite: bool = False, progress: bool | None = None
    ) -> str:
        """Return the index of the features as a page, and write it; a folder also gets a page for each feature.

        The index is a table with one row per feature: the highest value, the share of windows above 0, skewness and
        excess kurtosis, a small histogram, and the strongest window. It can be sorted and searched, and is legible
        without scripts. Nothing needs a network.

        Args:
            path: Folder to write, such as "layer2/": the rows of its `index.html` open the pages of the features. Or
                a file that ends in .html: the table alone. None writes nothing.
            overwrite: Whether to replace an index that the folder holds. A file is always replaced.
            progress: Whether to show progress; None shows it in notebooks and terminals.

        Returns:
            HTML of the index.

        Raises:
            FileWriteError: The folder holds something else, or cannot be written. Nothing is changed then.
        """
        if path is not None and is_index_folder(path):
            check_index_folder(path, overwrite)
            return write_index(self.tables, self.reader, path, overwrite, progress)
        if path is not None:
            check_page(path, "A name without an ending writes a folder with a page for each feature.")
        with working("Making the page", progress):
            text = index_page(self.header, each_feature(self.tables, self.reader))
        if path is not None:
            write_text(path, text)
        return text

    @cached_property
    def reader(self) -> TextDecoder:
        """Decoder of the windows' token ids."""
        if self._given_reader is not None:
            return self._given_reader
        tokens = self.tables.tokens
        if tokens is not None:
            return ByteDecoder(dict(zip(tokens["id"].to_pylist(), tokens["bytes"].to_pylist(), strict=True)))
        from dreamy_lens.models.load import as_hooked

        return as_hooked(self.model if self._model is None else self._model).vocabulary

    @cached_property
    def _numbers(self) -> Mapping[str, int]:
        return {label: i for i, label in reversed(list(enumerate(self.labels)))}

    @cached_property
    def _absolute(self) -> Mapping[str, int]:
        """Numbers of the features that name files or folders, by their texts with absolute paths."""
        from dreamy_lens.features.parser import parse

        numbers: dict[str, int] = {}
        for label, number in self._numbers.items():
            if '"' in label:
                with contextlib.suppress(FeatureError):  # features of Python objects have labels that do not parse
                    numbers.setdefault(str(parse(label).absolute()), number)
        return numbers

    def _index(self, feature: Any) -> int:
        """Return the number of a feature, or raise ExamplesError."""
        if isinstance(feature, (int, np.integer)) and not isinstance(feature, bool):
            count = len(self)
            if not -count <= feature < count:
                raise ExamplesError(
                    f"There are {count:,} features here, numbered from 0; there is no number {feature}."
                )
            return int(feature) % count
        texts: list[str] = [feature] if isinstance(feature, str) else []
        if not texts or texts[0] not in self._numbers:
            from dreamy_lens.features.parser import parse

            expression = parse(feature)  # type: ignore[arg-type]
            texts += [str(expression), str(expression.absolute())]
        for text in texts:
            if text in self._numbers:
                return self._numbers[text]
        if '"' in texts[-1] and texts[-1] in self._absolute:
            return self._absolute[texts[-1]]
        raise ExamplesError(
            f"{_short(texts[-1])} is not among the {len(self):,} features of these examples.{self._nearest(texts[-1])}"
        )

    def _nearest(self, text: str) -> str:
        """Return a sentence that names the labels most similar to a text."""
        labels = self.labels
        same_hook = [label for label in labels if label.split("[")[0] == text.split("[")[0]] or list(labels)
        pool = same_hook[:: -(-len(same_hook) // _CLOSE)]
        near = close_names(text, pool) or pool[:3]
        return f" The nearest: {', '.join(map(_short, near))}." if near else ""

    def _repr_html_(self) -> str:
        from dreamy_lens.features.parser import feature_names

        frame = self.to_pandas()
        strongest = frame.nlargest(_ROWS, "maximum")
        numbers = strongest[["maximum", "mean", "deviation"]].to_numpy()
        rows = [
            [*(f"{x:.4g}" for x in row), with_tooltip(*feature_names(label))]
            for row, label in zip(numbers, strongest["label"], strict=True)
        ]
        shown = f", the {len(strongest)} strongest" if len(strongest) < len(frame) else ""
        note = f"<p>{escape(repr(self))}{shown}; examples[feature] shows the windows of one feature.</p>"
        table = html_table(["maximum", "mean", "deviation", "feature"], rows)
        return fragment(note + table + python_details(self.code))

    def __repr__(self) -> str:
        n, tokens = len(self), self.counts.get("tokens", 0)
        features = f"{n:,} feature{'s' * (n != 1)} of {self.model}"
        if not self.header.get("complete", True):
            return f"Examples({features} in {scanned_part(self.header)})"
        return f"Examples({features} in {tokens:,} tokens of {self.corpus})"


def _short(label: str) -> str:
    """Return the text of a feature for a message, with its directions abbreviated."""
    from dreamy_lens.features.parser import feature_names

    text = feature_names(label)[1]
    return text if len(text) <= 80 else f"{text[:60]}…{text[-12:]}"

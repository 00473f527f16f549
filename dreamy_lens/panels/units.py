"""Units of a layer for the feature browser: one that is alive, the most selective ones, and their top windows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from dreamy_lens._host import reporting
from dreamy_lens.cluster.remote_scan import open_scan
from dreamy_lens.corpus.corpus import Corpus
from dreamy_lens.corpus.documentation import docstrings
from dreamy_lens.corpus.sources import open_corpus
from dreamy_lens.errors import DreamyLensError
from dreamy_lens.features import expressions as ex
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.scan.config import ScanConfig
from dreamy_lens.scan.examples import Examples
from dreamy_lens.scan.feature_examples import FeatureExamples
from dreamy_lens.scan.index_page import each_feature
from dreamy_lens.scan.scan import Scan

TOKENS = 20_000
"""Number of tokens of the small scan."""

SHOWN_UNITS, SHOWN_WINDOWS = 24, 8

REFERENCE = "Python's language reference"
"""Name of the default corpus, which every Python has and which is read in a moment."""

_TEXTS = (
    "The old man walked slowly down to the river, where the children were playing in the water and laughing.",
    "def read(path, encoding='utf-8'):\n    with open(path, encoding=encoding) as file:\n        return file.read()",
    "In 1969 the United States sent three astronauts to the Moon; the mission cost about 25 billion dollars.",
    "Raise a ValueError if the array is empty, or if its shape (n, 3) does not match that of the weights.",
    "She said: \"I don't know whether it's true, but we should ask the doctor before we leave on Monday.\"",
)


def family_of(feature: ex.Feature, shapes: dict[str, Any]) -> ex.Feature | None:
    """Return the feature with all units of its hook point in the place of its unit; None if it is not of one unit.

    Args:
        feature: Feature of one unit of one hook point.
        shapes: Shape of each hook point, as lists of sizes and "position".
    """
    hooks = [f for f in feature.walk() if isinstance(f, ex.Hook)]
    shape = shapes.get(hooks[0].name) if len(hooks) == 1 else None
    if not shape or not isinstance(shape[-1], int):
        return None
    elements = hooks[0].elements(len(shape))
    if not isinstance(elements[-1], int):
        return None
    opened = ex.Hook(hooks[0].name, (*elements[:-1], ex.Span()))
    return feature.transform(lambda f: opened if isinstance(f, ex.Hook) else None)


def alive_unit(hooked: HookedModel, name: str) -> int | None:
    """Return the unit with the highest kurtosis over the tokens of a few sentences; None if all units are constant.

    Args:
        hooked: Model to run.
        name: Hook point whose last axis has the units.
    """
    import torch

    seen: list[np.ndarray] = []

    def read(activation: Any, hook: Any = None) -> None:
        tensor = activation[0] if isinstance(activation, tuple) else activation
        values = tensor.detach().float()[0, 1:]  # the first token is often an outlier
        seen.append(values.reshape(-1, values.shape[-1]).cpu().numpy())

    with torch.no_grad():
        for text in _TEXTS:
            ids = hooked.vocabulary.encode(text)[: (hooked.n_ctx or 64) - 1]
            hooked.observe(torch.tensor([[*(hooked.bos(None) or []), *ids]], device=hooked.device), {name: read})
    values = np.concatenate(seen).astype(np.float64)
    centred = values - values.mean(0)
    second = (centred**2).mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        skewness, kurtosis = ((centred**power).mean(0) / second ** (power / 2) for power in (3, 4))
    usable = np.isfinite(kurtosis) & (second > 1e-8 * second.max()) & (skewness > 0) & (values.max(0) > 0)
    return int(np.where(usable, kurtosis, -np.inf).argmax()) if usable.any() else None


class UnitScan:
    """Small scan of all units of a hook point, in steps, so that it can be cancelled and a run can go on between them.

    Args:
        family: Feature that leaves the units open.
        hooked: Model to run.
        corpus: Corpus, or anything that :func:`dreamy_lens.corpus.open` takes; None is Python's language reference.

    Attributes:
        examples: Examples of all units when the scan has ended, or at once if it is in the cache; None before.
    """

    def __init__(self, family: ex.Feature, hooked: HookedModel, corpus: Any = None) -> None:
        with reporting(False):
            if corpus is None:
                corpus = [document.text for document in docstrings(packages=["pydoc_data.topics"])]
            source = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
            # The first tokens, if the corpus cannot be read a second time to draw some.
            seed = None if source.single_pass else 0
            config = ScanConfig(k=SHOWN_WINDOWS, tokens=TOKENS, seed=seed, cross_entropy=False)
            self._scan = Scan([family], hooked, source, config)
            self._folder = self._scan.scan_folder(None, cache=True)
            self.examples = None if self._folder.path is None else self._scan.open_finished(self._folder)
            self._scanner = self._scan.scanner()
            self._state = self._scanner.new_checkpoint()

    @property
    def part(self) -> float:
        """Part of the scan that is done, from 0 to 1."""
        return 1.0 if self.examples is not None else min(1.0, self._state.counts["tokens"] / TOKENS)

    def step(self, seconds: float) -> None:
        """Scan for some seconds, at least a few passes of the model."""
        end = time.monotonic() + seconds
        with reporting(False):
            if self._scanner.run(self._state, after=lambda *_: time.monotonic() >= end):
                if not self._state.counts["windows"]:
                    raise self._scan.no_windows_error(self._state)
                self.examples = self._scan.build_examples(self._scanner, self._state, self._folder, shown=False)


def selective_units(examples: Examples, labels: Sequence[str], count: int = SHOWN_UNITS) -> list[dict[str, Any]]:
    """Return the units with the highest kurtosis of those with positive skewness, as JSON values.

    Args:
        examples: Examples that have the labels.
        labels: Labels of the units.
        count: Most units to return.
    """
    wanted, usable = set(labels), []
    for feature in each_feature(examples.tables, examples.reader):
        shape = feature.shape if feature.label in wanted else None
        if shape is not None and shape.skewness > 0 and feature.maximum > 0:
            usable.append((-shape.kurtosis, feature.index))
    best = [examples.of(index) for _, index in sorted(usable)[:count]]
    return [
        {
            "label": feature.label,
            "name": feature.title,
            "maximum": feature.maximum,
            "active": None if np.isnan(feature.shape.active) else feature.shape.active,
            "kurtosis": feature.shape.kurtosis,
            "windows": window_rows(feature, 1),
        }
        for feature in best
    ]


def window_rows(examples: FeatureExamples, count: int = SHOWN_WINDOWS) -> list[dict[str, Any]]:
    """Return the strongest windows of a feature as JSON values.

    Args:
        examples: Examples of the feature.
        count: Most windows to return.
    """
    rows = []
    for window in examples.top[:count]:
        values = [None] * len(window) if window.values is None else window.values.tolist()
        series = [None if v is None or not np.isfinite(v) else v for v in values]
        rows.append({"value": window.value, "tokens": list(window.tokens), "series": series, "from": window.document})
    return rows


def labels_of(family: ex.Feature, examples: Examples, unit_count: int) -> list[str]:
    """Return the labels of the units of a family that the examples have; fewer than all if a scan is of others too.

    Args:
        family: Feature that leaves the units open.
        examples: Examples to look in.
        unit_count: Number of units.
    """
    known = set(examples.labels)
    return [label for label in (str(unit_of(family, unit)) for unit in range(unit_count)) if label in known]


def unit_of(family: ex.Feature, unit: int) -> ex.Feature:
    """Return the feature of one unit of a family."""
    hook = next(f for f in family.walk() if isinstance(f, ex.Hook))
    chosen = ex.Hook(hook.name, (*(hook.index or ())[:-1], unit))
    return family.transform(lambda f: chosen if isinstance(f, ex.Hook) else None)


def describe_examples(examples: Examples, corpus_name: str | None = None) -> str:
    """Return what was scanned, for a line of the form."""
    name = corpus_name or examples.corpus
    return f"{examples.counts.get('tokens', 0):,} tokens of {name}"


def matching(examples: Examples | None, model: str) -> bool:
    """Return whether examples are of a model."""
    return examples is not None and examples.model == model


def examples_in(given: Any) -> Examples | None:
    """Return examples that are given as an object or as a folder.

    Raises:
        DreamyLensError: The folder holds no examples, or the object is none.
    """
    if given is None or isinstance(given, Examples):
        return given
    if isinstance(given, FeatureExamples):
        raise DreamyLensError("examples= takes the examples of a scan, not those of one of its features.")
    return open_scan(given)

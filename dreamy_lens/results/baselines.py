"""Baselines of a feature's values: what random prompts and windows of a corpus reach, to calibrate dreams by."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens import _upcalls
from dreamy_lens.errors import PromptError, RunFolderError
from dreamy_lens.features.parser import feature_names
from dreamy_lens.html.escaping import Html, escape
from dreamy_lens.html.numbers import decimals, number
from dreamy_lens.html.page import fragment, html_table, python_details
from dreamy_lens.results.prompt import Prompt
from dreamy_lens.results.prompt_table import text_table
from dreamy_lens.results.storage import read_json, write_json

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "dreamy_lens baselines"

STORED = "baselines.json"
"""Name of the file in a run's folder that holds the run's baselines."""

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
"""Quantiles that tables show."""


@dataclass(frozen=True, eq=False)
class Baseline:
    """Values of a feature on prompts that were not optimised: random prompts and corpus windows.

    Attributes:
        name: What the prompts are: "random prompts" or "corpus windows".
        values: Value of each prompt, float32 `[N]`; prompts whose value is not finite are left out.
        source: Corpus of the windows; "" for random prompts.
    """

    name: str
    values: np.ndarray
    source: str = ""

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return float(np.mean(self.values, dtype=np.float64))

    @property
    def deviation(self) -> float:
        """Standard deviation of the values, that of a sample (N - 1)."""
        return float(np.std(self.values, dtype=np.float64, ddof=1)) if len(self.values) > 1 else math.nan

    def quantile(self, q: float) -> float:
        """Return a quantile of the values."""
        return float(np.quantile(self.values.astype(np.float64), q))

    def z(self, value: float) -> float:
        """Return the z-score of a value: how many deviations it is above the mean (Eq. 5 of the paper)."""
        return (value - self.mean) / self.deviation if self.deviation > 0 else math.nan

    def above(self, value: float) -> float:
        """Return the share of these prompts whose value is at least a value."""
        return float(np.mean(self.values >= value))

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, eq=False, repr=False)
class Baselines:
    """Baselines of a feature, from :func:`dreamy_lens.baselines`.

    Attributes:
        feature: Text form of the feature.
        model: Name of the model.
        random: Values of random prompts.
        corpus: Values of windows of a corpus; None if no corpus was given.
        length: Number of tokens of a prompt and a window.
        seed: Seed of the random choices.
        fluency: Name of the held-out model whose cross-entropy :meth:`of` computes; "" for none.
        around: BOS, template and weights of the run that they belong to, as text; "" for those of a feature alone.
        code: Program that makes the result again, as Python; "" if it is unknown.
    """

    feature: str
    model: str
    random: Baseline
    corpus: Baseline | None
    length: int
    seed: int
    fluency: str = ""
    around: str = ""
    code: str = ""
    _fluency_model: Any = field(default=None, repr=False)
    _held_out: dict[tuple[int, ...], float] = field(default_factory=dict, repr=False)

    @property
    def all(self) -> tuple[Baseline, ...]:
        """All baselines."""
        return (self.random,) if self.corpus is None else (self.random, self.corpus)

    def z(self, value: float) -> dict[str, float]:
        """Return the z-score of a value against each baseline, by its name."""
        return {baseline.name: baseline.z(value) for baseline in self.all}

    def held_out(self, prompts: Iterable[Prompt]) -> list[float]:
        """Return the cross-entropy of prompts under the held-out model, in nats per token, without a template.

        Each prompt is computed once, and saved with the baselines. Without a held-out model the list is empty.

        Args:
            prompts: Prompts of one run.
        """
        rows = list(prompts)
        if not self.fluency:
            return []
        missing = [p for p in rows if p.ids not in self._held_out]
        if missing:
            model = self.fluency if self._fluency_model is None else self._fluency_model
            bos = missing[0].provenance.prepend_bos
            found = _upcalls.cross_entropies([list(p.ids) for p in missing], model, bos)
            self._held_out.update((p.ids, float(x)) for p, x in zip(missing, found, strict=True))
        return [self._held_out[p.ids] for p in rows]

    def _known(self, prompts: Iterable[Prompt]) -> list[float]:
        return [self._held_out.get(p.ids, math.nan) for p in prompts]

    @property
    def known_held_out(self) -> Mapping[tuple[int, ...], float]:
        """Cross-entropies that :meth:`held_out` has computed so far, by the prompts' token ids."""
        return self._held_out

    def of(self, prompts: Any, *, compute: bool = True) -> pd.DataFrame:
        """Return a table with a row for each prompt, such as those of `run.frontier`.

        The columns are value and cross_entropy, as the prompt has them; z_random and z_corpus, the z-scores of the
        value; held_out_cross_entropy under the held-out model, without a template around the prompt; distinct, the
        share of different ones among the prompt's pairs of neighbouring tokens; longest_repeat, the length in tokens of
        the longest sequence that occurs twice; and text. Columns of what was not given are missing.

        Args:
            prompts: One :class:`~dreamy_lens.results.Prompt`, or several.
            compute: Whether the held-out model reads prompts that it has not read yet; otherwise they have NaN.

        Raises:
            PromptError: One of the prompts is a text or ids: it has no value yet. `dl.score` gives it one.
        """
        import pandas as pd

        rows: list[Prompt] = [prompts] if isinstance(prompts, Prompt) else list(_as_prompts(prompts))
        if any(not isinstance(prompt, Prompt) for prompt in rows):
            raise PromptError("Baselines compare prompts of runs, which have values; dl.score(...) scores a text.")
        table: dict[str, list[Any]] = {
            "value": [p.value for p in rows],
            "cross_entropy": [p.cross_entropy for p in rows],
            "z_random": [self.random.z(p.value) for p in rows],
        }
        if self.corpus is not None:
            table["z_corpus"] = [self.corpus.z(p.value) for p in rows]
        if self.fluency and rows:
            table["held_out_cross_entropy"] = self.held_out(rows) if compute else self._known(rows)
        table["distinct"] = [distinct_share(p.ids) for p in rows]
        table["longest_repeat"] = [longest_repeat(p.ids) for p in rows]
        table["text"] = [p.text for p in rows]
        return pd.DataFrame(table)

    def cells(self, prompts: Sequence[Prompt]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Return what a table of prompts shows of the baselines: names of columns, and cells for each prompt.

        The columns are "z, random" and "z, corpus"; "held-out", the cross-entropy under the held-out model; and
        "repeats", the number of tokens of the longest sequence that occurs twice. Nothing is computed by a model: a
        prompt that :meth:`held_out` has not computed has a dash.

        Args:
            prompts: Prompts of one run.
        """
        columns: dict[str, list[str]] = {
            f"z, {b.name.split()[0]}": [number(b.z(p.value), 1) for p in prompts] for b in self.all
        }
        if self.fluency:
            columns["held-out"] = [number(x, 2) for x in self._known(prompts)]
        columns["repeats"] = [str(longest_repeat(p.ids)) for p in prompts]
        return tuple(columns), list(zip(*columns.values(), strict=True))

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row per baseline: name, source, count, mean, deviation and quantiles."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    **{"name": b.name, "source": b.source, "count": len(b), "mean": b.mean, "deviation": b.deviation},
                    "lowest": b.quantile(0),
                    **{f"q{100 * q:g}": b.quantile(q) for q in QUANTILES},
                    "highest": b.quantile(1),
                }
                for b in self.all
            ]
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the baselines to a JSON file, which :meth:`load` reads, and return its path.

        The held-out model is saved by its name, with the cross-entropies that it has given to prompts so far.
        """
        held_out = [[list(ids), value] for ids, value in self._held_out.items()]
        parts = [{"name": b.name, "source": b.source, "values": b.values.tolist()} for b in self.all]
        plain = {
            name: getattr(self, name) for name in ("feature", "model", "length", "seed", "fluency", "around", "code")
        }
        return write_json(path, {"format": FORMAT, "version": 1, **plain, "baselines": parts, "held_out": held_out})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Baselines:
        """Read baselines that :meth:`save` wrote.

        Raises:
            RunFolderError: The file is missing or damaged, or holds something else.
        """
        data = read_json(path, FORMAT)
        try:
            parts = [
                Baseline(b["name"], np.array(b["values"], dtype=np.float32), b["source"]) for b in data["baselines"]
            ]
            plain = {name: data[name] for name in ("length", "seed", "fluency")}
            plain |= {name: data.get(name, "") for name in ("around", "code")}
            held_out = {tuple(map(int, ids)): float(value) for ids, value in data.get("held_out", [])}
            corpus = parts[1] if len(parts) > 1 else None
            return cls(data["feature"], data["model"], parts[0], corpus, **plain, _held_out=held_out)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise RunFolderError(
                f"The file {os.fspath(path)!r} holds no complete baselines ({error}). Save them again."
            ) from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fluency_model": None}

    def _rows(self) -> tuple[Sequence[str], list[list[str]]]:
        columns = ("count", "mean", "deviation", *(f"{100 * q:g} %" for q in QUANTILES), "highest", "baseline")
        places = decimals([b.quantile(1) for b in self.all] + [b.mean for b in self.all])
        rows = []
        for b in self.all:
            numbers = [b.mean, b.deviation, *(b.quantile(q) for q in QUANTILES), b.quantile(1)]
            name = f"{b.name} ({b.source})" if b.source else b.name
            rows.append([f"{len(b):,}", *(number(x, places) for x in numbers), name])
        return columns, rows

    @property
    def _title(self) -> str:
        return f"{feature_names(self.feature)[0]} on {self.model}, prompts of {self.length} tokens"

    def __str__(self) -> str:
        return f"{self._title}\n{text_table(*self._rows())}"

    def __repr__(self) -> str:
        parts = ", ".join(f"{b.name} {b.mean:.3g} ± {b.deviation:.2g}" for b in self.all)
        return f"Baselines({feature_names(self.feature)[0]}: {parts})"

    def _repr_html_(self) -> str:
        return fragment(Html(f"<p>{escape(self._title)}</p>{html_table(*self._rows())}{python_details(self.code)}"))


def _as_prompts(prompts: Any) -> Iterable[Any]:
    """Return the prompts of a frontier or a list; a text or an array is none."""
    return [None] if isinstance(prompts, (str, bytes, np.ndarray)) else prompts


def distinct_share(ids: Sequence[int], n: int = 2) -> float:
    """Return the share of different n-grams among a prompt's n-grams: 1 if none repeats, NaN if there are none.

    >>> distinct_share([1, 2, 1, 2, 3])
    0.75
    """
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan


def longest_repeat(ids: Sequence[int]) -> int:
    """Return the length of the longest sequence of tokens that occurs at two places of a prompt; 0 if none does.

    The two places may overlap.

    >>> longest_repeat([5, 1, 2, 9, 1, 2, 7]), longest_repeat([3, 3, 3]), longest_repeat([1, 2])
    (2, 2, 0)
    """
    best, row = 0, [0] * (len(ids) + 1)  # row[j]: length of the common end of two prefixes
    for i in range(1, len(ids)):
        following = [0] * (len(ids) + 1)
        for j in range(i + 1, len(ids) + 1):
            if ids[i - 1] == ids[j - 1]:
                following[j] = row[j - 1] + 1
                best = max(best, following[j])
        row = following
    return best

"""Attribution of a feature to the tokens of a prompt: Figure 1 of the paper as data, text and HTML."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens import _host, _upcalls
from dreamy_lens._files import check_page, write_text
from dreamy_lens.errors import RunFolderError
from dreamy_lens.features.parser import feature_names
from dreamy_lens.html.escaping import with_tooltip
from dreamy_lens.html.numbers import decimals, number
from dreamy_lens.html.page import document, fragment, python_details
from dreamy_lens.results.export import save_as
from dreamy_lens.results.prompt_table import text_table
from dreamy_lens.results.storage import read_json
from dreamy_lens.results.strips import attribution_with_scores

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "dreamy_lens attribution"


@dataclass(frozen=True)
class Substitute:
    """Another token at one position of a prompt.

    Attributes:
        token_id: Token id of the substitute.
        token: Substitute, decoded by itself.
        value: Value of the feature on the changed prompt.
        change: `value` minus the value of the original prompt; negative if the substitute weakens the feature.
        cross_entropy: Cross-entropy of the changed prompt in nats per token.
    """

    token_id: int
    token: str
    value: float
    change: float
    cross_entropy: float


@dataclass(frozen=True, eq=False, repr=False)
class Attribution:
    """Effects of k substitutions at each position of a prompt on a feature (Figure 1 of the paper).

    A token matters if the value drops without it. `drop_to_worst` is the drop with the worst substitute, `drop_to_best`
    the drop with the best one. Both are differences, not ratios, so they are meaningful even if the value of the prompt
    is near or below zero. Candidates that are the prompt's own token, and candidates whose value is not finite, are
    ignored.

    Attributes:
        ids: Token ids of the prompt, int64 `[n]`.
        tokens: Tokens of the prompt, each decoded by itself, length n.
        value: Value of the feature on the prompt.
        cross_entropy: Cross-entropy of the prompt in nats per token.
        candidates: Token ids of the substitutes tried at each position, int64 `[n, k]`.
        values: Value of the prompt with that one token changed, float32 `[n, k]`.
        cross_entropies: Cross-entropy of the prompt with that one token changed, nats per token, float32 `[n, k]`.
        candidate_tokens: Substitutes, each decoded by itself, n tuples of k.
        feature: Text form of the feature; empty if unknown.
        model: Name or folder of the model; empty if unknown.
        prepend_bos: Whether a BOS token stood before the prompt; None if unknown.
        prefix: Token ids of a template before the prompt.
        suffix: Token ids of a template after the prompt.
        contexts: Short text about several contexts in which prompts were scored, of which `prefix` and `suffix` are the
            first; "" for one.
        code: Program that makes the result again, as Python; "" if it is unknown.

    >>> attribution = Attribution(
    ...     ids=np.array([5, 9]), tokens=(" the", " file"), value=3.0, cross_entropy=2.0,
    ...     candidates=np.array([[6, 7], [8, 1]]), values=np.array([[2.5, 1.0], [3.5, 2.0]], dtype=np.float32),
    ...     cross_entropies=np.array([[2.0, 4.0], [3.0, 5.0]], dtype=np.float32),
    ...     candidate_tokens=((" a", " an"), (" name", "!")),
    ... )
    >>> attribution.drop_to_worst
    array([2., 1.])
    >>> attribution.drop_to_best  # negative: a substitute at the second position is better than the prompt's own token
    array([ 0.5, -0.5])
    >>> attribution.top(1)[0].token
    ' name'
    """

    ids: np.ndarray
    tokens: tuple[str, ...]
    value: float
    cross_entropy: float
    candidates: np.ndarray
    values: np.ndarray
    cross_entropies: np.ndarray
    candidate_tokens: tuple[tuple[str, ...], ...]
    feature: str = ""
    model: str = ""
    prepend_bos: bool | None = None
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    contexts: str = ""
    code: str = ""

    def __post_init__(self) -> None:
        n, shape = len(self.tokens), np.shape(self.candidates)
        shapes = {name: np.shape(getattr(self, name)) for name in ("ids", "candidates", "values", "cross_entropies")}
        fits = len(shape) == 2 and shape[0] == n and shapes["ids"] == (n,)
        fits = fits and shapes["values"] == shapes["cross_entropies"] == shape
        fits = fits and [len(row) for row in self.candidate_tokens] == [shape[1]] * n
        if not fits:
            raise ValueError(f"The arrays of an attribution of {n} tokens do not fit together: {shapes}.")

    @property
    def drop_to_worst(self) -> np.ndarray:
        """Value lost with the worst substitute, float64 `[n]`; NaN where no substitute counts."""
        return self.value - np.fmin.reduce(self._counted(), axis=1, initial=np.nan)

    @property
    def drop_to_best(self) -> np.ndarray:
        """Value lost with the best substitute, float64 `[n]`; negative if it is better, NaN if no substitute counts."""
        return self.value - np.fmax.reduce(self._counted(), axis=1, initial=np.nan)

    def top(self, position: int, count: int = 3) -> list[Substitute]:
        """Return the best `count` substitutes at a position, best first."""
        return self._substitutes(position)[:count]

    def worst(self, position: int, count: int = 3) -> list[Substitute]:
        """Return the worst `count` substitutes at a position, worst first."""
        return self._substitutes(position)[::-1][:count]

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row per substitution.

        The columns are position, token, substitute, substitute_id, value, change and cross_entropy. The rows are sorted
        by position, and at each position from the best substitute to the worst.
        """
        import pandas as pd

        rows = [
            (i, token, s.token, s.token_id, s.value, s.change, s.cross_entropy)
            for i, token in enumerate(self.tokens)
            for s in self._substitutes(i)
        ]
        names = ["position", "token", "substitute", "substitute_id", "value", "change", "cross_entropy"]
        return pd.DataFrame.from_records(rows, columns=names)

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return a self-contained HTML page with the token strip.

        Args:
            path: File to which the page is also written; None writes no file.
        """
        if path is not None:
            check_page(path, "attribution.save(path) writes pictures, tables and JSON.")
        short, long = feature_names(self.feature)
        heading = f"Attribution of {with_tooltip(short, long)}" if short else "Attribution"
        title = f"Attribution of {short}" if short else "Attribution"
        page = document(title, f"<h1>{heading}</h1>{attribution_with_scores(self)}{python_details(self.code)}")
        if path is not None:
            write_text(path, page)
        return page

    def plot(self, **settings: Any) -> go.Figure:
        """Draw a plotly heat map of all substitutions.

        Args:
            **settings: Settings of `figures.attribution_figure`, such as `dark`.
        """
        from dreamy_lens.figures.attribution import attribution_figure

        return attribution_figure(self, **settings)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the attribution to a file, and return its path.

        Args:
            path: File to write. Its ending decides the format: `.html` is the page, `.csv` the table, and `.svg`,
                `.pdf` and `.png` are the tokens with their substitutes (:func:`dreamy_lens.figures.strip`). `.json`, or
                no known ending, is the JSON that :meth:`load` reads.

        Raises:
            FileWriteError: The file cannot be written, or its ending stands for another format.
        """
        from dreamy_lens.figures import strip

        def content() -> dict[str, Any]:
            arrays = {name: getattr(self, name).tolist() for name in _ARRAYS}
            names = ("feature", "tokens", "value", "cross_entropy", "candidate_tokens")
            plain = {name: getattr(self, name) for name in names}
            known = {name: getattr(self, name) for name in ("model", "prepend_bos", "prefix", "suffix") if self.model}
            known |= {name: getattr(self, name) for name in ("contexts", "code") if getattr(self, name)}
            return {"format": FORMAT, "version": 1, **plain, **known, **arrays}

        return save_as(path, content, self.to_pandas, lambda: strip(self), self.to_html, drawn=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Attribution:
        """Read an attribution that :meth:`save` wrote.

        Raises:
            RunFolderError: The file is missing or damaged, or is not an attribution.
        """
        data = read_json(path, FORMAT)
        try:
            arrays = {name: np.array(data[name], dtype=dtype) for name, dtype in _ARRAYS.items()}
            pieces = tuple(tuple(row) for row in data["candidate_tokens"])
            return cls(
                tokens=tuple(data["tokens"]),
                value=float(data["value"]),
                cross_entropy=float(data["cross_entropy"]),
                candidate_tokens=pieces,
                feature=str(data["feature"]),
                model=str(data.get("model", "")),
                prepend_bos=data.get("prepend_bos"),
                prefix=tuple(data.get("prefix", ())),
                suffix=tuple(data.get("suffix", ())),
                contexts=str(data.get("contexts", "")),
                code=str(data.get("code", "")),
                **arrays,
            )
        except (KeyError, TypeError, ValueError) as error:
            reason = f"the entry {error} is missing" if isinstance(error, KeyError) else error
            raise RunFolderError(
                f"The file {os.fspath(path)!r} is not a complete attribution: {reason}. Save it again."
            ) from None

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        n, k = self.candidates.shape
        return f"Attribution({''.join(self.tokens)!r}, value {self.value:.4g}, {k} substitutes at {n} positions)"

    def __str__(self) -> str:
        places = decimals([self.value, *self.drop_to_worst])
        best, worst = self.drop_to_best, self.drop_to_worst
        rows = []
        for i, token in enumerate(self.tokens):
            ends = [next((repr(s.token) for s in ranked), "-") for ranked in (self.top(i, 1), self.worst(i, 1))]
            rows.append([str(i), repr(token), number(worst[i], places), number(best[i], places), *ends])
        columns = ("position", "token", "drop to worst", "drop to best", "best substitute", "worst substitute")
        return text_table(columns, rows)

    def _ipython_display_(self) -> None:
        if _host.in_kernel():
            _upcalls.show_attribution(self)
        else:
            print(repr(self))

    def _repr_html_(self) -> str:
        return fragment(attribution_with_scores(self) + python_details(self.code))

    def _counted(self) -> np.ndarray:
        """Return the values `[n, k]`, with NaN for candidates that are ignored."""
        own = np.asarray(self.candidates) == np.asarray(self.ids)[:, None]
        values = np.asarray(self.values, dtype=np.float64)
        return np.where(own | ~np.isfinite(values), np.nan, values)

    def _substitutes(self, position: int) -> list[Substitute]:
        """Return all substitutes at a position that count, best first."""
        values, tokens = self._counted()[position], self.candidate_tokens[position]
        order: Sequence[int] = np.argsort(-values, kind="stable")[: np.count_nonzero(~np.isnan(values))].tolist()
        ids, costs = self.candidates[position], self.cross_entropies[position]
        return [
            Substitute(int(ids[j]), tokens[j], float(values[j]), float(values[j] - self.value), float(costs[j]))
            for j in order
        ]


_ARRAYS = {"ids": np.int64, "candidates": np.int64, "values": np.float32, "cross_entropies": np.float32}

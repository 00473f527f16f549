"""Frontier of a dream: the prompts that no evaluated prompt beats in both value and cross-entropy."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from dreamy_lens.errors import RunFolderError, SettingsError, quoted
from dreamy_lens.figures.frontier import frontier_figure
from dreamy_lens.html.escaping import Html
from dreamy_lens.html.page import fragment, html_table, warning
from dreamy_lens.results.export import save_as
from dreamy_lens.results.notes import note_on_values
from dreamy_lens.results.prompt import Decoder, Prompt, PromptTools, Provenance
from dreamy_lens.results.prompt_table import PROMPT_COLUMNS, prompt_rows, prompt_table, prompt_text, text_table
from dreamy_lens.results.storage import read_json
from dreamy_lens.search.pareto import hull_rows, hypervolume, non_dominated

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dreamy_lens.results.baselines import Baselines
    from dreamy_lens.results.history import History

FORMAT = "dreamy_lens frontier"

FLUENT = 5.0
"""Highest cross-entropy, in nats per token, of the prompt that panels and pages show first."""


@dataclass(frozen=True, repr=False)
class Frontier(Sequence[Prompt]):
    """Prompts from fluent to strong, of which none beats another in both value and cross-entropy.

    A frontier keeps the non-dominated prompts among those that it is given, and sorts them. Along it, cross-entropy and
    value both rise strictly. It is a sequence: `frontier[0]` is the most fluent prompt, `frontier[-1]` the strongest.

    Args:
        prompts: Prompts in any order, including dominated ones.
        evaluated: Number of prompts that were scored to find these; None if it is unknown, as for a slice.
        baselines: Baselines by which tables calibrate the prompts' values; None for tables without z-scores.

    Attributes:
        prompts: Non-dominated prompts, from fluent to strong.
        evaluated: Number of prompts that were scored to find these; None if it is unknown.
        baselines: Baselines by which tables calibrate the prompts' values; None for tables without z-scores.

    >>> origin = Provenance("L2.N17", "docstrings", seed=0, iteration=7, prepend_bos=True)
    >>> make = lambda text, value, ce: Prompt((1,), (text,), text, value, ce, True, origin)
    >>> frontier = Frontier([make("strong", 9.0, 6.0), make("fluent", 1.0, 2.0), make("beaten", 0.5, 3.0)])
    >>> print(frontier)
    value  cross-entropy  perplexity  text
    1.000           2.00         7.4  fluent
    9.000           6.00         403  strong
    >>> frontier.best(max_cross_entropy=5).text
    'fluent'
    """

    prompts: tuple[Prompt, ...]
    evaluated: int | None = field(default=None, compare=False)
    baselines: Baselines | None = field(default=None, compare=False)

    def __init__(
        self, prompts: Iterable[Prompt], evaluated: int | None = None, baselines: Baselines | None = None
    ) -> None:
        candidates = list(prompts)
        rows = non_dominated([p.value for p in candidates], [p.cross_entropy for p in candidates])
        object.__setattr__(self, "prompts", tuple(candidates[i] for i in rows))
        object.__setattr__(self, "evaluated", evaluated)
        object.__setattr__(self, "baselines", baselines)

    @classmethod
    def from_history(
        cls,
        history: History,
        decoder: Decoder,
        provenance: Provenance,
        tools: PromptTools | None = None,
        rows: Sequence[int] | np.ndarray | None = None,
    ) -> Frontier:
        """Return the frontier of all prompts that a run evaluated.

        Args:
            history: History of the run.
            decoder: Decoder from token ids to text.
            provenance: Provenance of the run; each prompt gets a copy with its own iteration.
            tools: Run whose model the prompts use; None loads the model of their provenance.
            rows: Rows of the history that make the frontier, if they are already known; None computes them.
        """
        rows = history.frontier_rows() if rows is None else rows
        prompts = (history.prompt(int(row), decoder, provenance, tools) for row in rows)
        return cls(prompts, evaluated=len(history))

    @property
    def values(self) -> np.ndarray:
        """Value of each prompt, rising, float64 `[F]`."""
        return np.array([p.value for p in self.prompts])

    @property
    def cross_entropies(self) -> np.ndarray:
        """Cross-entropy of each prompt in nats per token, rising, float64 `[F]`."""
        return np.array([p.cross_entropy for p in self.prompts])

    def best(self, max_cross_entropy: float | None = None, max_perplexity: float | None = None) -> Prompt:
        """Return the strongest prompt, or the strongest one within a limit of fluency.

        Args:
            max_cross_entropy: Highest cross-entropy allowed, in nats per token; None is no limit.
            max_perplexity: Highest perplexity allowed; None is no limit. With two limits, both apply.

        Raises:
            SettingsError: No prompt is that fluent (the message says how fluent they are), the frontier has no prompts,
                or a limit is not a number.
        """
        limit = (
            np.inf if max_cross_entropy is None else _limit("max_cross_entropy", max_cross_entropy, "nats per token")
        )
        wanted = f"a cross-entropy of at most {limit:g} nats/token"
        if max_perplexity is not None:
            perplexity = _limit("max_perplexity", max_perplexity, "a perplexity, at least 1")
            if perplexity < 1:
                raise SettingsError(
                    f"A perplexity is at least 1; got max_perplexity={max_perplexity}. Give a larger one, or None."
                )
            if np.log(perplexity) < limit:
                limit, wanted = float(np.log(perplexity)), f"a perplexity of at most {perplexity:g}"
        fluent = [p for p in self.prompts if p.cross_entropy <= limit]
        if fluent:
            return fluent[-1]
        if not self.prompts:
            raise SettingsError("The frontier has no prompts, because no evaluated prompt had finite scores.")
        most_fluent = self.prompts[0]
        raise SettingsError(
            f"No prompt of this frontier has {wanted}. The most fluent one has cross-entropy "
            f"{most_fluent.cross_entropy:.3f} (perplexity {most_fluent.perplexity:,.1f}): allow more, or dream longer."
        )

    def representative(self) -> Prompt | None:
        """Return the prompt that panels and pages show first; None for an empty frontier.

        It is the strongest prompt with a cross-entropy of at most 5 nats per token, or the one in the middle of the
        frontier if none is that fluent.
        """
        fluent = [p for p in self.prompts if p.cross_entropy <= FLUENT]
        if fluent:
            return fluent[-1]
        return self.prompts[len(self.prompts) // 2] if self.prompts else None

    @property
    def note(self) -> str:
        """Sentence which says that no scored prompt turns the feature on; "" if one does, or if that is not known."""
        if not self.prompts or not self.evaluated:
            return ""
        origin = self.prompts[-1].provenance
        return note_on_values(origin.feature, self.prompts[-1].value, self.evaluated, bool(origin.suffix))

    def calibrated(self, baselines: Baselines | None) -> Frontier:
        """Return the same prompts with baselines: tables then have z-scores, held-out cross-entropy and repetition.

        Args:
            baselines: Baselines of the prompts' feature; None takes those away that the frontier has.
        """
        return Frontier(self.prompts, self.evaluated, baselines)

    def hull(self) -> Frontier:
        """Return the corners of the convex hull: the prompts that are best for some λ, as in the paper's figures."""
        return self._some(hull_rows(self.values, self.cross_entropies))

    def spread(self, count: int) -> Frontier:
        """Return at most `count` prompts that represent the whole frontier.

        The strongest and the most fluent prompt come first. Each further prompt is the one furthest from those already
        selected, where distances are relative to the ranges of value and cross-entropy.
        """
        if len(self) <= count:
            return self
        scores = self.values, self.cross_entropies
        points = np.stack([(a - a[0]) / (a[-1] - a[0]) for a in scores], axis=1)
        selected = [len(self) - 1, 0][:count]
        while 0 < len(selected) < count:
            gaps = np.linalg.norm(points[:, None] - points[selected], axis=2).min(axis=1)
            selected.append(int(gaps.argmax()))
        return self._some(sorted(selected))

    def hypervolume(self, reference: tuple[float, float]) -> float:
        """Return the area between the frontier and a reference (value, cross-entropy).

        Two hypervolumes are comparable only if their references are equal.
        """
        return hypervolume(self.values, self.cross_entropies, reference)

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row per prompt.

        The columns are value, cross_entropy, perplexity, text, round_trips, iteration, seed, ids and tokens. With
        baselines, z_random, z_corpus, held_out_cross_entropy, distinct and longest_repeat follow; see
        :meth:`Baselines.of`, which computes held-out cross-entropies that are NaN here.
        """
        import pandas as pd

        plain = ("value", "cross_entropy", "perplexity", "text", "round_trips")
        columns: dict[str, list[Any]] = {name: [getattr(p, name) for p in self.prompts] for name in plain}
        columns |= {name: [getattr(p.provenance, name) for p in self.prompts] for name in ("iteration", "seed")}
        columns |= {name: [getattr(p, name) for p in self.prompts] for name in ("ids", "tokens")}
        frame = pd.DataFrame(columns)
        if self.baselines is None:
            return frame
        more = self.baselines.of(self.prompts, compute=False)
        return frame.join(more[[name for name in more.columns if name not in frame.columns]])

    def plot(self, *, hull: bool = False, **settings: Any) -> go.Figure:
        """Draw the frontier as a plotly figure.

        Args:
            hull: Whether to join the corners of the convex hull, as the paper's figures do.
            **settings: Settings of `figures.frontier_figure`: `others`, `dark`, `history`.
        """
        return frontier_figure(self, hull=self.hull() if hull else None, **settings)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the prompts to a file, replace an older file in a single step, and return the path.

        Args:
            path: File to write. Its ending decides the format: `.csv` is the table, `.svg`, `.pdf`, `.png` and `.html`
                are the figure. `.json`, or no known ending, is the JSON that :meth:`load` reads.

        Raises:
            FileWriteError: The file cannot be written, or its ending stands for another format.
        """

        def content() -> dict[str, Any]:
            return {"format": FORMAT, "version": 1, "prompts": [p.to_dict() for p in self.prompts]}

        return save_as(path, content, self.to_pandas, self.plot)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Frontier:
        """Read a frontier that :meth:`save` wrote.

        Raises:
            RunFolderError: The file is missing or damaged, or is not a frontier.
        """
        try:
            return cls(Prompt.from_dict(p) for p in read_json(path, FORMAT)["prompts"])
        except (KeyError, TypeError) as error:
            reason = f"the entry {error} is missing" if isinstance(error, KeyError) else error
            raise RunFolderError(
                f"The file {os.fspath(path)!r} is not a complete frontier: {reason}. Save it again."
            ) from None

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> Frontier: ...
    def __getitem__(self, index: int | slice) -> Prompt | Frontier:
        if not isinstance(index, slice):
            return self.prompts[index]
        return self._some(range(*index.indices(len(self.prompts))))

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    def __repr__(self) -> str:
        if not self.prompts:
            return "Frontier(no prompts)"
        low, high, n = self.prompts[0], self.prompts[-1], len(self.prompts)
        span = f"cross-entropy {low.cross_entropy:.2f} to {high.cross_entropy:.2f}"
        # Adding zero turns the -0.0 of a latent or neuron that is off into 0.0.
        values = f"value {low.value + 0.0:.4g} to {high.value + 0.0:.4g}"
        return f"Frontier({n} prompt{'s' * (n != 1)}, {values}, {span})"

    def __str__(self) -> str:
        table = text_table(*self.table())
        return f"{table}\n{self.note}" if self.note else table

    def _repr_html_(self) -> str:
        return fragment(f"{warning(self.note)}{self.html_table()}")

    def table(self) -> tuple[tuple[str, ...], list[list[str]]]:
        """Return the names of the columns that are shown, and the cells of each prompt."""
        rows = prompt_rows(self.prompts)
        names, cells = ((), [()] * len(rows)) if self.baselines is None else self.baselines.cells(self.prompts)
        columns = (*PROMPT_COLUMNS[:-1], *names, PROMPT_COLUMNS[-1])
        return columns, [[*row[:-1], *more, row[-1]] for row, more in zip(rows, cells, strict=True)]

    def html_table(self) -> Html:
        """Return the table of the prompts as HTML."""
        if self.baselines is None or not self.prompts:
            return prompt_table(self.prompts)
        columns, rows = self.table()
        cells = [[*row[:-1], prompt_text(p.text)] for row, p in zip(rows, self.prompts, strict=True)]
        return html_table(columns, cells)

    def _some(self, rows: Iterable[int]) -> Frontier:
        """Return the frontier of some of the prompts."""
        return Frontier((self.prompts[i] for i in rows), baselines=self.baselines)


def _limit(name: str, limit: Any, unit: str) -> float:
    """Return a limit as a number, or raise an error that names the argument and its unit."""
    try:
        number = float(limit)
    except (TypeError, ValueError):
        number = np.nan
    if np.isnan(number):
        raise SettingsError(
            f"{name} is {quoted(limit)}, which is not a number; give it in {unit}, or None for no limit."
        )
    return number

"""History of a run: every evaluated prompt, in order of evaluation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.errors import RunFolderError
from dreamy_lens.figures.evolution import frontiers_figure
from dreamy_lens.html.escaping import escape
from dreamy_lens.html.page import fragment
from dreamy_lens.results.prompt import Decoder, Prompt, PromptTools, Provenance
from dreamy_lens.search.lengths import EMPTY, without_empty
from dreamy_lens.search.pareto import Staircase, non_dominated

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dreamy_lens.search.steps import Step


@dataclass(frozen=True, eq=False, repr=False)
class History:
    """Every prompt that a run evaluated, once each, and the population after each iteration.

    Attributes:
        ids: Token ids of the prompts in order of evaluation, int32 `[N, n]`. Where prompts have several lengths,
            shorter ones have -1 before their first token.
        value: Value of each prompt, float32 `[N]`.
        cross_entropy: Cross-entropy of each prompt in nats per token, float32 `[N]`.
        iteration: Iteration in which each prompt was first evaluated, never falling, int32 `[N]`.
        seconds: Seconds from the start of the run to the end of each iteration, float64 `[T+1]`. Iteration 0 is the
            initial population.
        token_layers: Work from the start of the run to the end of each iteration, float64 `[T+1]`: tokens times layers,
            shared tokens counted once, and a gradient three times. NaN in runs of earlier versions.
        population: Rows of `ids` that are the population after each iteration, in slot order, int32 `[T+1, M]`; -1 for
            a prompt whose scores were not finite.
        lambdas: λ, the weight of cross-entropy, of each slot, float32 `[M]`.
        restarts: Iteration and λ of each restart.
        rejected: Number of draws that constraints rejected.
        non_finite: Number of prompts that were dropped because a score was NaN or infinite.
    """

    ids: np.ndarray
    value: np.ndarray
    cross_entropy: np.ndarray
    iteration: np.ndarray
    seconds: np.ndarray
    token_layers: np.ndarray
    population: np.ndarray
    lambdas: np.ndarray
    restarts: tuple[tuple[int, float], ...] = ()
    rejected: int = 0
    non_finite: int = 0

    def __len__(self) -> int:
        return len(self.value)

    @property
    def iterations(self) -> int:
        """Number of completed iterations, T; 0 after the initial population, -1 before it is scored."""
        return len(self.seconds) - 1

    @property
    def seconds_of_prompt(self) -> np.ndarray:
        """Seconds at which the scores of each prompt were known, the end of its iteration, float64 `[N]`."""
        return self.seconds[self.iteration]

    def ids_of(self, row: int) -> list[int]:
        """Return the token ids of one prompt, without the places that a shorter prompt leaves empty."""
        return without_empty(self.ids[row]).tolist()

    def all_ids(self) -> list[list[int]]:
        """Return the token ids of every prompt, without empty places."""
        if not len(self) or self.ids[:, 0].min() != EMPTY:
            return self.ids.tolist()
        return [self.ids_of(row) for row in range(len(self))]

    def frontier_rows(self, iteration: int | None = None) -> np.ndarray:
        """Return the rows that make the frontier, from fluent to strong, `[F]`.

        Args:
            iteration: Iteration after which the frontier is taken; None is the end of the run.
        """
        n = len(self) if iteration is None else int(np.searchsorted(self.iteration, iteration, side="right"))
        return non_dominated(self.value[:n], self.cross_entropy[:n])

    def reference(self) -> tuple[float, float]:
        """Return the default reference of hypervolumes: the lowest value and the highest cross-entropy evaluated."""
        return (float(self.value.min()), float(self.cross_entropy.max())) if len(self) else (0.0, 0.0)

    def evolution(self, reference: tuple[float, float] | None = None) -> pd.DataFrame:
        """Return a table of the frontier's growth, with one row per iteration, iteration 0 first.

        Args:
            reference: (value, cross-entropy) from which the hypervolume is measured. To compare runs, give all of them
                an equal reference. None is the history's own :meth:`reference`.

        Returns:
            Table with the columns iteration, seconds, token_layers, evaluated (prompts so far), best_value (so far),
            hypervolume, frontier_size and restart (λ, or NaN). Any of the second to the fourth is a measure of cost for
            the anytime curve, the hypervolume against the cost.
        """
        import pandas as pd

        reference = self.reference() if reference is None else reference
        stairs, ends = Staircase(), np.searchsorted(self.iteration, np.arange(len(self.seconds)), side="right").tolist()
        value, cross_entropy = self.value.tolist(), self.cross_entropy.tolist()
        best, area, rows, begin = np.nan, 0.0, [], 0
        for end in ends:
            grown = [stairs.add(row, value[row], cross_entropy[row]) for row in range(begin, end)]
            if any(grown):
                area, best = stairs.hypervolume(reference), stairs.value[-1]
            rows.append((end, best, area, len(stairs.rows)))
            begin = end
        columns = ["evaluated", "best_value", "hypervolume", "frontier_size"]
        frame = pd.DataFrame.from_records(rows, columns=columns)
        frame.insert(0, "iteration", np.arange(len(self.seconds)))
        frame.insert(1, "seconds", self.seconds)
        frame.insert(2, "token_layers", self.token_layers)
        restarts = dict(self.restarts)
        frame["restart"] = [restarts.get(i, np.nan) for i in range(len(frame))]
        return frame

    def plot(self, **settings: Any) -> go.Figure:
        """Draw the frontier after several iterations, as in Figure 2b of the paper.

        Args:
            **settings: Settings of `figures.frontiers_figure`: `iterations`, `dark`, `decoder`.
        """
        return frontiers_figure(self, **settings)

    def prompt(
        self,
        row: int,
        decoder: Decoder,
        provenance: Provenance,
        tools: PromptTools | None = None,
    ) -> Prompt:
        """Return one evaluated prompt, decoded.

        Args:
            row: Row of the prompt in the history.
            decoder: Decoder from token ids to text.
            provenance: Provenance of the run; the prompt gets a copy with its own iteration.
            tools: Run whose model the prompts use; None loads the model of their provenance.
        """
        origin = provenance.at(int(self.iteration[row]))
        scores = float(self.value[row]), float(self.cross_entropy[row])
        return Prompt.decode(self.ids_of(row), *scores, decoder, origin, tools)

    def to_pandas(self, decoder: Decoder | None = None) -> pd.DataFrame:
        """Return a table with one row per prompt.

        The columns are iteration, seconds, value, cross_entropy, perplexity, frontier (whether the prompt is on it) and
        ids.

        Args:
            decoder: Decoder that adds a column text, which takes some seconds for a long run.
        """
        import pandas as pd

        names = ("iteration", "value", "cross_entropy")
        frame = pd.DataFrame({name: getattr(self, name) for name in names})
        frame.insert(1, "seconds", self.seconds_of_prompt)
        frame["perplexity"] = np.exp(self.cross_entropy.astype(np.float64))
        frame["frontier"] = np.isin(np.arange(len(self)), self.frontier_rows())
        frame["ids"] = [tuple(ids) for ids in self.all_ids()]
        if decoder is not None:
            frame["text"] = [decoder.text(ids) for ids in frame["ids"]]
        return frame

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the whole history as named arrays, which :meth:`from_arrays` reads."""
        fields = (f.name for f in dataclasses.fields(self))
        plain = {name: getattr(self, name) for name in fields if name not in ("restarts", "rejected", "non_finite")}
        restarts = np.array(self.restarts, dtype=np.float64).reshape(-1, 2)
        return {**plain, "restarts": restarts, "counts": np.array([self.rejected, self.non_finite], dtype=np.int64)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> History:
        """Return the history that :meth:`arrays` wrote as arrays. Arrays with other names are ignored.

        Raises:
            RunFolderError: An array is missing or does not fit the others.
        """
        if "seconds" in arrays and "token_layers" not in arrays:  # a run of an earlier version
            arrays = arrays | {"token_layers": np.full(len(arrays["seconds"]), np.nan)}
        names = {f.name for f in dataclasses.fields(cls)} - {"rejected", "non_finite"} | {"counts"}
        if missing := sorted(names - set(arrays)):
            raise RunFolderError(f"The run's history lacks {', '.join(missing)}; it was not written by dreamy_lens.")
        columns = {name: arrays[name] for name in names}
        restarts, counts = columns.pop("restarts"), columns.pop("counts")
        _check(columns, restarts, counts)
        pairs = tuple((int(i), float(w)) for i, w in restarts)
        return cls(**columns, restarts=pairs, rejected=int(counts[0]), non_finite=int(counts[1]))

    def __repr__(self) -> str:
        if not len(self):
            return "History(no prompts yet)"
        best, t, n = float(self.value.max()), self.iterations, len(self.restarts)
        parts = [f"{len(self):,} prompts", f"{t} iteration{'s' * (t != 1)}", f"best value {best:.4g}"]
        parts += [f"{n} restart{'s' * (n != 1)}"] if n else []
        parts += [f"{self.non_finite:,} not finite"] if self.non_finite else []
        return f"History({', '.join(parts)}, {self.seconds[-1]:.1f} s)"

    def _repr_html_(self) -> str:
        return fragment(f"<p>{escape(repr(self))}</p>")


def _check(columns: dict[str, np.ndarray], restarts: np.ndarray, counts: np.ndarray) -> None:
    """Raise an error unless shapes and row numbers fit together, so that no later indexing can fail."""
    n, steps, population = len(columns["ids"]), len(columns["seconds"]), columns["population"]
    shapes = {name: list(a.shape) for name, a in columns.items()}
    dimensions = dict.fromkeys(columns, 1) | {"ids": 2, "population": 2}
    fits = all(columns[name].ndim == d for name, d in dimensions.items())
    fits = fits and all(len(columns[name]) == n for name in ("value", "cross_entropy", "iteration"))
    fits = fits and len(columns["token_layers"]) == steps
    fits = fits and population.shape == (steps, len(columns["lambdas"])) and restarts.shape[1:] == (2,)
    kinds = {"ids": "iu", "iteration": "iu", "population": "iu"}
    fits = fits and all(array.dtype.kind in kinds.get(name, "fiu") for name, array in columns.items())
    fits = fits and counts.dtype.kind in "iu" and restarts.dtype.kind in "fiu"
    numbers = (*(columns[name] for name in ("value", "cross_entropy", "seconds", "lambdas")), restarts)
    if fits and not all(np.isfinite(array).all() for array in numbers):
        raise RunFolderError("The run's history has NaN or infinite numbers, which no run writes. Save the run again.")
    fits = fits and counts.shape == (2,) and bool(np.all((population >= -1) & (population < n)))
    order = columns["iteration"]
    fits = fits and bool(np.all(np.diff(order) >= 0)) and (n == 0 or (order[0] >= 0 and int(order[-1]) < steps))
    if not fits:
        raise RunFolderError(f"The arrays of the run's history do not fit together: {shapes}. Save the run again.")


class HistoryBuilder:
    """Builder that collects the steps of a run into a :class:`History`. :meth:`build` is cheap at any time.

    Args:
        lambdas: λ, the weight of cross-entropy, of each slot, `[M]`.
    """

    def __init__(self, lambdas: np.ndarray) -> None:
        self.lambdas = _frozen(np.array(lambdas, dtype=np.float32))
        self._ids: _Growing | None = None
        self._columns = {name: _Growing((), dtype) for name, dtype in _COLUMNS.items()}
        self._seconds, self._token_layers = _Growing((), np.float64), _Growing((), np.float64)
        self._population = _Growing((len(self.lambdas),), np.int32)
        self._row_of: dict[bytes, int] = {}
        self._restarts: list[tuple[int, float]] = []
        self._rejected = self._non_finite = 0
        self._stairs = Staircase()

    @classmethod
    def from_history(cls, history: History) -> HistoryBuilder:
        """Return a builder that continues after the last step of a history."""
        builder = cls(history.lambdas)
        builder._append(history.ids, history.value, history.cross_entropy, history.iteration)
        builder._seconds.extend(history.seconds)
        builder._token_layers.extend(history.token_layers)
        builder._population.extend(history.population)
        builder._restarts = list(history.restarts)
        builder._rejected, builder._non_finite = history.rejected, history.non_finite
        return builder

    def add(self, step: Step) -> None:
        """Append one step. Steps are in order, from step 0 or from the end of the history that is continued.

        Raises:
            ValueError: A step is missing or comes twice.
        """
        if step.iteration != len(self._seconds):
            raise ValueError(f"got step {step.iteration}; the next step of this history is {len(self._seconds)}")
        self._append(step.ids, step.value, step.cross_entropy, np.full(len(step.value), step.iteration, dtype=np.int32))
        population = np.ascontiguousarray(step.population, dtype=np.int32)
        self._population.extend(np.array([[self._row_of.get(ids.tobytes(), -1) for ids in population]], dtype=np.int32))
        self._seconds.extend(np.array([step.seconds]))
        self._token_layers.extend(np.array([step.token_layers]))
        if step.restart is not None:
            self._restarts.append((int(step.iteration), float(step.restart)))
        self._rejected += int(step.rejected)
        self._non_finite += int(step.non_finite)

    @property
    def frontier_rows(self) -> np.ndarray:
        """Rows of the frontier so far, from fluent to strong. They are kept up to date, so no search is needed."""
        return np.array(self._stairs.rows, dtype=np.intp)

    def build(self) -> History:
        """Return the history so far. Its arrays are read-only views that later steps never change."""
        ids = np.zeros((0, 0), dtype=np.int32) if self._ids is None else self._ids.view()
        columns = {name: column.view() for name, column in self._columns.items()}
        steps = {"seconds": self._seconds.view(), "token_layers": self._token_layers.view()}
        steps |= {"population": self._population.view(), "lambdas": self.lambdas}
        restarts = tuple(self._restarts)
        return History(ids, **columns, **steps, restarts=restarts, rejected=self._rejected, non_finite=self._non_finite)

    def _append(self, ids: np.ndarray, value: np.ndarray, cross_entropy: np.ndarray, iteration: np.ndarray) -> None:
        """Append prompts with their scores, and keep the frontier up to date."""
        ids, begin = np.ascontiguousarray(ids, dtype=np.int32), len(self._columns["value"])
        if self._ids is None and ids.ndim == 2 and ids.shape[1]:
            self._ids = _Growing(ids.shape[1:], np.int32)
        if self._ids is not None and len(ids):
            self._ids.extend(ids)
        for name, column in zip(_COLUMNS, (value, cross_entropy, iteration), strict=True):
            self._columns[name].extend(column)
        v, c = self._columns["value"].view()[begin:].tolist(), self._columns["cross_entropy"].view()[begin:].tolist()
        for i in range(len(ids)):
            self._stairs.add(begin + i, v[i], c[i])
        if len(self.lambdas):  # only a population asks for rows
            self._row_of.update(zip((row.tobytes() for row in ids), range(begin, begin + len(ids)), strict=True))


_COLUMNS = {"value": np.float32, "cross_entropy": np.float32, "iteration": np.int32}


class _Growing:
    """Array that grows at its end. Appending never changes earlier views, because it writes only beyond their end."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self._buffer, self._used = np.empty((64, *shape), dtype), 0

    def __len__(self) -> int:
        return self._used

    def extend(self, rows: np.ndarray) -> None:
        """Append rows."""
        end = self._used + len(rows)
        if end > len(self._buffer):
            bigger = np.empty((max(end, 2 * len(self._buffer)), *self._buffer.shape[1:]), self._buffer.dtype)
            bigger[: self._used] = self._buffer[: self._used]
            self._buffer = bigger
        self._buffer[self._used : end] = rows
        self._used = end

    def view(self) -> np.ndarray:
        """Return a read-only view of all rows so far."""
        return _frozen(self._buffer[: self._used])


def _frozen(array: np.ndarray) -> np.ndarray:
    """Make an array read-only and return it."""
    array.flags.writeable = False
    return array

"""What a run has found up to some moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.html.escaping import escape
from dreamy_lens.html.page import fragment
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.results.history import History
from dreamy_lens.results.pareto import hypervolume
from dreamy_lens.results.prompt import Decoder, Prompt, Provenance
from dreamy_lens.results.prompt_table import prompt_table

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dreamy_lens.results.attribution import Attribution


class Snapshot:
    """A snapshot of a run: it stays as it is while the run goes on.

    Attributes:
        history: every prompt evaluated until then, as arrays.
        frontier_rows: rows of the history that make the frontier, from fluent to strong.
    """

    def __init__(
        self,
        history: History,
        frontier_rows: np.ndarray,
        decoder: Decoder,
        provenance: Provenance,
        attribute: Callable[..., Attribution],
    ) -> None:
        self.history, self.frontier_rows = history, frontier_rows
        self._decoder, self._provenance, self._attribute = decoder, provenance, attribute

    @property
    def iteration(self) -> int:
        """Iterations completed."""
        return max(0, self.history.iterations)

    @cached_property
    def frontier(self) -> Frontier:
        """The prompts that no evaluated prompt beats in both value and cross-entropy, fluent to strong."""
        decode = self._decoder, self._provenance, self._attribute
        return Frontier.from_history(self.history, *decode, self.frontier_rows)

    def prompt(self, row: int) -> Prompt:
        """A prompt of the history, by its row."""
        return self.history.prompt(row, self._decoder, self._provenance, self._attribute)

    def text(self, ids: Sequence[int]) -> str:
        """The text that ids stand for."""
        return self._decoder.text(ids)

    @cached_property
    def population(self) -> list[Prompt]:
        """The members of the population, in the order of their slots' λ, ascending."""
        history = self.history
        rows = history.population[-1] if len(history.population) else []
        return [self.prompt(int(row)) for row in rows]

    @cached_property
    def hypervolume(self) -> float:
        """Area under the frontier, from the lowest value and the highest cross-entropy evaluated until then."""
        rows, history = self.frontier_rows, self.history
        return hypervolume(history.value[rows], history.cross_entropy[rows], history.reference())

    def evolution(self, reference: tuple[float, float] | None = None) -> pd.DataFrame:
        """Best value, hypervolume and size of the frontier after each iteration; see :meth:`History.evolution`."""
        return self.history.evolution(reference)

    def to_pandas(self) -> pd.DataFrame:
        """The frontier as a table."""
        return self.frontier.to_pandas()

    def plot(self, **settings: Any) -> go.Figure:
        """The frontier over all evaluated prompts, as a plotly figure."""
        drawn: dict[str, Any] = {"history": self.history, **settings}
        return self.frontier.plot(**drawn)

    def __repr__(self) -> str:
        return f"Snapshot(after {self.iteration} iterations, {self.history!r}, {self.frontier!r})"

    def _repr_html_(self) -> str:
        title = f"After {self.iteration} iterations: {self.history!r}"
        return fragment(f"<p>{escape(title)}</p>{prompt_table(self.frontier.prompts)}")

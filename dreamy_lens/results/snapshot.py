"""Snapshot of a run: its results up to one moment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.html.escaping import escape
from dreamy_lens.html.page import fragment
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.results.history import History
from dreamy_lens.results.prompt import Decoder, Prompt, PromptTools, Provenance
from dreamy_lens.results.prompt_table import prompt_table
from dreamy_lens.search.pareto import hypervolume

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


class Snapshot:
    """Results of a run up to one moment. A snapshot does not change while the run continues.

    Args:
        history: History of the run up to the moment of the snapshot.
        frontier_rows: Rows of the history that make the frontier, from fluent to strong.
        decoder: Decoder from token ids to text.
        provenance: Provenance of the run.
        tools: Run whose model the prompts use.

    Attributes:
        history: History of the run up to the moment of the snapshot.
        frontier_rows: Rows of the history that make the frontier, from fluent to strong.
    """

    def __init__(
        self,
        history: History,
        frontier_rows: np.ndarray,
        decoder: Decoder,
        provenance: Provenance,
        tools: PromptTools,
    ) -> None:
        self.history, self.frontier_rows = history, frontier_rows
        self._decoder, self._provenance, self._tools = decoder, provenance, tools

    @property
    def iteration(self) -> int:
        """Number of completed iterations."""
        return max(0, self.history.iterations)

    @cached_property
    def frontier(self) -> Frontier:
        """Frontier: prompts that no evaluated prompt beats in both value and cross-entropy, from fluent to strong."""
        return Frontier.from_history(self.history, self._decoder, self._provenance, self._tools, self.frontier_rows)

    def prompt(self, row: int) -> Prompt:
        """Return the prompt in one row of the history."""
        return self.history.prompt(row, self._decoder, self._provenance, self._tools)

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        return self._decoder.text(ids)

    @cached_property
    def population(self) -> list[Prompt]:
        """Prompts of the population in slot order, from the smallest λ to the largest."""
        history = self.history
        rows = history.population[-1] if len(history.population) else []
        return [self.prompt(int(row)) for row in rows]

    @cached_property
    def hypervolume(self) -> float:
        """Area under the frontier, measured from the lowest value and the highest cross-entropy evaluated so far."""
        rows, history = self.frontier_rows, self.history
        return hypervolume(history.value[rows], history.cross_entropy[rows], history.reference())

    def evolution(self, reference: tuple[float, float] | None = None) -> pd.DataFrame:
        """Return a table of the frontier's growth, as :meth:`History.evolution` does."""
        return self.history.evolution(reference)

    def to_pandas(self) -> pd.DataFrame:
        """Return the frontier as a table, as :meth:`Frontier.to_pandas` does."""
        return self.frontier.to_pandas()

    def plot(self, **settings: Any) -> go.Figure:
        """Draw the frontier in front of all evaluated prompts.

        Args:
            **settings: Settings of :meth:`Frontier.plot`, such as `hull` and `dark`.
        """
        with_history: dict[str, Any] = {"history": self.history, **settings}
        return self.frontier.plot(**with_history)

    def __repr__(self) -> str:
        return f"Snapshot(after {self.iteration} iterations, {self.history!r}, {self.frontier!r})"

    def _repr_html_(self) -> str:
        title = f"After {self.iteration} iterations: {self.history!r}"
        return fragment(f"<p>{escape(title)}</p>{prompt_table(self.frontier.prompts)}")

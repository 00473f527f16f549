"""Several runs of one feature, seen as one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dreamy_lens.errors import RunFolderError, SettingsError
from dreamy_lens.figures.frontier import runs_figure
from dreamy_lens.html.escaping import escape
from dreamy_lens.html.page import fragment
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.results.history import History
from dreamy_lens.results.prompt import Prompt, Provenance
from dreamy_lens.results.prompt_table import prompt_table
from dreamy_lens.results.storage import read_json, write_json

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "dreamy_lens merged runs"


class MergeableRun(Protocol):
    """What can be merged: a dream, or one that was read back from a file of merged runs."""

    @property
    def provenance(self) -> Provenance:
        """Of the run."""
        ...

    @property
    def frontier(self) -> Frontier:
        """Of the run."""
        ...

    @property
    def history(self) -> History | None:
        """Of the run, if it is at hand."""
        ...


@dataclass(frozen=True)
class SavedRun:
    """A run as a file of merged runs keeps it: without its history."""

    provenance: Provenance
    frontier: Frontier
    history: None = None


@dataclass(frozen=True, eq=False, repr=False)
class Merged:
    """Runs of one feature on one model, and the frontier over all of them.

    Attributes:
        runs: in the order given.
        frontier: the prompts no prompt of any run beats; each one's provenance has the seed of its run.
    """

    runs: tuple[MergeableRun, ...]
    frontier: Frontier

    def to_pandas(self) -> pd.DataFrame:
        """Every run's frontier, one row per prompt: the columns of a frontier's table, and two more.

        They are run, its number here, and merged, whether the prompt is on the joint frontier. The seed is in seed.
        """
        import pandas as pd

        frames = [run.frontier.to_pandas() for run in self.runs]
        kept = {id(prompt) for prompt in self.frontier}
        for number, (run, frame) in enumerate(zip(self.runs, frames, strict=True)):
            frame.insert(0, "run", number)
            frame["merged"] = [id(prompt) in kept for prompt in run.frontier]
        return pd.concat(frames, ignore_index=True)

    def plot(self, **settings: Any) -> go.Figure:
        """Every run's frontier and the joint one, as in Figure 2a; settings as for `figures.frontier.runs_figure`."""
        return runs_figure(self, **settings)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all frontiers as one JSON file; histories stay with the runs' own folders."""
        runs = [{"provenance": r.provenance.to_dict(), "prompts": [p.to_dict() for p in r.frontier]} for r in self.runs]
        return write_json(path, {"format": FORMAT, "version": 1, "runs": runs})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Merged:
        """Read what :meth:`save` wrote.

        Raises:
            RunFolderError: the file is missing, damaged, or something else.
        """
        try:
            runs = [
                SavedRun(Provenance.from_dict(r["provenance"]), Frontier(Prompt.from_dict(p) for p in r["prompts"]))
                for r in read_json(path, FORMAT)["runs"]
            ]
        except (KeyError, TypeError) as error:
            raise RunFolderError(f"The file {os.fspath(path)!r} has no whole merged runs: {error}.") from None
        return merge(runs)

    def __len__(self) -> int:
        return len(self.runs)

    def __repr__(self) -> str:
        n = len(self.runs)
        return f"Merged({n} run{'s' * (n != 1)} of {self.runs[0].provenance.feature}, {self.frontier!r})"

    def __str__(self) -> str:
        return str(self.frontier)

    def _repr_html_(self) -> str:
        return fragment(f"<p>{escape(repr(self))}</p>{prompt_table(self.frontier.prompts)}")


def merge(runs: Iterable[MergeableRun | Merged]) -> Merged:
    """Join runs of one feature on one model, with one way of scoring.

    Seeds, settings and lengths may differ. Merged runs can be merged again.

    Args:
        runs: anything with a frontier, a history and a provenance; reading them waits for runs that still go on.

    Raises:
        SettingsError: there are none, or they differ in feature, model, BOS or template, so that their values do not
            compare; it says which.
    """
    parts: list[MergeableRun] = []
    for run in runs:
        parts.extend(run.runs if isinstance(run, Merged) else [run])
    if not parts:
        raise SettingsError("There are no runs to merge; give at least one.")
    for name in ("feature", "model", "prepend_bos", "prefix", "suffix"):
        found = [getattr(run.provenance, name) for run in parts]
        odd = next((i for i, value in enumerate(found) if value != found[0]), None)
        if odd is not None:
            raise SettingsError(
                f"Runs 0 and {odd} differ in {name}: {found[0]!r} and {found[odd]!r}. "
                "Only runs of the same feature, model, prepend_bos and template compare; merge those."
            )
    return Merged(tuple(parts), Frontier(prompt for run in parts for prompt in run.frontier))

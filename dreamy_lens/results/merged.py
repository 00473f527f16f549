"""Merged runs: several runs of one feature with their joint frontier."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dreamy_lens.errors import RunFolderError, SettingsError
from dreamy_lens.features.parser import feature_names
from dreamy_lens.figures.frontier import runs_figure
from dreamy_lens.html.escaping import escape, with_tooltip
from dreamy_lens.html.page import fragment, warning
from dreamy_lens.results.export import save_as
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.results.history import History
from dreamy_lens.results.prompt import Prompt, Provenance
from dreamy_lens.results.prompt_table import prompt_table
from dreamy_lens.results.storage import read_json

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "dreamy_lens merged runs"


class MergeableRun(Protocol):
    """Run that can be merged: a dream, or a run from a file of merged runs."""

    @property
    def provenance(self) -> Provenance:
        """Provenance of the run."""
        ...

    @property
    def frontier(self) -> Frontier:
        """Frontier of the run."""
        ...

    @property
    def history(self) -> History | None:
        """History of the run; None if only the frontier was saved."""
        ...


@dataclass(frozen=True)
class SavedRun:
    """Run from a file of merged runs, without its history.

    Attributes:
        provenance: Provenance of the run.
        frontier: Frontier of the run.
        history: Always None.
    """

    provenance: Provenance
    frontier: Frontier
    history: None = None


@dataclass(frozen=True, eq=False, repr=False)
class Merged:
    """Runs of one feature on one model, and their joint frontier.

    Attributes:
        runs: Runs in the order in which they were merged.
        frontier: Prompts that no prompt of any run beats; the provenance of each prompt has the seed of its run.
    """

    runs: tuple[MergeableRun, ...]
    frontier: Frontier

    @property
    def feature_names(self) -> tuple[str, str]:
        """Short name of the feature for titles, and a longer one with its hook points for tooltips."""
        return feature_names(self.runs[0].provenance.feature)

    def to_pandas(self) -> pd.DataFrame:
        """Return a table of all runs' frontiers, with one row per prompt.

        It has the columns of :meth:`Frontier.to_pandas`, the column run (index of the run in `runs`) and the column
        merged (whether the prompt is on the joint frontier).
        """
        import pandas as pd

        frames = [run.frontier.to_pandas() for run in self.runs]
        joint = {id(prompt) for prompt in self.frontier}
        for number, (run, frame) in enumerate(zip(self.runs, frames, strict=True)):
            frame.insert(0, "run", number)
            frame["merged"] = [id(prompt) in joint for prompt in run.frontier]
        return pd.concat(frames, ignore_index=True)

    def plot(self, **settings: Any) -> go.Figure:
        """Draw the frontier of each run and the joint frontier, as in Figure 2a of the paper.

        Args:
            **settings: Settings of `figures.runs_figure`, such as `dark`.
        """
        return runs_figure(self, **settings)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all frontiers to a file and return its path. Histories are not part of the file.

        Args:
            path: File to write. Its ending decides the format: `.csv` is the table, `.svg`, `.pdf`, `.png` and `.html`
                are the figure. `.json`, or no known ending, is the JSON that :meth:`load` reads.

        Raises:
            FileWriteError: The file cannot be written, or its ending stands for another format.
        """

        def content() -> dict[str, Any]:
            runs = [(run.provenance.to_dict(), [p.to_dict() for p in run.frontier]) for run in self.runs]
            entries = [{"provenance": provenance, "prompts": prompts} for provenance, prompts in runs]
            return {"format": FORMAT, "version": 1, "runs": entries}

        return save_as(path, content, self.to_pandas, self.plot)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Merged:
        """Read merged runs that :meth:`save` wrote.

        Raises:
            RunFolderError: The file is missing or damaged, or does not have merged runs.
        """
        try:
            runs = [
                SavedRun(Provenance.from_dict(r["provenance"]), Frontier(Prompt.from_dict(p) for p in r["prompts"]))
                for r in read_json(path, FORMAT)["runs"]
            ]
        except (KeyError, TypeError) as error:
            reason = f"the entry {error} is missing" if isinstance(error, KeyError) else error
            raise RunFolderError(
                f"The file {os.fspath(path)!r} is not a complete file of merged runs: {reason}. Save them again."
            ) from None
        return merge(runs)

    def __len__(self) -> int:
        return len(self.runs)

    def __repr__(self) -> str:
        n = len(self.runs)
        return f"Merged({n} run{'s' * (n != 1)} of {self.feature_names[0]}, {self.frontier!r})"

    def __str__(self) -> str:
        return str(self.frontier)

    def _repr_html_(self) -> str:
        short, long = self.feature_names
        text = escape(repr(self)).replace(escape(short), with_tooltip(short, long), 1)
        return fragment(f"<p>{text}</p>{warning(self.frontier.note)}{prompt_table(self.frontier.prompts)}")


def merge(runs: Iterable[MergeableRun | Merged]) -> Merged:
    """Merge runs of one feature on one model with the same BOS, and the same template or contexts.

    Seeds, settings and lengths may differ. Merged runs can be merged again.

    Args:
        runs: Runs, or merged runs. A run that is not finished is waited for.

    Raises:
        SettingsError: There are no runs; or two runs differ in feature, model, BOS, template or contexts, so that their
            values are not comparable. The message says which.
    """
    parts: list[MergeableRun] = []
    for run in runs:
        parts.extend(run.runs if isinstance(run, Merged) else [run])
    if not parts:
        raise SettingsError("There are no runs to merge; give at least one.")
    for name in ("feature", "model", "prepend_bos", "contexts", "prefix", "suffix"):
        settings = [getattr(run.provenance, name) for run in parts]
        odd = next((i for i, setting in enumerate(settings) if setting != settings[0]), None)
        if odd is not None:
            both = settings[0], settings[odd]
            shown = [feature_names(text)[0] if name == "feature" else repr(text) for text in both]
            if shown[0] == shown[1]:  # two files of the same name in different folders
                shown = list(map(repr, both))
            raise SettingsError(
                f"Runs 0 and {odd} differ in {name}: {shown[0]} and {shown[1]}. "
                "Only runs with the same feature, model, prepend_bos and template or contexts are comparable; merge "
                "those."
            )
    counts = [run.frontier.evaluated for run in parts]
    evaluated = None if None in counts else sum(count or 0 for count in counts)
    return Merged(tuple(parts), Frontier((prompt for run in parts for prompt in run.frontier), evaluated))

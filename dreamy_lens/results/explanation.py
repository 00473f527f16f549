"""Explanation of a feature in words, and scores of how well it, or the dreams alone, say what drives the feature."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamy_lens._files import PAGES, TABLES, check_ending, check_file, check_page, ending_of, write_text
from dreamy_lens.errors import RunFolderError
from dreamy_lens.features.parser import feature_names
from dreamy_lens.html.escaping import Html, escape, with_tooltip
from dreamy_lens.html.numbers import number
from dreamy_lens.html.page import document, fragment, html_table, python_details
from dreamy_lens.results.prompt_table import text_table
from dreamy_lens.results.storage import read_json, write_json

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "dreamy_lens explanation"
STORED = "explanation.json"
"""Name of the file in which a run's folder keeps its explanation."""


@dataclass(frozen=True)
class AnswerScore:
    """Score of yes-or-no questions that were put to a language model: detection or fuzzing.

    Attributes:
        name: "detection": does the feature fire on this text? "fuzzing": are the right tokens marked?
        true_positives: Number of right texts that it named.
        positives: Number of right texts.
        false_positives: Number of wrong texts that it named.
        negatives: Number of wrong texts.
    """

    name: str
    true_positives: int
    positives: int
    false_positives: int
    negatives: int

    @property
    def accuracy(self) -> float:
        """Balanced accuracy: mean of the shares of right and of wrong texts that were told; 0.5 by chance."""
        if not self.positives or not self.negatives:
            return math.nan
        return (self.true_positives / self.positives + 1 - self.false_positives / self.negatives) / 2

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        named = self.true_positives + self.false_positives
        return 2 * self.true_positives / (named + self.positives) if named + self.positives else math.nan


@dataclass(frozen=True)
class Simulation:
    """Values that texts reach which a language model wrote by the explanation alone.

    Attributes:
        texts: Texts, best first.
        values: Value of each, the highest of all places at which the text could end.
        floor: Median value of random prompts.
        dream: Highest value of a dream.
        window: Highest value of a window of the corpus; None without examples.
    """

    texts: tuple[str, ...]
    values: tuple[float, ...]
    floor: float
    dream: float
    window: float | None = None

    @property
    def share(self) -> float:
        """Share of the way from the median random prompt to the best dream that the best text reaches."""
        span = self.dream - self.floor
        return (max(self.values) - self.floor) / span if span > 0 and self.values else math.nan


@dataclass(frozen=True)
class Prediction:
    """How well known texts predict which held-out windows drive the feature, without a language model.

    Attributes:
        auroc: Area under the ROC curve by kind of known texts ("dreams", "windows", "both") and similarity ("n-grams",
            "embeddings"); 0.5 by chance.
        active: Number of held-out windows that drive the feature.
        inactive: Number of held-out windows that do not.
        known: Number of known texts of each kind.
    """

    auroc: Mapping[str, Mapping[str, float]]
    active: int
    inactive: int
    known: int


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """Explanation of a feature, from :func:`dreamy_lens.explain`. It is false if no language model was asked.

    Attributes:
        feature: Text form of the feature.
        model: Name of the model that the feature belongs to.
        text: Explanation; "" if no language model was asked.
        prompt: Prompt that asks for the explanation.
        seeds: Seed of each run whose dreams were shown; None for one without a seed.
        llm: Name of the language model that was asked; "" for none.
        dreams: Dreams that the prompt shows.
        windows: Windows of a corpus that the prompt shows.
        detection: Score of telling which held-out windows drive the feature; None if it was not asked.
        fuzzing: Score of telling where in a window the feature is high; None if it was not asked.
        simulation: Values of texts that were written by the explanation; None if none were.
        prediction: Prediction of held-out windows without a language model; None without examples.
        notes: Sentences about scores that are missing.
        code: Program that makes the result again, as Python; "" if it is unknown.
    """

    feature: str
    model: str
    text: str
    prompt: str
    seeds: tuple[int | None, ...] = ()
    llm: str = ""
    dreams: tuple[str, ...] = ()
    windows: tuple[str, ...] = ()
    detection: AnswerScore | None = None
    fuzzing: AnswerScore | None = None
    simulation: Simulation | None = None
    prediction: Prediction | None = None
    notes: tuple[str, ...] = field(default=())
    code: str = ""

    def __bool__(self) -> bool:
        return bool(self.text)

    @property
    def scores(self) -> dict[str, float]:
        """Scores by name: each is better the higher it is, and at most 1 but for the simulation."""
        found: dict[str, float] = {}
        for score in (self.detection, self.fuzzing):
            if score is not None:
                found[f"{score.name} (balanced accuracy)"] = score.accuracy
        if self.simulation is not None:
            found["simulation (share of the best dream)"] = self.simulation.share
        if self.prediction is not None:
            for kind, areas in self.prediction.auroc.items():
                for similarity, area in areas.items():
                    found[f"prediction by {kind}, {similarity} (AUROC)"] = area
        return found

    def to_pandas(self) -> pd.DataFrame:
        """Return the scores as a table with the columns score and value."""
        import pandas as pd

        return pd.DataFrame(list(self.scores.items()), columns=["score", "value"])

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return a self-contained HTML page.

        Args:
            path: File to which the page is also written; None writes no file.
        """
        if path is not None:
            check_page(path)
        short, long = feature_names(self.feature)
        page = document(
            f"{short} in words",
            f"<h1>{with_tooltip(short, long)} in words</h1>{self.body()}{python_details(self.code)}",
        )
        if path is not None:
            write_text(path, page)
        return page

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the explanation to a file, and return its path.

        Args:
            path: File to write: `.html` is the page, `.csv` the table of scores; `.json`, or no known ending, is the
                JSON that :meth:`load` reads.

        Raises:
            FileWriteError: The file cannot be written, or its ending stands for another format.
        """
        check_ending(path, ("json", *TABLES, *PAGES), "JSON, a table or a page")
        check_file(path)
        ending = ending_of(path)
        if ending in PAGES:
            self.to_html(path)
            return Path(path)
        if ending in TABLES:
            return write_text(path, self.to_pandas().to_csv(index=False))
        return write_json(path, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as JSON values, which :meth:`load` reads from a file."""
        parts = {name: None if (part := getattr(self, name)) is None else asdict(part) for name in _PARTS}
        plain = {name: getattr(self, name) for name in ("feature", "model", "text", "prompt", "llm")}
        lists = {name: list(getattr(self, name)) for name in ("seeds", "dreams", "windows", "notes")}
        return {"format": FORMAT, "version": 1, **plain, "code": self.code, **lists, **parts}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Explanation:
        """Read what :meth:`save` wrote.

        Raises:
            RunFolderError: The file is missing or damaged, or holds something else.
        """
        data = read_json(path, FORMAT)
        try:
            parts: dict[str, Any] = {
                name: None if data[name] is None else kind(**data[name]) for name, kind in _PARTS.items()
            }
            simulation = parts["simulation"]
            if isinstance(simulation, Simulation):
                texts, values = tuple(simulation.texts), tuple(simulation.values)
                parts["simulation"] = replace(simulation, texts=texts, values=values)
            plain: dict[str, Any] = {name: str(data[name]) for name in ("feature", "model", "text", "prompt", "llm")}
            lists: dict[str, Any] = {name: tuple(map(str, data[name])) for name in ("dreams", "windows", "notes")}
            return cls(**plain, code=str(data.get("code", "")), seeds=tuple(data["seeds"]), **lists, **parts)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"the entry {error} is missing" if isinstance(error, KeyError) else error
            raise RunFolderError(
                f"The file {os.fspath(path)!r} holds no complete explanation: {reason}. Make it again."
            ) from None

    def __str__(self) -> str:
        lines = [self._lead(), *self.notes]
        rows = [[name, number(value, 2)] for name, value in self.scores.items()]
        table = text_table(("value", "score"), [row[::-1] for row in rows]) if rows else ""
        return "\n".join([*lines, *(["", table] if table else [])])

    def __repr__(self) -> str:
        short, _ = feature_names(self.feature)
        return f"Explanation({short}: {self.text!r})" if self.text else f"Explanation({short}, no words yet)"

    def _repr_html_(self) -> str:
        return fragment(self.body() + python_details(self.code))

    def _lead(self) -> str:
        short, _ = feature_names(self.feature)
        if self.text:
            return f"{short}: {self.text} (by {self.llm})"
        return (
            f"{short} has no explanation yet: give a language model, explain(..., llm=...) or --llm URL. "
            "explanation.prompt is what it will be shown."
        )

    def body(self, heading: str = "h2") -> Html:
        """Return the explanation and its scores as HTML.

        Args:
            heading: Name of the HTML element of the headings.
        """
        lead = f"<p><strong>{escape(self.text)}</strong></p>" if self.text else f"<p>{escape(self._lead())}</p>"
        by = f'<p class="dl-note">By {escape(self.llm)}.</p>' if self.text else ""
        notes = "".join(f'<p class="dl-note">{escape(note)}</p>' for note in self.notes)
        rows = [(number(value, 2), name) for name, value in self.scores.items()]
        table = html_table(("value", "score"), rows) if rows else ""
        sizes = ""
        if self.prediction is not None:
            p = self.prediction
            sizes = (
                f'<p class="dl-note">Prediction: {p.known} known texts of each kind rank {p.active} held-out windows '
                f"that drive the feature and {p.inactive} that do not; 0.5 is chance.</p>"
            )
        written = ""
        if self.simulation is not None:
            texts = [(number(v, 2), t) for v, t in zip(self.simulation.values, self.simulation.texts, strict=True)]
            written = f"<{heading}>Written by the explanation</{heading}>{html_table(('value', 'text'), texts[:5])}"
        lines = "<br>".join(map(escape, self.prompt.split("\n")))
        asked = f'<details><summary>The prompt</summary><p class="dl-note">{lines}</p></details>'
        return Html(f"{lead}{by}{notes}{table}{sizes}{written}{asked}")


_PARTS: dict[str, Any] = {
    "detection": AnswerScore,
    "fuzzing": AnswerScore,
    "simulation": Simulation,
    "prediction": Prediction,
}

"""Steering of a feature as data, text and HTML."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens._files import check_page, write_text
from dreamy_lens.errors import RunFolderError
from dreamy_lens.features.parser import feature_names
from dreamy_lens.figures.interventions import strength_curves
from dreamy_lens.html.escaping import Html, escape, visible, with_tooltip
from dreamy_lens.html.numbers import decimals, number
from dreamy_lens.html.page import document, fragment, html_table, python_details
from dreamy_lens.results.effect import Effect, change_words, mean_of_known
from dreamy_lens.results.export import save_as
from dreamy_lens.results.prompt_table import prompt_text, text_table
from dreamy_lens.results.storage import read_json

if TYPE_CHECKING:
    import pandas as pd

    from dreamy_lens.figures.svg_figure import SvgFigure

FORMAT = "dreamy_lens steering"

MODES = ("add", "set", "clamp")
"""Ways to change a feature."""

UNITS = ("sd", "raw")
"""Units of a strength."""

STRENGTHS = (4.0, 16.0, 64.0)
"""Strengths at which a feature is changed, unless others are given."""

_PLAIN = (
    *("feature", "model", "prompt", "start", "length", "mode", "units", "unit", "mean", "deviation", "reference"),
    *("positions", "placebo_kind", "seed"),
)
_TUPLES = ("tokens", "targets", "features", "notes")


@dataclass(frozen=True, eq=False, repr=False)
class Steering:
    """A model's predictions on one prompt with a feature changed, from :func:`dreamy_lens.steer`.

    S strengths, and R placebos beside each.

    Attributes:
        feature: Text form of the feature.
        model: Name of the model.
        prompt: Text of the prompt, without BOS and template.
        ids: Token ids of the row that the model read, `[P]`.
        tokens: Tokens of the row, each decoded by itself.
        start: Position of the prompt's first token in the row.
        length: Number of the prompt's tokens.
        mode: "add", "set" or "clamp".
        units: "sd" or "raw".
        unit: Sentence that says what a strength of 1 is.
        mean: Mean of the feature's coordinate over the tokens of the reference prompts; None in raw units.
        deviation: Standard deviation of the coordinate there; None in raw units.
        reference: Description of the reference prompts; "" in raw units.
        positions: Positions at which the feature is changed, in words.
        placebo_kind: What the placebos are, in words.
        seed: Seed of the placebos and of the reference prompts.
        targets: Chosen tokens.
        features: Text forms of the features that are read in the same passes: first the feature itself.
        untouched: What the untouched model gives.
        effects: Effect at each strength, S of them.
        placebos: Effects of the placebos, R at each of S strengths.
        notes: Sentences about what was left out.
        code: Program that makes the result again, as Python; "" if it is unknown.
    """

    feature: str
    model: str
    prompt: str
    ids: np.ndarray
    tokens: tuple[str, ...]
    start: int
    length: int
    mode: str
    units: str
    unit: str
    mean: float | None
    deviation: float | None
    reference: str
    positions: str
    placebo_kind: str
    seed: int
    targets: tuple[str, ...]
    features: tuple[str, ...]
    untouched: Effect
    effects: tuple[Effect, ...]
    placebos: tuple[tuple[Effect, ...], ...]
    notes: tuple[str, ...] = ()
    code: str = ""

    def __post_init__(self) -> None:
        if len(self.placebos) != len(self.effects):
            raise ValueError(f"There are {len(self.effects)} effects, and placebos for {len(self.placebos)}.")

    def __len__(self) -> int:
        return len(self.effects)

    def __getitem__(self, i: int) -> Effect:
        return self.effects[i]

    @property
    def strengths(self) -> tuple[float, ...]:
        """Strengths, in the order in which they were asked for."""
        return tuple(float(effect.strength or 0.0) for effect in self.effects)

    @property
    def kl(self) -> np.ndarray:
        """KL divergence at each strength, nats, `[S]`."""
        return np.array([effect.kl for effect in self.effects])

    @property
    def placebo_kl(self) -> np.ndarray:
        """KL divergence of each placebo, nats, `[S, R]`."""
        return self._of_placebos(lambda effect: effect.kl)

    @property
    def values(self) -> np.ndarray:
        """Values of the features at each strength, `[S, F]`: the first column is the feature itself."""
        return np.array([effect.values for effect in self.effects])

    @property
    def placebo_values(self) -> np.ndarray:
        """Values of the features with each placebo, `[S, R, F]`."""
        return self._of_placebos(lambda effect: effect.values, (len(self.features),))

    @property
    def log_probs(self) -> np.ndarray:
        """Log-probabilities of the chosen tokens at each strength, `[S, T]`."""
        return np.array([effect.log_probs for effect in self.effects]).reshape(len(self), len(self.targets))

    @property
    def placebo_log_probs(self) -> np.ndarray:
        """Log-probabilities of the chosen tokens with each placebo, `[S, R, T]`."""
        return self._of_placebos(lambda effect: effect.log_probs, (len(self.targets),))

    def _of_placebos(self, read: Any, shape: tuple[int, ...] = ()) -> np.ndarray:
        count = max((len(some) for some in self.placebos), default=0)
        return np.array([[read(effect) for effect in some] for some in self.placebos], dtype=np.float64).reshape(
            len(self), count, *shape
        )

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row for the untouched model, one per strength, and one per placebo.

        The columns are kind ("untouched", "feature" or "placebo"), strength, placebo (its number), kl, the value of
        each feature, the logit and the log-probability of each chosen token, and the continuation with its
        cross-entropy.
        """
        import pandas as pd

        own = [("feature", None, effect) for effect in self.effects]
        others = [("placebo", k, effect) for some in self.placebos for k, effect in enumerate(some)]
        rows = []
        for kind, k, effect in [("untouched", None, self.untouched), *own, *others]:
            row: dict[str, Any] = {"kind": kind, "strength": effect.strength, "placebo": k, "kl": effect.kl}
            row |= dict(zip(self.features, effect.values, strict=True))
            row |= {f"logit {t!r}": x for t, x in zip(self.targets, effect.logits, strict=True)}
            row |= {f"log_prob {t!r}": x for t, x in zip(self.targets, effect.log_probs, strict=True)}
            row |= {"continuation": effect.continuation, "cross_entropy": effect.cross_entropy}
            rows.append(row)
        frame = pd.DataFrame.from_records(rows)
        frame["placebo"] = pd.array(frame["placebo"].tolist(), dtype="Int64")
        return frame

    @property
    def sentence(self) -> str:
        """Sentence that says what was changed, and what a strength is."""
        short, _ = feature_names(self.feature)
        what = {
            "add": f"The vector of {short} is added",
            "set": f"{short} is set",
            "clamp": f"{short} is kept from falling below the strength (from rising above a negative strength)",
        }[self.mode]
        count = max((len(some) for some in self.placebos), default=0)
        beside = f" Beside each strength: {count} placebos ({self.placebo_kind})." if count else ""
        return f"{what} at {self.positions}. {self.unit}{beside}"

    def plot(self, **settings: Any) -> SvgFigure:
        """Draw the KL divergence and the last of the features over strengths, with the placebos.

        Args:
            **settings: Settings of :func:`dreamy_lens.figures.strength_curves`.
        """
        last = len(self.features) - 1
        title = f"Value of {feature_names(self.features[last])[0]}"
        panels: list[tuple[str, Any, np.ndarray, float]] = [
            ("KL divergence, nats", self.kl, self.placebo_kl, 0.0),
            (title, self.values[:, last], self.placebo_values[..., last], self.untouched.values[last]),
        ]
        if self.targets:
            name = f"Log-probability of {visible(self.targets[0], token=True)!r}"
            panels.append((name, self.log_probs[:, 0], self.placebo_log_probs[..., 0], self.untouched.log_probs[0]))
        axis = "strength, standard deviations" if self.units == "sd" else "strength"
        strengths = self.strengths
        if self.mode == "add" and 0.0 not in strengths:  # a strength of 0 is the untouched model
            strengths = (0.0, *strengths)
            panels = [
                (
                    *(title, np.concatenate([[base], own])),
                    *(np.concatenate([np.full_like(others[:1], base), others]), base),
                )
                for title, own, others, base in panels
            ]
        return strength_curves(strengths, panels, axis, **settings)

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return a self-contained HTML page.

        Args:
            path: File to which the page is also written; None writes no file.
        """
        if path is not None:
            check_page(path, "steering.save(path) writes pictures, tables and JSON.")
        short, long = feature_names(self.feature)
        page = document(
            f"Steering of {short}",
            f"<h1>Steering of {with_tooltip(short, long)}</h1>{self.body()}{python_details(self.code)}",
        )
        if path is not None:
            write_text(path, page)
        return page

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the effects to a file, and return its path.

        Args:
            path: File to write. Its ending decides the format: `.html` is the page, `.csv` the table, `.svg`, `.pdf`
                and `.png` the figure. `.json`, or no known ending, is the JSON that :meth:`load` reads.

        Raises:
            FileWriteError: The file cannot be written, or its ending stands for another format.
        """
        return save_as(path, self.to_dict, self.to_pandas, self.plot, self.to_html, drawn=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the effects as JSON values, which :meth:`load` reads from a file."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        lists = {name: list(getattr(self, name)) for name in _TUPLES}
        effects = {"untouched": asdict(self.untouched), "effects": [asdict(each) for each in self.effects]}
        effects["placebos"] = [[asdict(each) for each in some] for some in self.placebos]
        return {
            "format": FORMAT,
            "version": 1,
            **plain,
            "code": self.code,
            "ids": self.ids.tolist(),
            **lists,
            **effects,
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Steering:
        """Read what :meth:`save` wrote.

        Raises:
            RunFolderError: The file is missing or damaged, or holds something else.
        """
        data = read_json(path, FORMAT)
        try:
            fields: dict[str, Any] = {name: data[name] for name in _PLAIN}
            fields |= {name: tuple(data[name]) for name in _TUPLES}
            return cls(
                **fields,
                code=str(data.get("code", "")),
                ids=np.array(data["ids"], dtype=np.int64),
                untouched=Effect.from_dict(data["untouched"]),
                effects=tuple(map(Effect.from_dict, data["effects"])),
                placebos=tuple(tuple(map(Effect.from_dict, some)) for some in data["placebos"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            reason = f"the entry {error} is missing" if isinstance(error, KeyError) else error
            raise RunFolderError(
                f"The file {os.fspath(path)!r} holds no complete steering: {reason}. Save it again."
            ) from None

    def __str__(self) -> str:
        lines = [self.sentence, *self.notes, "", text_table(self._columns(), self._rows())]
        if any(effect.continuation_ids for effect in (self.untouched, *self.effects)):
            lines += ["", *(" ".join(row) for row in self._continuations())]
        return "\n".join(lines)

    def __repr__(self) -> str:
        short, _ = feature_names(self.feature)
        kl = ", ".join(f"{s:g}: {x:.3g}" for s, x in zip(self.strengths, self.kl, strict=True))
        return f"Steering({short} on {self.prompt!r}, {self.mode}, KL by strength {kl})"

    def _repr_html_(self) -> str:
        return fragment(self.body() + python_details(self.code))

    def _columns(self) -> tuple[str, ...]:
        names = [word for each in self.features for word in (feature_names(each)[0], "placebo")]
        targets = [word for t in self.targets for word in (f"log p {visible(t, token=True)!r}", "placebo")]
        return ("strength", "KL", "placebo", *names, *targets, "tokens that change most")

    def _rows(self) -> list[list[str]]:
        """Return the cells: the untouched model, and each strength with the mean of its placebos."""
        every = [self.untouched, *self.effects]
        kl_places = decimals([*self.kl, *self.placebo_kl.ravel()], 3)
        columns = [
            (np.array([e.kl for e in every]), mean_of_known(self.placebo_kl, 1), kl_places),
            *_columns_of(np.array([e.values for e in every]), self.placebo_values),
            *_columns_of(np.array([e.log_probs for e in every]).reshape(len(every), -1), self.placebo_log_probs),
        ]
        rows = []
        for i, effect in enumerate(every):
            cells = ["untouched" if effect.strength is None else f"{effect.strength:g}".replace("-", "−")]
            for own, placebo, places in columns:
                cells += [number(float(own[i]), places), number(float(placebo[i - 1]), places) if i else "-"]
            rows.append([*cells, change_words(effect.changes)])
        return rows

    def _continuations(self) -> list[list[str]]:
        """Return strength, cross-entropy and text of each continuation, and of the first placebo of each strength."""
        rows = []
        firsts = [("placebo at ", some[0]) for some in self.placebos if some]
        for kind, effect in [("", self.untouched), *(("", each) for each in self.effects), *firsts]:
            name = "untouched" if effect.strength is None else f"{kind}{effect.strength:g}".replace("-", "−")
            loss = "-" if effect.cross_entropy is None else f"{effect.cross_entropy:.2f}"
            rows.append([f"{name}:", f"({loss} nats per token)", visible(effect.continuation)])
        return rows

    def body(self) -> Html:
        """Return the sentence, the figure and the tables."""
        notes = "".join(f'<p class="dl-note">{escape(note)}</p>' for note in self.notes)
        figure = f'<div class="dl-figure">{self.plot().inline}</div>'
        table = html_table(self._columns(), self._rows())
        written = ""
        if any(effect.continuation_ids for effect in (self.untouched, *self.effects)):
            rows = [[a.rstrip(":"), b.strip("()"), c] for a, b, c in self._continuations()]
            written = html_table(("strength", "cross-entropy", "continuation"), rows)
        text = f"<p><strong>{prompt_text(self.prompt)}</strong></p><p>{escape(self.sentence)}</p>"
        origin = f'<p class="dl-note">{escape(self.model)}; beside each number the mean of the placebos.</p>'
        return Html(f"{text}{notes}{figure}{table}{written}{origin}")


def _columns_of(own: np.ndarray, placebos: np.ndarray) -> Sequence[tuple[np.ndarray, np.ndarray, int]]:
    """Return for each column the numbers, the means of the placebos, and the decimal places."""
    means = mean_of_known(placebos, 1)
    return [(own[:, j], means[:, j], decimals([*own[:, j], *means[:, j]], 3)) for j in range(own.shape[1])]

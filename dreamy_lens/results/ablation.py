"""Ablations of components and features as data, text and HTML."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens._files import check_page, write_text
from dreamy_lens.errors import RunFolderError
from dreamy_lens.features.parser import feature_names
from dreamy_lens.figures.interventions import placebo_bars
from dreamy_lens.html.escaping import Html, escape, visible
from dreamy_lens.html.numbers import decimals, number
from dreamy_lens.html.page import document, fragment, html_table, python_details
from dreamy_lens.html.words import plural
from dreamy_lens.results.effect import TokenChange, change_words, mean_of_known, without_nan
from dreamy_lens.results.export import save_as
from dreamy_lens.results.prompt_table import prompt_text, text_table
from dreamy_lens.results.storage import read_json

if TYPE_CHECKING:
    import pandas as pd

    from dreamy_lens.figures.svg_figure import SvgFigure

FORMAT = "dreamy_lens ablation"

KINDS = {
    "zero": "zero",
    "mean": "its mean over the tokens of reference prompts",
    "resample": "its activations on reference prompts",
}
"""Kinds of ablation, with what stands in the place of the part."""

_PLAIN = ("model", "kind", "positions", "reference", "draws", "seed")
_TUPLES = ("parts", "prompts", "features", "targets", "notes")
_ARRAYS = (
    *("untouched_values", "values", "placebo_values", "kl", "placebo_kl"),
    *("untouched_logits", "logits", "untouched_log_probs", "log_probs", "placebo_log_probs"),
)


@dataclass(frozen=True, eq=False, repr=False)
class Ablation:
    """Effects of ablations on prompts, from :func:`dreamy_lens.ablate`.

    N ablations (each part alone, and all together if there are several), R placebos of each, P prompts, F features and
    T chosen tokens. A resample ablation gives means over its draws.

    Attributes:
        model: Name of the model.
        kind: "zero", "mean" or "resample".
        parts: Name of each ablation; several parts that are ablated together are joined by " + ".
        prompts: Texts of the prompts.
        ids: Token ids of the prompts, without BOS and template, `[P, n]`.
        positions: Positions at which parts are ablated, in words.
        reference: Description of the reference prompts; "" for zero ablation.
        draws: Number of reference prompts over which a resample ablation is averaged; otherwise 1.
        seed: Seed of the reference prompts and of the placebos.
        features: Text forms of the features that are read.
        targets: Chosen tokens.
        untouched_values: Values of the features in the untouched model, float64 `[P, F]`.
        values: Values after each ablation, `[N, P, F]`.
        placebo_values: Values after each placebo, `[N, R, P, F]`.
        kl: KL divergence of the next-token distribution from the untouched one, nats, `[N, P]`.
        placebo_kl: KL divergence of each placebo, `[N, R, P]`.
        untouched_logits: Logits of the chosen tokens in the untouched model, `[P, T]`.
        logits: Logits of the chosen tokens after each ablation, `[N, P, T]`.
        untouched_log_probs: Log-probabilities of the chosen tokens in the untouched model, `[P, T]`.
        log_probs: Log-probabilities after each ablation, `[N, P, T]`.
        placebo_log_probs: Log-probabilities after each placebo, `[N, R, P, T]`.
        changes: Tokens that change most, by ablation and prompt.
        notes: Sentences about what was left out.
        code: Program that makes the result again, as Python; "" if it is unknown.
    """

    model: str
    kind: str
    parts: tuple[str, ...]
    prompts: tuple[str, ...]
    ids: np.ndarray
    positions: str
    reference: str
    draws: int
    seed: int
    features: tuple[str, ...]
    targets: tuple[str, ...]
    untouched_values: np.ndarray
    values: np.ndarray
    placebo_values: np.ndarray
    kl: np.ndarray
    placebo_kl: np.ndarray
    untouched_logits: np.ndarray
    logits: np.ndarray
    untouched_log_probs: np.ndarray
    log_probs: np.ndarray
    placebo_log_probs: np.ndarray
    changes: tuple[tuple[tuple[TokenChange, ...], ...], ...]
    notes: tuple[str, ...] = ()
    code: str = ""

    def __post_init__(self) -> None:
        n, p, f, t = len(self.parts), len(self.prompts), len(self.features), len(self.targets)
        r = np.shape(self.placebo_kl)[1] if np.ndim(self.placebo_kl) == 3 else -1
        shapes = {"values": (n, p, f), "placebo_values": (n, r, p, f), "kl": (n, p), "placebo_kl": (n, r, p)}
        shapes |= {"untouched_values": (p, f), "log_probs": (n, p, t), "logits": (n, p, t)}
        wrong = [name for name, shape in shapes.items() if np.shape(getattr(self, name)) != shape]
        if wrong:
            raise ValueError(f"{wrong[0]} has shape {np.shape(getattr(self, wrong[0]))}, not {shapes[wrong[0]]}.")

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def changes_of_values(self) -> np.ndarray:
        """Change of each feature by each ablation, `[N, P, F]`."""
        return self.values - self.untouched_values

    @property
    def placebo_changes(self) -> np.ndarray:
        """Change of each feature by each placebo, `[N, R, P, F]`."""
        return self.placebo_values - self.untouched_values

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row per ablation, prompt and quantity.

        The columns are part, prompt, quantity ("kl", a feature, or the log-probability of a token), untouched, ablated,
        change, and the mean and the largest size of the placebos' changes.
        """
        import pandas as pd

        rows = []
        for i, part in enumerate(self.parts):
            for p, prompt in enumerate(self.prompts):
                entries = [("kl", 0.0, self.kl[i, p], self.placebo_kl[i, :, p])]
                for f, feature in enumerate(self.features):
                    moved = self.placebo_changes[i, :, p, f]
                    entries.append((feature, self.untouched_values[p, f], self.values[i, p, f], moved))
                for t, token in enumerate(self.targets):
                    before = self.untouched_log_probs[p, t]
                    moved = self.placebo_log_probs[i, :, p, t] - before
                    entries.append((f"log_prob {token!r}", before, self.log_probs[i, p, t], moved))
                for name, before, after, moved in entries:
                    moved = moved[np.isfinite(moved)]
                    mean = float(np.mean(moved)) if len(moved) else np.nan
                    largest = float(np.abs(moved).max()) if len(moved) else np.nan
                    rows.append((part, prompt, name, float(before), float(after), float(after - before), mean, largest))
        columns = ["part", "prompt", "quantity", "untouched", "ablated", "change", "placebo_mean", "placebo_largest"]
        return pd.DataFrame.from_records(rows, columns=columns)

    @property
    def sentence(self) -> str:
        """Sentence that says what stands in the place of the parts."""
        where = "" if self.kind == "zero" else f" ({self.reference})"
        placebos = np.shape(self.placebo_kl)[1]
        beside = f" Beside each stand up to {placebos} placebos." if placebos else ""
        return (
            f"Ablation at {self.positions} of {len(self.prompts)} prompt{'s' * (len(self.prompts) > 1)}: each part is "
            f"replaced by {KINDS[self.kind]}{where}.{beside}"
        )

    def plot(self, **settings: Any) -> SvgFigure:
        """Draw the change by each ablation as a bar, and its placebos as ticks: of the first feature, or else the KL.

        Args:
            **settings: Settings of :func:`dreamy_lens.figures.placebo_bars`.
        """
        if self.features:
            effects, placebos = self.changes_of_values[..., 0].mean(1), self.placebo_changes[..., 0].mean(2)
            title = f"Change of {feature_names(self.features[0])[0]}"
        else:
            effects, placebos, title = self.kl.mean(1), self.placebo_kl.mean(2), "KL divergence, nats"
        return placebo_bars(self.parts, effects, placebos, title, **settings)

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return a self-contained HTML page.

        Args:
            path: File to which the page is also written; None writes no file.
        """
        if path is not None:
            check_page(path, "ablation.save(path) writes pictures, tables and JSON.")
        page = document(
            "Ablation", f"<h1>Ablation of {escape(', '.join(self.parts))}</h1>{self.body()}{python_details(self.code)}"
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
        arrays = {name: without_nan(getattr(self, name)) for name in ("ids", *_ARRAYS)}
        shifts = [[[asdict(each) for each in some] for some in row] for row in self.changes]
        return {"format": FORMAT, "version": 1, **plain, "code": self.code, **lists, **arrays, "changes": shifts}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Ablation:
        """Read what :meth:`save` wrote.

        Raises:
            RunFolderError: The file is missing or damaged, or holds something else.
        """
        data = read_json(path, FORMAT)
        try:
            sizes = {"N": len(data["parts"]), "P": len(data["prompts"])}
            sizes |= {"F": len(data["features"]), "T": len(data["targets"])}
            sizes["R"] = len(data["placebo_kl"][0])
            arrays = {
                name: np.array(data[name], dtype=np.float64).reshape([sizes[x] for x in letters])
                for name, letters in zip(_ARRAYS, _LETTERS, strict=True)
            }
            fields: dict[str, Any] = {name: data[name] for name in _PLAIN}
            fields |= {name: tuple(data[name]) for name in _TUPLES} | arrays | {"code": str(data.get("code", ""))}
            return cls(
                **fields,
                ids=np.array(data["ids"], dtype=np.int64),
                changes=tuple(
                    tuple(tuple(TokenChange(**each) for each in some) for some in row) for row in data["changes"]
                ),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            reason = f"the entry {error} is missing" if isinstance(error, KeyError) else error
            raise RunFolderError(
                f"The file {os.fspath(path)!r} holds no complete ablation: {reason}. Save it again."
            ) from None

    def __str__(self) -> str:
        return "\n".join([self.sentence, *self.notes, "", text_table(self._columns(), self._rows())])

    def __repr__(self) -> str:
        kl = ", ".join(f"{part} KL {x:.3g}" for part, x in zip(self.parts, self.kl.mean(1), strict=True))
        return f"Ablation({self.kind}, {plural(len(self.prompts), 'prompt')}: {kl})"

    def _repr_html_(self) -> str:
        return fragment(self.body() + python_details(self.code))

    def _columns(self) -> tuple[str, ...]:
        names = [feature_names(each)[0] for each in self.features]
        features = [word for name in names for word in (f"{name}", "placebo")]
        targets = [word for token in self.targets for word in (f"log p {visible(token, token=True)!r}", "placebo")]
        return ("part", "KL", "placebo", *features, *targets, "tokens that change most")

    def _rows(self) -> list[list[str]]:
        """Return the cells: means over the prompts, with the mean of the placebos beside each."""
        rows = []
        places = decimals([*self.kl.ravel(), *self.placebo_kl.ravel()], 3)
        moved, placebo = self.changes_of_values.mean(1), mean_of_known(self.placebo_changes.mean(2), 1)
        logs = (self.log_probs - self.untouched_log_probs).mean(1)
        placebo_logs = mean_of_known((self.placebo_log_probs - self.untouched_log_probs).mean(2), 1)
        placebo_kl = mean_of_known(self.placebo_kl.mean(2), 1)
        for i, part in enumerate(self.parts):
            cells = [visible(part), number(float(self.kl[i].mean()), places), number(float(placebo_kl[i]), places)]
            for effects, others in ((moved[i], placebo[i]), (logs[i], placebo_logs[i])):
                for effect, other in zip(effects.tolist(), others.tolist(), strict=True):
                    own = decimals([effect], 3)
                    cells += [number(effect, own, True), number(other, own, True)]
            rows.append([*cells, change_words(self.changes[i][0])])
        return rows

    def body(self) -> Html:
        """Return the sentence, the figure and the table."""
        notes = "".join(f'<p class="dl-note">{escape(note)}</p>' for note in self.notes)
        figure = f'<div class="dl-figure">{self.plot().inline}</div>'
        texts = "".join(f"<p><strong>{prompt_text(prompt)}</strong></p>" for prompt in self.prompts[:8])
        table = html_table(self._columns(), self._rows())
        origin = f'<p class="dl-note">{escape(self.model)}; changes are means over the prompts.</p>'
        return Html(f"{texts}<p>{escape(self.sentence)}</p>{notes}{figure}{table}{origin}")


_LETTERS = ("PF", "NPF", "NRPF", "NP", "NRP", "PT", "NPT", "PT", "NPT", "NRPT")
"""Axes of each of `_ARRAYS`."""

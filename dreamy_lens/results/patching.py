"""Activation patching as data, text and HTML."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens._files import check_page, write_text
from dreamy_lens.errors import RunFolderError
from dreamy_lens.features.parser import feature_names
from dreamy_lens.figures.interventions import patch_map
from dreamy_lens.html.escaping import Html, escape, visible, with_tooltip
from dreamy_lens.html.numbers import decimals, number
from dreamy_lens.html.page import document, fragment, html_table, python_details
from dreamy_lens.results.effect import without_nan
from dreamy_lens.results.export import save_as
from dreamy_lens.results.prompt_table import prompt_text, text_table
from dreamy_lens.results.storage import read_json

if TYPE_CHECKING:
    import pandas as pd

    from dreamy_lens.figures.svg_figure import SvgFigure

FORMAT = "dreamy_lens patching"

COMPONENTS = {
    "resid_pre": "the residual stream before a block",
    "attn_out": "the output of an attention",
    "mlp_out": "the output of an MLP",
}
"""Components whose activations can be patched, in words."""

_PLAIN = (
    *("feature", "model", "component", "prompt", "neutral", "how", "placebo_source", "seed"),
    *("value", "neutral_value"),
)
_TUPLES = ("layers", "tokens", "neutral_tokens", "notes")
_GRIDS = ("denoising", "noising", "placebos", "placebo_own_values")
_SHOWN = 12
"""Number of patches in texts."""


@dataclass(frozen=True, eq=False, repr=False)
class Patching:
    """What patches of activations restore of a feature's value, from :func:`dreamy_lens.patch`.

    L layers, and P positions: those of the prompt's tokens and of the template after them. Shares are 0 where the
    feature has the neutral prompt's value, and 1 where it has the prompt's.

    Attributes:
        feature: Text form of the feature.
        model: Name of the model.
        component: "resid_pre", "attn_out" or "mlp_out".
        prompt: Text of the prompt.
        neutral: Text of the neutral prompt.
        ids: Token ids of the prompt, `[n]`.
        neutral_ids: Token ids of the neutral prompt, `[n]`.
        how: How the neutral prompt was chosen.
        placebo_source: Description of the prompts that the placebos patch in; "" without placebos.
        seed: Seed of what was drawn.
        layers: Numbers of the layers.
        tokens: Token of the prompt at each position.
        neutral_tokens: Token of the neutral prompt at each position.
        value: Value of the feature on the prompt.
        neutral_value: Value of the feature on the neutral prompt.
        placebo_own_values: Value of the feature on each placebo's own prompt, `[R]`.
        denoising: Shares with an activation of the prompt patched into the neutral prompt, `[L, P]`.
        noising: Shares with an activation of the neutral prompt patched into the prompt, `[L, P]`.
        placebos: Shares with an activation of another prompt patched into the neutral prompt, `[R, L, P]`.
        notes: Sentences about what to mind.
        code: Program that makes the result again, as Python; "" if it is unknown.
    """

    feature: str
    model: str
    component: str
    prompt: str
    neutral: str
    ids: np.ndarray
    neutral_ids: np.ndarray
    how: str
    placebo_source: str
    seed: int
    layers: tuple[int, ...]
    tokens: tuple[str, ...]
    neutral_tokens: tuple[str, ...]
    value: float
    neutral_value: float
    placebo_own_values: np.ndarray
    denoising: np.ndarray
    noising: np.ndarray
    placebos: np.ndarray
    notes: tuple[str, ...] = ()
    code: str = ""

    def __post_init__(self) -> None:
        shape = (len(self.layers), len(self.tokens))
        for name in ("denoising", "noising"):
            if np.shape(getattr(self, name)) != shape:
                raise ValueError(f"{name} has shape {np.shape(getattr(self, name))}, not {shape}.")
        if np.shape(self.placebos)[1:] != shape:
            raise ValueError(f"The placebos have shape {np.shape(self.placebos)}, not [R, {shape[0]}, {shape[1]}].")

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row per layer and position.

        The columns are layer, position (0 is the prompt's first token), token, neutral_token, denoising, noising, and
        the mean and the largest size of the placebos' shares.
        """
        import pandas as pd

        count = len(self.placebos)
        rows = [
            (
                *(layer, j, self.tokens[j], self.neutral_tokens[j]),
                *(float(self.denoising[i, j]), float(self.noising[i, j])),
                float(self.placebos[:, i, j].mean()) if count else np.nan,
                float(np.abs(self.placebos[:, i, j]).max()) if count else np.nan,
            )
            for i, layer in enumerate(self.layers)
            for j in range(len(self.tokens))
        ]
        columns = ["layer", "position", "token", "neutral_token", "denoising", "noising"]
        return pd.DataFrame.from_records(rows, columns=[*columns, "placebo_mean", "placebo_largest"])

    @property
    def sentence(self) -> str:
        """Sentence that says what was patched into what."""
        short, _ = feature_names(self.feature)
        places = decimals([self.value, self.neutral_value])
        beside = (
            f" Placebos: {len(self.placebos)} other prompts patched into the neutral one ({self.placebo_source})."
            if len(self.placebos)
            else ""
        )
        return (
            f"{short} is {number(self.value, places)} on the prompt and {number(self.neutral_value, places)} on the "
            f"neutral prompt ({self.how}). Patched: {COMPONENTS[self.component]}, at one layer and position at a time; "
            f"a share of 1 is the prompt's value, 0 the neutral prompt's.{beside}"
        )

    def plot(self, **settings: Any) -> SvgFigure:
        """Draw the shares by layer and position: patched into the neutral prompt, back, and the placebos' mean.

        Args:
            **settings: Settings of :func:`dreamy_lens.figures.patch_map`.
        """
        grids = [
            ("Prompt patched into the neutral prompt: what is enough", self.denoising),
            ("Neutral prompt patched into the prompt: what is needed (1 is unchanged)", self.noising),
        ]
        if len(self.placebos):
            grids.append(("Placebo: other prompts patched into the neutral prompt, mean", self.placebos.mean(0)))
        pairs = list(zip(self.tokens, self.neutral_tokens, strict=True))
        return patch_map(grids, [f"L{i}" for i in self.layers], pairs, **settings)

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return a self-contained HTML page.

        Args:
            path: File to which the page is also written; None writes no file.
        """
        if path is not None:
            check_page(path, "patching.save(path) writes pictures, tables and JSON.")
        short, long = feature_names(self.feature)
        title = f"<h1>Activation patching of {with_tooltip(short, long)}</h1>"
        page = document(f"Activation patching of {short}", f"{title}{self.body()}{python_details(self.code)}")
        if path is not None:
            write_text(path, page)
        return page

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the shares to a file, and return its path.

        Args:
            path: File to write. Its ending decides the format: `.html` is the page, `.csv` the table, `.svg`, `.pdf`
                and `.png` the figure. `.json`, or no known ending, is the JSON that :meth:`load` reads.

        Raises:
            FileWriteError: The file cannot be written, or its ending stands for another format.
        """
        return save_as(path, self.to_dict, self.to_pandas, self.plot, self.to_html, drawn=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the shares as JSON values, which :meth:`load` reads from a file."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        lists = {name: list(getattr(self, name)) for name in _TUPLES}
        arrays = {name: without_nan(getattr(self, name)) for name in ("ids", "neutral_ids", *_GRIDS)}
        return {"format": FORMAT, "version": 1, **plain, "code": self.code, **lists, **arrays}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Patching:
        """Read what :meth:`save` wrote.

        Raises:
            RunFolderError: The file is missing or damaged, or holds something else.
        """
        data = read_json(path, FORMAT)
        try:
            shape = (len(data["layers"]), len(data["tokens"]))
            fields: dict[str, Any] = {name: data[name] for name in _PLAIN}
            fields |= {name: tuple(data[name]) for name in _TUPLES}
            fields |= {name: np.array(data[name], dtype=np.float64) for name in _GRIDS}
            fields["placebos"] = fields["placebos"].reshape(-1, *shape)
            fields |= {name: np.array(data[name], dtype=np.int64) for name in ("ids", "neutral_ids")}
            return cls(**fields, code=str(data.get("code", "")))
        except (KeyError, TypeError, ValueError) as error:
            reason = f"the entry {error} is missing" if isinstance(error, KeyError) else error
            raise RunFolderError(
                f"The file {os.fspath(path)!r} holds no complete patching: {reason}. Save it again."
            ) from None

    def __str__(self) -> str:
        table = text_table(_COLUMNS, self._rows(_SHOWN))
        more = self.denoising.size - _SHOWN
        rest = [f"and {more} more patches; patching.to_pandas() has all."] if more > 0 else []
        neutral = f"Neutral prompt: {visible(self.neutral)!r}"
        return "\n".join([self.sentence, neutral, *self.notes, "", table, *rest])

    def __repr__(self) -> str:
        short, _ = feature_names(self.feature)
        i, j = np.unravel_index(int(np.argmax(self.denoising)), self.denoising.shape)
        best = f"L{self.layers[i]} at {self.tokens[j]!r} restores {self.denoising[i, j]:.2f}"
        return f"Patching({short} on {self.prompt!r}, {self.component}: {best})"

    def _repr_html_(self) -> str:
        return fragment(self.body() + python_details(self.code))

    def _rows(self, count: int) -> list[list[str]]:
        """Return the cells of the patches that restore most."""
        order = np.argsort(-np.abs(self.denoising).ravel(), kind="stable")[:count]
        rows = []
        for at in order:
            i, j = np.unravel_index(int(at), self.denoising.shape)
            placebo = float(self.placebos[:, i, j].mean()) if len(self.placebos) else np.nan
            shares = (float(self.denoising[i, j]), placebo, float(self.noising[i, j]))
            tokens = f"{visible(self.tokens[j], token=True)!r} for {visible(self.neutral_tokens[j], token=True)!r}"
            rows.append([f"L{self.layers[i]}", str(j), *(number(x, 2) for x in shares), tokens])
        return rows

    def body(self) -> Html:
        """Return the sentence, the figure and the table."""
        notes = "".join(f'<p class="dl-note">{escape(note)}</p>' for note in self.notes)
        figure = f'<div class="dl-figure">{self.plot().inline}</div>'
        text = f"<p><strong>{prompt_text(self.prompt)}</strong></p><p>Neutral: {prompt_text(self.neutral)}</p>"
        table = html_table(_COLUMNS, self._rows(_SHOWN))
        origin = f'<p class="dl-note">{escape(self.model)}</p>'
        return Html(f"{text}<p>{escape(self.sentence)}</p>{notes}{figure}{table}{origin}")


_COLUMNS = ("layer", "position", "into neutral", "placebo", "back", "token")

"""Upstream contributions to a feature's value as data, text and HTML."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens._files import check_page, write_text
from dreamy_lens.errors import RunFolderError, SettingsError, quoted
from dreamy_lens.features.parser import feature_names
from dreamy_lens.figures.components import component_map
from dreamy_lens.html.escaping import Html, escape, visible, with_tooltip
from dreamy_lens.html.numbers import decimals, number
from dreamy_lens.html.page import document, fragment, html_table, python_details
from dreamy_lens.results.export import save_as
from dreamy_lens.results.prompt_table import prompt_text, text_table
from dreamy_lens.results.storage import read_json

if TYPE_CHECKING:
    import pandas as pd

    from dreamy_lens.figures.svg_figure import SvgFigure

FORMAT = "dreamy_lens upstream"

QUANTITIES = {
    "value": "value",
    "pre": "pre-activation",
    "unclipped": "value without its limits",
    "gate": "pre-activation of the gate",
    "up": "linear part, which the gate multiplies",
}
"""Quantities that can be decomposed, in words."""

_SHOWN = 12
"""Number of components in texts and tables."""


@dataclass(frozen=True)
class ModelComponent:
    """Component of a model that writes to the residual stream.

    Attributes:
        name: Short name, such as "L1.H3" or "L2.MLP".
        kind: "embedding", "position" (its embedding), "head", "mlp", or "attention" for one that is not divided into
            heads.
        layer: Layer; None for embeddings.
        head: Head in its layer; None for others.
    """

    name: str
    kind: str
    layer: int | None = None
    head: int | None = None


@dataclass(frozen=True)
class NeuronContribution:
    """Contribution of one neuron of an upstream MLP.

    Attributes:
        layer: Layer of the MLP.
        index: Number of the neuron.
        position: Position in the row at which it contributes most.
        activation: Activation of the neuron there.
        contribution: Contribution to the decomposed quantity, which is a part of its MLP's.
    """

    layer: int
    index: int
    position: int
    activation: float
    contribution: float

    @property
    def name(self) -> str:
        """Short name, such as "L2.N17"."""
        return f"L{self.layer}.N{self.index}"


@dataclass(frozen=True)
class Contribution:
    """Contribution of one component, one level further.

    Attributes:
        component: Component.
        contribution: Its contribution to the decomposed quantity.
        sources: Position, token and contribution of the positions that contribute most: of a head the positions that it
            attends to, of other components the positions at which they write.
        neurons: Neurons of an MLP that contribute most.
    """

    component: ModelComponent
    contribution: float
    sources: tuple[tuple[int, str, float], ...]
    neurons: tuple[NeuronContribution, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Upstream:
    """Contributions of a model's components to a feature's value on one prompt, from :func:`dreamy_lens.upstream`.

    The contributions and `bias` sum to `total`; `error` is the measured difference. Positions are those of the whole
    row that the model read, with its BOS and its template.

    Attributes:
        feature: Text form of the feature.
        model: Name of the model.
        prompt: Text of the prompt, without BOS and template.
        ids: Token ids of the row, `[P]`.
        tokens: Tokens of the row, each decoded by itself.
        start: Position of the prompt's first token in the row.
        length: Number of the prompt's tokens.
        value: Value of the feature.
        quantity: Quantity that is decomposed, one of "value", "pre" (before a nonlinearity), "unclipped" (without
            the limits of `clip()`), "gate" and "up" (of a gated MLP).
        method: "exact", or "integrated gradients" for a quantity that is no affine function of the residual stream.
        total: Value of the decomposed quantity.
        bias: Sum of what all biases contribute; for integrated gradients also the value on a stream of zeros.
        error: Difference between `total` and the sum of all contributions; for integrated gradients their completeness
            error.
        components: Components, C of them, in the order in which they write.
        contributions: Contribution of each component, float64 `[C]`.
        by_position: Contributions by position, float64 `[C, P]`: of heads by the position that is attended to, of
            others by the position at which they write. NaN where that is not known.
        neurons: Neurons that contribute most, for each MLP that is divided.
        notes: Sentences about what was held fixed or left out.
        code: Program that makes the result again, as Python; "" if it is unknown.
    """

    feature: str
    model: str
    prompt: str
    ids: np.ndarray
    tokens: tuple[str, ...]
    start: int
    length: int
    value: float
    quantity: str
    method: str
    total: float
    bias: float
    error: float
    components: tuple[ModelComponent, ...]
    contributions: np.ndarray
    by_position: np.ndarray
    neurons: tuple[NeuronContribution, ...] = ()
    notes: tuple[str, ...] = ()
    code: str = ""

    def __post_init__(self) -> None:
        count, shapes = len(self.components), (np.shape(self.contributions), np.shape(self.by_position))
        if shapes != ((count,), (count, len(self.tokens))) or np.shape(self.ids) != (len(self.tokens),):
            raise ValueError(f"The arrays of {count} components and {len(self.tokens)} tokens do not fit: {shapes}.")

    def top(self, k: int = 10, kind: str | None = None) -> list[Contribution]:
        """Return the components that contribute most in size, the largest first, each with its sources and neurons.

        Args:
            k: Number of components.
            kind: Only components of this kind, such as "head" or "mlp".
        """
        order: list[int] = np.argsort(-np.abs(self.contributions), kind="stable").tolist()
        return [self._contribution(i) for i in order if kind is None or self.components[i].kind == kind][:k]

    def _contribution(self, i: int, count: int = 3) -> Contribution:
        component, row = self.components[i], self.by_position[i]
        known = [j for j in np.argsort(-np.abs(np.nan_to_num(row)), kind="stable") if np.isfinite(row[j]) and row[j]]
        sources = tuple((int(j), self.tokens[j], float(row[j])) for j in known[:count])
        own = component.kind == "mlp"
        neurons = tuple(n for n in self.neurons if own and n.layer == component.layer)[:count]
        return Contribution(component, float(self.contributions[i]), sources, neurons)

    def to_pandas(self, by: str = "component") -> pd.DataFrame:
        """Return a table.

        Args:
            by: "component": one row per component and one for the bias, with name, kind, layer, head, contribution and
                share of the total. "position": one row per component and position, with position, token and
                contribution. "neuron": the neurons that contribute most.
        """
        import pandas as pd

        if by == "position":
            rows = [
                (c.name, c.kind, j, self.tokens[j], float(row[j]))
                for c, row in zip(self.components, self.by_position, strict=True)
                for j in range(len(self.tokens))
            ]
            return pd.DataFrame.from_records(rows, columns=["name", "kind", "position", "token", "contribution"])
        if by == "neuron":
            rows = [(n.name, n.layer, n.index, n.position, n.activation, n.contribution) for n in self.neurons]
            return pd.DataFrame.from_records(
                rows, columns=["name", "layer", "index", "position", "activation", "contribution"]
            )
        if by != "component":
            raise SettingsError(f'by is {quoted(by)}; it is "component", "position" or "neuron".')
        parts = [
            *zip(self.components, self.contributions.tolist(), strict=True),
            (ModelComponent("bias", "bias"), self.bias),
        ]
        frame = pd.DataFrame(
            {
                "name": [c.name for c, _ in parts],
                "kind": [c.kind for c, _ in parts],
                "layer": pd.array([c.layer for c, _ in parts], dtype="Int64"),
                "head": pd.array([c.head for c, _ in parts], dtype="Int64"),
                "contribution": [x for _, x in parts],
            }
        )
        frame["share"] = frame["contribution"] / self.total if self.total else np.nan
        return frame

    @property
    def sentence(self) -> str:
        """Sentence that says what was decomposed, and how well the contributions add up."""
        short, _ = feature_names(self.feature)
        places = decimals([self.total, self.value])
        what = QUANTITIES[self.quantity]
        total = f"The {what} of {short} is {number(self.total, places)}"
        value = "" if self.quantity == "value" else f" (its value is {number(self.value, places)})"
        how = "exact sum of" if self.method == "exact" else "sum, by integrated gradients, of"
        count = len(self.components)
        return f"{total}{value}: the {how} {count} components and the biases, with an error of {self.error:.1g}."

    def plot(self, **settings: Any) -> SvgFigure:
        """Draw the contributions by layer and component, and those of the largest components by position.

        Args:
            **settings: Settings of :func:`dreamy_lens.figures.component_map`.
        """
        return component_map(self, **settings)

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return a self-contained HTML page.

        Args:
            path: File to which the page is also written; None writes no file.
        """
        if path is not None:
            check_page(path, "upstream.save(path) writes pictures, tables and JSON.")
        short, long = feature_names(self.feature)
        page = document(
            f"Upstream of {short}",
            f"<h1>Upstream of {with_tooltip(short, long)}</h1>{self.body()}{python_details(self.code)}",
        )
        if path is not None:
            write_text(path, page)
        return page

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the contributions to a file, and return its path.

        Args:
            path: File to write. Its ending decides the format: `.html` is the page, `.csv` the table of components,
                `.svg`, `.pdf` and `.png` the figure. `.json`, or no known ending, is the JSON that :meth:`load` reads.

        Raises:
            FileWriteError: The file cannot be written, or its ending stands for another format.
        """
        return save_as(path, self.to_dict, self.to_pandas, self.plot, self.to_html, drawn=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the contributions as JSON values, which :meth:`load` reads from a file."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        arrays = {name: getattr(self, name).tolist() for name in ("ids", "contributions")}
        rows = [[x if np.isfinite(x) else None for x in row] for row in self.by_position.tolist()]
        parts = {name: [asdict(each) for each in getattr(self, name)] for name in ("components", "neurons")}
        lists = {name: list(getattr(self, name)) for name in ("tokens", "notes")}
        return {
            "format": FORMAT,
            "version": 1,
            **plain,
            "code": self.code,
            **lists,
            **arrays,
            "by_position": rows,
            **parts,
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Upstream:
        """Read what :meth:`save` wrote.

        Raises:
            RunFolderError: The file is missing or damaged, or holds something else.
        """
        data = read_json(path, FORMAT)
        try:
            rows = [[np.nan if x is None else x for x in row] for row in data["by_position"]]
            return cls(
                **{name: data[name] for name in _PLAIN},
                code=str(data.get("code", "")),
                ids=np.array(data["ids"], dtype=np.int64),
                tokens=tuple(data["tokens"]),
                components=tuple(ModelComponent(**each) for each in data["components"]),
                contributions=np.array(data["contributions"], dtype=np.float64),
                by_position=np.array(rows, dtype=np.float64).reshape(len(rows), len(data["tokens"])),
                neurons=tuple(NeuronContribution(**each) for each in data["neurons"]),
                notes=tuple(data["notes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            reason = f"the entry {error} is missing" if isinstance(error, KeyError) else error
            raise RunFolderError(
                f"The file {os.fspath(path)!r} holds no complete upstream contributions: {reason}. Save it again."
            ) from None

    def __len__(self) -> int:
        return len(self.components)

    def __str__(self) -> str:
        rows = self._rows(_SHOWN)
        table = text_table(("contribution", "share", "component", "from"), rows)
        more = len(self) - _SHOWN
        rest = [f"and {more} more components; upstream.to_pandas() has all."] if more > 0 else []
        return "\n".join([self.sentence, *self.notes, "", table, *rest])

    def __repr__(self) -> str:
        short, _ = feature_names(self.feature)
        largest = ", ".join(f"{c.component.name} {c.contribution:+.3g}" for c in self.top(3))
        return f"Upstream({short} on {self.prompt!r}, {self.quantity} {self.total:.4g}: {largest}, ...)"

    def _repr_html_(self) -> str:
        return fragment(self.body() + python_details(self.code))

    def _rows(self, count: int) -> list[list[str]]:
        """Return the cells of the largest components, and of the bias."""
        places = decimals([*self.contributions, self.bias])
        rows = []
        for each in self.top(count):
            shown = [f"{number(x, places, sign=True)} {visible(t, token=True)!r}" for _, t, x in each.sources]
            shown = [f"{number(n.contribution, places, sign=True)} {n.name}" for n in each.neurons] or shown
            rows.append(
                [number(each.contribution, places, sign=True), self._share(each.contribution), each.component.name]
            )
            rows[-1].append(", ".join(shown))
        rows.append([number(self.bias, places, sign=True), self._share(self.bias), "bias", ""])
        return rows

    def _share(self, x: float) -> str:
        return f"{number(100 * x / self.total, 0)} %" if self.total else "-"

    def body(self, rows: int = 10) -> Html:
        """Return the sentence, the figure and the table.

        Args:
            rows: Number of components whose contributions by position the figure has.
        """
        notes = "".join(f'<p class="dl-note">{escape(note)}</p>' for note in self.notes)
        figure = f'<div class="dl-figure">{self.plot(rows=rows).inline}</div>'
        table = html_table(("contribution", "share", "component", "from"), self._rows(_SHOWN))
        text = f"<p><strong>{prompt_text(self.prompt)}</strong></p><p>{escape(self.sentence)}</p>"
        origin = f'<p class="dl-note">{escape(self.model)}</p>'
        return Html(f"{text}{notes}{figure}{table}{origin}")


_PLAIN: Sequence[str] = (
    *("feature", "model", "prompt", "start", "length", "value"),
    *("quantity", "method", "total", "bias", "error"),
)

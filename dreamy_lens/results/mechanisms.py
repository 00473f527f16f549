"""Mechanisms of a feature as data, text and HTML: the cells of prompts that drive it in one way each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens._files import check_page, write_text
from dreamy_lens.errors import RunFolderError, SettingsError, quoted
from dreamy_lens.features.parser import feature_names
from dreamy_lens.figures.mechanisms import mechanism_frontiers, mechanism_map
from dreamy_lens.html.escaping import Html, escape, visible, with_tooltip
from dreamy_lens.html.numbers import decimals, number
from dreamy_lens.html.page import document, fragment, html_table, python_details
from dreamy_lens.html.words import plural
from dreamy_lens.results.effect import without_nan
from dreamy_lens.results.export import save_as
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.results.prompt import Prompt
from dreamy_lens.results.prompt_table import prompt_table, text_table
from dreamy_lens.results.storage import read_json

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "dreamy_lens mechanisms"

_COUNTS = ("no way", "one way", *(f"{n} ways" for n in "two three four five six seven eight nine ten".split()))
_SHOWN = 3
"""Number of prompts of a cell in texts."""


@dataclass(frozen=True)
class CellUnit:
    """Component or neuron that is characteristic of a cell.

    Attributes:
        name: Name, such as "L1.H3" or "L0.N17".
        contribution: Mean contribution on the prompts of the cell, beyond that on ordinary prompts.
        elsewhere: Mean contribution on the prompts of the other cells, beyond that on ordinary prompts; NaN for the
            only cell.
    """

    name: str
    contribution: float
    elsewhere: float


@dataclass(frozen=True)
class MechanismCell:
    """Prompts that drive a feature in one way.

    Attributes:
        name: Letter of the cell; "A" reaches the highest value.
        frontier: Dreams of the cell that no other of its dreams beats; empty for a cell of corpus windows alone.
        size: Number of examined dreams in the cell.
        share: Highest value of its dreams, as a share of the way from ordinary prompts to the maximum; NaN without any.
        units: Components and neurons that are characteristic of it, the most characteristic first.
        windows: Texts of the corpus windows in the cell, strongest first.
        window_share: Highest value of these windows, as such a share; NaN without any.
    """

    name: str
    frontier: Frontier
    size: int
    share: float
    units: tuple[CellUnit, ...]
    windows: tuple[str, ...] = ()
    window_share: float = float("nan")

    @property
    def reach(self) -> float:
        """Highest share that a dream or a window of the cell reaches."""
        return float(np.nanmax([self.share, self.window_share]))


@dataclass(frozen=True)
class TextDiversity:
    """Diversity of the texts of some prompts.

    Attributes:
        name: Prompts: "all", or the name of a cell.
        self_bleu: Mean BLEU of each prompt against all others, from the counts of 1 to 4 successive tokens, 0 to 1: 1
            if they repeat each other.
        distance: Mean cosine distance of two prompts, each the mean of the model's own token embeddings.
    """

    name: str
    self_bleu: float
    distance: float


@dataclass(frozen=True, eq=False, repr=False)
class Mechanisms:
    """Ways in which a feature is driven, from :func:`dreamy_lens.mechanisms`.

    A share of 1 is the highest value of a dream, and 0 the mean value of ordinary prompts.

    Attributes:
        feature: Text form of the feature.
        model: Name of the model.
        asked: Share that a cell must reach to count as a way.
        maximum: Highest value of a dream.
        ordinary: Mean value of prompts that the model writes.
        similar: Mean cosine of fingerprints from which on prompts are in one cell.
        examined: Number of dreams whose fingerprints were computed.
        alone: Number of those that are in no cell, because too few others are like them.
        cells: Cells (K), the strongest first.
        ablated: Component or neuron of each cell that was ablated, the most characteristic one.
        drops: Mean relative drop of the value, above that of ordinary prompts, of the prompts of each cell (row) when
            the unit of each cell (column) is ablated, float64 `[K, K]`.
        controls: Random units of the same kinds that were ablated as a control.
        control_drops: The same drops for these, float64 `[K, R]`.
        texts: Diversity of the texts: of all prompts, and of each cell.
        overlaps: Cosines of the cells' mean fingerprints, float64 `[K, K]`; None counts them as unrelated.
        notes: Sentences on what was left out.
        code: Program that makes the result again, as Python; "" if it is unknown.
    """

    feature: str
    model: str
    asked: float
    maximum: float
    ordinary: float
    similar: float
    examined: int
    alone: int
    cells: tuple[MechanismCell, ...]
    ablated: tuple[str, ...]
    drops: np.ndarray
    controls: tuple[str, ...]
    control_drops: np.ndarray
    texts: tuple[TextDiversity, ...] = ()
    overlaps: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    code: str = ""

    def __post_init__(self) -> None:
        count = len(self.cells)
        shapes = np.shape(self.drops), np.shape(self.control_drops), len(self.ablated)
        if shapes != ((count, count), (count, len(self.controls)), count):
            raise ValueError(f"The arrays of {count} cells and {len(self.controls)} controls do not fit: {shapes}.")

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, name: str | int) -> MechanismCell:
        if isinstance(name, int):
            return self.cells[name]
        found = next((cell for cell in self.cells if cell.name == name), None)
        if found is None:
            raise SettingsError(f"There is no cell {quoted(name)}; there are {', '.join(c.name for c in self.cells)}.")
        return found

    @property
    def ways(self) -> tuple[MechanismCell, ...]:
        """Cells with a dream that reaches the share that was asked for."""
        return tuple(cell for cell in self.cells if cell.share >= self.asked)

    @property
    def confirmed(self) -> tuple[bool, ...]:
        """Whether ablation confirms each cell.

        The unit of a confirmed cell lowers its own prompts more than those of every other cell, and more than every
        control lowers them.
        """
        found = []
        for i in range(len(self)):
            own, others = self.drops[i, i], np.delete(self.drops[:, i], i)
            found.append(bool(own > max([*others, *self.control_drops[i], 0.0])))
        return tuple(found)

    @property
    def polysemanticity(self) -> float:
        """Effective number of ways: 1 for one mechanism, K for K unrelated ones that reach the same share.

        It is the diversity of order 2 that takes similarity into account (Leinster and Cobbold, 2012): 1 / (p Z p),
        where p are the shares that the cells reach, divided by their sum, and Z the cosines of the cells' mean
        fingerprints, with negative ones as 0.
        """
        if not self.cells:
            return 0.0
        reach = np.array([max(cell.reach, 0.0) for cell in self.cells])
        weights = reach / max(float(reach.sum()), 1e-30)
        overlap = np.eye(len(self)) if self.overlaps is None else np.clip(self.overlaps, 0.0, 1.0)
        return float(1.0 / max(float(weights @ overlap @ weights), 1e-30))

    @property
    def sentence(self) -> str:
        """Sentence that says in how many ways the feature can be driven, and what ablation says of them."""
        short, _ = feature_names(self.feature)
        ways, yes = self.ways, dict(zip(self.cells, self.confirmed, strict=True))
        count = _COUNTS[len(ways)] if len(ways) < len(_COUNTS) else f"{len(ways)} ways"
        text = f"{short} can be driven to {100 * self.asked:.0f} % of its maximum in {count}"
        if ways:
            certain = sum(yes[cell] for cell in ways)
            one = "confirms it" if certain else "does not confirm it"
            text += f"; ablation {one if len(ways) == 1 else f'confirms {certain} of these ways'}"
        more = len(self.cells) - len(ways)
        if more:
            text += f". {more} more cell{'s' * (more > 1)} reach{'es' * (more == 1)} less"
        return f"{text}. The effective number of ways is {self.polysemanticity:.2f}."

    def to_pandas(self, by: str = "prompt") -> pd.DataFrame:
        """Return a table.

        Args:
            by: "prompt": one row per dream on a cell's frontier, with cell, value, cross_entropy, share and text.
                "cell": one row per cell. "unit": the characteristic units. "ablation": one row per cell and ablated
                unit, with the drop. "text": the diversity of the texts.
        """
        import pandas as pd

        span = (self.maximum - self.ordinary) or 1.0
        if by == "prompt":
            rows: list[tuple] = [
                (c.name, p.value, p.cross_entropy, (p.value - self.ordinary) / span, p.text)
                for c in self.cells
                for p in c.frontier
            ]
            return pd.DataFrame.from_records(rows, columns=["cell", "value", "cross_entropy", "share", "text"])
        if by == "cell":
            rows = [
                (c.name, c.size, c.share, len(c.windows), c.window_share, unit, self.drops[i, i], ok)
                for i, (c, unit, ok) in enumerate(zip(self.cells, self.ablated, self.confirmed, strict=True))
            ]
            names = ["cell", "prompts", "share", "windows", "window_share", "ablated", "drop", "confirmed"]
            return pd.DataFrame.from_records(rows, columns=names)
        if by == "unit":
            rows = [(c.name, u.name, u.contribution, u.elsewhere) for c in self.cells for u in c.units]
            return pd.DataFrame.from_records(rows, columns=["cell", "unit", "contribution", "elsewhere"])
        if by == "ablation":
            columns = [*zip(self.ablated, ["top"] * len(self), self.drops.T, strict=True)]
            columns += zip(self.controls, ["control"] * len(self.controls), self.control_drops.T, strict=True)
            rows = [
                (c.name, unit, self.cells[k].name if kind == "top" else "", kind, column[i])
                for i, c in enumerate(self.cells)
                for k, (unit, kind, column) in enumerate(columns)
            ]
            return pd.DataFrame.from_records(rows, columns=["cell", "unit", "unit_of", "kind", "drop"])
        if by == "text":
            return pd.DataFrame([asdict(each) for each in self.texts], columns=["name", "self_bleu", "distance"])
        raise SettingsError(f'by is {quoted(by)}; it is "prompt", "cell", "unit", "ablation" or "text".')

    def plot(self, kind: str = "map", **settings: Any) -> Any:
        """Draw the mechanisms.

        Args:
            kind: "map", the shares, the ablations and the diversity of the texts as SVG; or "frontiers", the frontier
                of each cell as a plotly figure.
            **settings: Settings of :func:`dreamy_lens.figures.mechanism_map` or
                :func:`dreamy_lens.figures.mechanism_frontiers`.
        """
        if kind not in ("map", "frontiers"):
            raise SettingsError(f'kind is {quoted(kind)}; it is "map" or "frontiers".')
        return mechanism_map(self, **settings) if kind == "map" else mechanism_frontiers(self, **settings)

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return a self-contained HTML page.

        Args:
            path: File to which the page is also written; None writes no file.
        """
        if path is not None:
            check_page(path, "mechanisms.save(path) writes pictures, tables and JSON.")
        short, long = feature_names(self.feature)
        page = document(
            f"Mechanisms of {short}",
            f"<h1>Mechanisms of {with_tooltip(short, long)}</h1>{self.body()}{python_details(self.code)}",
        )
        if path is not None:
            write_text(path, page)
        return page

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the mechanisms to a file, and return its path.

        Args:
            path: File to write. Its ending decides the format: `.html` is the page, `.csv` the table of prompts,
                `.svg`, `.pdf` and `.png` the figure. `.json`, or no known ending, is the JSON that :meth:`load` reads.

        Raises:
            FileWriteError: The file cannot be written, or its ending stands for another format.
        """
        return save_as(path, self.to_dict, self.to_pandas, self.plot, self.to_html, drawn=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the mechanisms as JSON values, which :meth:`load` reads from a file."""
        cells = [
            {
                **{name: getattr(c, name) for name in ("name", "size")},
                **{name: _number(getattr(c, name)) for name in ("share", "window_share")},
                "prompts": [p.to_dict() for p in c.frontier],
                "units": [{**asdict(u), "elsewhere": _number(u.elsewhere)} for u in c.units],
                "windows": list(c.windows),
            }
            for c in self.cells
        ]
        plain = {name: getattr(self, name) for name in _PLAIN}
        lists = {name: list(getattr(self, name)) for name in ("ablated", "controls", "notes")}
        arrays = {name: without_nan(getattr(self, name)) for name in ("drops", "control_drops")}
        arrays["overlaps"] = None if self.overlaps is None else self.overlaps.tolist()
        texts = [{**asdict(t), "self_bleu": _number(t.self_bleu), "distance": _number(t.distance)} for t in self.texts]
        return {
            "format": FORMAT,
            "version": 1,
            **plain,
            "code": self.code,
            **lists,
            **arrays,
            "texts": texts,
            "cells": cells,
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Mechanisms:
        """Read what :meth:`save` wrote.

        Raises:
            RunFolderError: The file is missing or damaged, or holds something else.
        """
        data = read_json(path, FORMAT)
        try:
            count = len(data["cells"])
            cells = tuple(
                MechanismCell(
                    name=c["name"],
                    frontier=Frontier(Prompt.from_dict(p) for p in c["prompts"]),
                    size=c["size"],
                    share=_float(c["share"]),
                    units=tuple(CellUnit(**{**u, "elsewhere": _float(u["elsewhere"])}) for u in c["units"]),
                    windows=tuple(c["windows"]),
                    window_share=_float(c["window_share"]),
                )
                for c in data["cells"]
            )
            return cls(
                **{name: data[name] for name in _PLAIN},
                code=str(data.get("code", "")),
                cells=cells,
                ablated=tuple(data["ablated"]),
                drops=np.array(data["drops"], dtype=np.float64).reshape(count, count),
                controls=tuple(data["controls"]),
                control_drops=np.array(data["control_drops"], dtype=np.float64).reshape(count, len(data["controls"])),
                texts=tuple(
                    TextDiversity(t["name"], _float(t["self_bleu"]), _float(t["distance"])) for t in data["texts"]
                ),
                overlaps=None if data["overlaps"] is None else np.array(data["overlaps"]).reshape(count, count),
                notes=tuple(data["notes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            reason = f"the entry {error} is missing" if isinstance(error, KeyError) else error
            raise RunFolderError(
                f"The file {os.fspath(path)!r} holds no complete mechanisms: {reason}. Save it again."
            ) from None

    def __str__(self) -> str:
        lines = [self.sentence, *self.notes, "", text_table(_CELL_COLUMNS, self._cell_rows())]
        for cell in self.cells:
            best = cell.frontier.prompts[::-1][:_SHOWN]
            lines += ["", f"{cell.name}  " + ", ".join(_unit_text(u) for u in cell.units[:4])]
            lines += [f"   {p.value:8.3f}  {p.cross_entropy:5.2f}  {visible(p.text.removeprefix(' '))}" for p in best]
            lines += [f"   corpus           {visible(text.removeprefix(' '))}" for text in cell.windows[:_SHOWN]]
        lines += ["", *self._ablation_lines()]
        lines += [f"texts of {t.name}: self-BLEU {t.self_bleu:.2f}, distance {t.distance:.2f}" for t in self.texts]
        return "\n".join(lines)

    def __repr__(self) -> str:
        short, _ = feature_names(self.feature)
        shares = ", ".join(f"{c.name} {c.reach:.2f}" for c in self.cells)
        return f"Mechanisms({short}, {plural(len(self), 'cell')}: {shares})"

    def _repr_html_(self) -> str:
        return fragment(self.body() + python_details(self.code))

    def _cell_rows(self) -> list[list[str]]:
        rows = []
        for c, unit, ok in zip(self.cells, self.ablated, self.confirmed, strict=True):
            counts = [_percent(c.share), str(c.size), _percent(c.window_share), str(len(c.windows))]
            rows.append([c.name, *counts, unit, "yes" if ok else "no"])
        return rows

    def _ablation_rows(self) -> list[list[str]]:
        rows = []
        for cell, drops, controls in zip(self.cells, self.drops, self.control_drops, strict=True):
            random = float(np.mean(controls)) if len(controls) else float("nan")
            rows.append([cell.name, *(_percent(x) for x in drops), _percent(random)])
        return rows

    def _ablation_lines(self) -> list[str]:
        if not self.cells:
            return []
        columns = ["drop", *self.ablated, "random"]
        cells = [[*row, ""] for row in self._ablation_rows()]
        return [line.rstrip() for line in text_table([*columns, ""], cells).split("\n")]

    def strongest(self, count: int) -> Mechanisms:
        """Return the strongest cells alone, with the ablations of their units.

        Args:
            count: Most cells.
        """
        if len(self) <= count:
            return self
        cells = self.cells[:count]
        names = {"all", *(cell.name for cell in cells)}
        return replace(
            self,
            cells=cells,
            ablated=self.ablated[:count],
            drops=self.drops[:count, :count],
            control_drops=self.control_drops[:count],
            texts=tuple(text for text in self.texts if text.name in names),
            overlaps=None if self.overlaps is None else self.overlaps[:count, :count],
        )

    def body(self, most: int | None = None) -> Html:
        """Return the sentence, the figures and the tables.

        Args:
            most: Most cells that are shown; None shows all of them.
        """
        if most is not None and len(self) > most:
            note = f"The page shows the strongest {plural(most, 'cell')} of {len(self)}."
            return Html(
                f"<p>{escape(self.sentence)}</p>" + replace(self.strongest(most), notes=(note, *self.notes))._parts()
            )
        return Html(f"<p>{escape(self.sentence)}</p>{self._parts()}")

    def _parts(self) -> str:
        """Return the notes, the figures and the tables."""
        notes = "".join(f'<p class="dl-note">{escape(note)}</p>' for note in self.notes)
        figure = f'<div class="dl-figure">{self.plot().inline}</div>' if self.cells else ""
        parts = [f"{notes}{figure}", html_table(_CELL_COLUMNS, self._cell_rows())]
        if self.cells:
            parts.append(html_table(["drop", *self.ablated, "random"], self._ablation_rows()))
        for cell in self.cells:
            units = ", ".join(_unit_text(u) for u in cell.units)
            parts.append(f"<h3>{escape(cell.name)}</h3><p>{escape(units)}</p>")
            if len(cell.frontier):
                parts.append(prompt_table(cell.frontier.spread(8).prompts))
            if cell.windows:
                items = "".join(f'<li><bdi dir="ltr">{escape(text)}</bdi></li>' for text in cell.windows[:8])
                parts.append(f"<p>Corpus windows:</p><ul>{items}</ul>")
        return "".join(parts) + f'<p class="dl-note">{escape(self.model)}</p>'


_CELL_COLUMNS = ("cell", "share", "prompts", "corpus share", "windows", "ablated", "confirmed")
_PLAIN: Sequence[str] = ("feature", "model", "asked", "maximum", "ordinary", "similar", "examined", "alone")


def _unit_text(unit: CellUnit) -> str:
    places = decimals([unit.contribution], 3)
    other = "" if np.isnan(unit.elsewhere) else f" (elsewhere {number(unit.elsewhere, places, sign=True)})"
    return f"{unit.name} {number(unit.contribution, places, sign=True)}{other}"


def _percent(x: float) -> str:
    return "-" if np.isnan(x) else f"{number(100 * x, 0)} %"


def _number(x: float) -> float | None:
    """Return a number for JSON, which has no NaN."""
    return float(x) if np.isfinite(x) else None


def _float(x: Any) -> float:
    return float("nan") if x is None else float(x)

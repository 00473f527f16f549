"""Result of a study: tables, charts and claims as plain data, with a page and a folder of Parquet and JSON."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens._files import check_page, expanded, failure_of, write_text, write_whole
from dreamy_lens.errors import RunFolderError
from dreamy_lens.figures.study_charts import study_figure
from dreamy_lens.html.escaping import Html, escape, visible
from dreamy_lens.html.numbers import decimals, number
from dreamy_lens.html.page import document, fragment, html_table, python_details, warning
from dreamy_lens.html.words import heading_of
from dreamy_lens.results.prompt_table import prompt_text, text_table
from dreamy_lens.results.storage import read_json

if TYPE_CHECKING:
    import pandas as pd

    from dreamy_lens.figures.svg_figure import SvgFigure

FORMAT = "dreamy_lens study"
STUDY = "study.json"
"""File that makes a folder the result of a study."""
PLAN = "study-plan.json"
"""File that makes a folder the place of a study, finished or not."""
PARTS = ("runs", "scan")
"""Beginnings of the names of folders in which a study keeps its runs and scans."""

HOLDS, FAILS, MEASURED, NOT_MEASURED = "holds", "does not hold", "measured", "not measured"
"""Verdicts of a claim. "measured" is a number without a claim of the paper beside it."""

_ROWS = 60  # rows of a table on a page
_TEXT_ROWS = 12  # rows of a table in a text


@dataclass(frozen=True)
class StudyClaim:
    """What the paper found, or what a study asks, beside what was found here.

    Attributes:
        name: Short name, such as "spread of seeds".
        question: Question or statement that the verdict is about.
        paper: What the paper found, with its numbers; "" if that is not known or the question is not the paper's.
        found: What was found here, with its numbers; "" if it was not measured.
        verdict: "holds", "does not hold", "measured" (a number without a yes or no) or "not measured".
        rule: Condition under which the verdict is "holds"; "" for other verdicts.
    """

    name: str
    question: str
    paper: str
    found: str
    verdict: str
    rule: str = ""


@dataclass(frozen=True)
class ChartSeries:
    """Points of a chart that belong together.

    Attributes:
        name: Name in the legend; series with equal names share one entry.
        x: Horizontal positions.
        y: Vertical positions, as many; NaN for a gap.
        kind: "line", "steps", "points" or "bars" (a point with its deviations).
        low: Lower ends of a band or of bars, as many as the points; empty for none.
        high: Upper ends.
        colour: Number of the colour; series with equal numbers have equal colours.
        thin: Whether the series is in the background.
        labels: Tooltip of each point; empty for none.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    kind: str = "line"
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    colour: int = 0
    thin: bool = False
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyChart:
    """Chart of a study.

    Attributes:
        title: Title.
        x_title: Title of the horizontal axis.
        y_title: Title of the vertical axis.
        series: Series, in the order in which they are drawn.
        categories: Names of the horizontal positions 0, 1, ...; empty for numbers.
        logarithmic: Whether the horizontal axis is logarithmic.
    """

    title: str
    x_title: str
    y_title: str
    series: tuple[ChartSeries, ...]
    categories: tuple[str, ...] = ()
    logarithmic: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class StudyResult:
    """Result of a study, from a function of :mod:`dreamy_lens.studies`.

    Attributes:
        name: Name of the study, such as "seeds".
        title: What the study measures.
        model: Name of the model, or of several.
        settings: Settings of the study, as JSON values.
        tables: Tables by name; the first is :attr:`table`.
        claims: Claims of the paper and questions, each beside what was found here.
        charts: Charts of :meth:`figure`.
        notes: Sentences that a reader must know, such as what is missing.
        seconds: Seconds that the call took which made this result; runs that were there already took no time.
        code: Program that makes the result again, as Python; "" if it is unknown.

    >>> import pandas as pd
    >>> claim = StudyClaim("spread", "Do seeds differ?", "", "from 1 to 3", "measured")
    >>> result = StudyResult("seeds", "Seeds", "embedded", {}, {"runs": pd.DataFrame({"value": [1.0, 3.0]})}, (claim,))
    >>> result.table["value"].tolist(), result
    ([1.0, 3.0], StudyResult(seeds on embedded: 2 rows, 1 claim))
    """

    name: str
    title: str
    model: str
    settings: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    claims: tuple[StudyClaim, ...] = ()
    charts: tuple[StudyChart, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = math.nan
    code: str = ""

    @property
    def table(self) -> pd.DataFrame:
        """Main table."""
        return next(iter(self.tables.values()))

    def to_pandas(self, name: str | None = None) -> pd.DataFrame:
        """Return a table.

        Args:
            name: Name of the table, one of :attr:`tables`; None is the main one, and "claims" the claims.
        """
        import pandas as pd

        if name == "claims":
            columns = [f.name for f in dataclasses.fields(StudyClaim)]
            return pd.DataFrame([asdict(claim) for claim in self.claims], columns=columns)
        if name is not None and name not in self.tables:
            known = ", ".join(map(repr, [*self.tables, "claims"]))
            raise RunFolderError(f"The study {self.name} has no table {name!r}; it has {known}.")
        return self.table if name is None else self.tables[name]

    def figure(self, **settings: Any) -> SvgFigure:
        """Draw the charts, as an SVG that needs no browser.

        Args:
            **settings: Settings of :func:`dreamy_lens.figures.study_figure`: `columns`, `width`.
        """
        return study_figure(self.charts, self.title, **settings)

    plot = figure

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return a self-contained page: claims, figure, tables and settings, without scripts or network access.

        Args:
            path: File to which the page is also written; None writes no file.
        """
        if path is not None:
            check_page(path, "study.save(folder) writes Parquet and JSON; study.figure().save(path) the figure.")
        page = document(self._heading, f"<h1>{escape(self._heading)}</h1>{self._body(_ROWS)}", styles=("study.css",))
        if path is not None:
            write_text(path, page)
        return page

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the result to a folder, a Parquet file for each table and `study.json`, and return the folder.

        The folder may be the `out` of the study, whose runs stay.

        Raises:
            RunFolderError: The folder holds something else or another study, or cannot be written.
        """
        place = expanded(folder)
        check_study_folder(place)
        _check_name(place, self.name)
        try:
            for name, frame in self.tables.items():
                stream = io.BytesIO()
                _writable(frame).to_parquet(stream, index=False)
                write_whole(place / f"{name}.parquet", stream.getvalue())
            names = ("name", "title", "model", "notes", "seconds", "code")
            content = {
                **{"format": FORMAT, "version": 1, **{n: getattr(self, n) for n in names}},
                **{"settings": dict(self.settings), "tables": list(self.tables)},
                **{n: [asdict(each) for each in getattr(self, n)] for n in ("claims", "charts")},
            }
            write_whole(place / STUDY, json.dumps(_plain(content), allow_nan=False).encode("ascii"))
        except OSError as error:
            raise RunFolderError(f"The study cannot be saved in {str(place)!r}: {failure_of(error)}") from error
        return place

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> StudyResult:
        """Read a result that :meth:`save` wrote. This needs no model.

        Raises:
            RunFolderError: The folder is missing or damaged, or holds something else.
        """
        import pandas as pd

        place = expanded(folder)
        data = read_json(place / STUDY, FORMAT)
        try:
            tables = {str(name): pd.read_parquet(place / f"{name}.parquet") for name in data["tables"]}
            charts = tuple(_chart(each) for each in data["charts"])
            seconds = math.nan if data["seconds"] is None else float(data["seconds"])
            return cls(
                **{n: data[n] for n in ("name", "title", "model", "settings")},
                notes=tuple(data["notes"]),
                tables=tables,
                claims=tuple(StudyClaim(**each) for each in data["claims"]),
                charts=charts,
                seconds=seconds,
                code=str(data.get("code", "")),
            )
        except (KeyError, TypeError, ValueError, OSError) as error:
            reason = f"the entry {error} is missing" if isinstance(error, KeyError) else error
            if isinstance(error, FileNotFoundError):  # pandas does not always say which
                files = (f"{name}.parquet" for name in data["tables"])
                reason = f"the file {next((f for f in files if not (place / f).is_file()), error.filename)} is missing"
            raise RunFolderError(
                f"The folder {str(place)!r} holds no complete study: {reason}. Repeat the study with out= this folder."
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Return claims, notes and settings as JSON values; the tables are apart."""
        plain = {n: getattr(self, n) for n in ("name", "title", "model", "settings", "notes", "seconds")}
        return {**plain, "claims": [asdict(claim) for claim in self.claims]}

    def __repr__(self) -> str:
        rows, claims = len(self.table), len(self.claims)
        counts = f"{rows} row{'s' * (rows != 1)}, {claims} claim{'s' * (claims != 1)}"
        return f"StudyResult({self.name} on {visible(self.model)}: {counts})"

    def __str__(self) -> str:
        lines = [self._heading, *self.notes, ""]
        for claim in self.claims:
            paper = f"\n    paper: {claim.paper}" if claim.paper else ""
            found = f"\n    here:  {claim.found}" if claim.found else ""
            rule = f" ({claim.rule})" if claim.rule else ""
            lines.append(f"[{claim.verdict}] {claim.question}{rule}{paper}{found}")
        columns, rows = _cells(self.table, _TEXT_ROWS)
        more = len(self.table) - _TEXT_ROWS
        rest = [f"and {more} more rows; study.table has all."] if more > 0 else []
        return "\n".join([*lines, "", text_table(columns, [[visible(str(c)) for c in row] for row in rows]), *rest])

    def _repr_html_(self) -> str:
        return fragment(f"<p><strong>{escape(self._heading)}</strong></p>{self._body(_TEXT_ROWS)}", "study.css")

    @property
    def _heading(self) -> str:
        return f"{self.title}, on {self.model}"

    def _body(self, count: int) -> Html:
        """Return notes, claims, figure, tables with at most `count` rows, and settings."""
        notes = "".join(warning(note) for note in self.notes)
        claims = _claims(self.claims) if self.claims else ""
        figure = f'<div class="dl-figure">{self.figure().svg}</div>' if self.charts else ""
        tables = ""
        for name, frame in self.tables.items():
            columns, cells = _cells(frame, count)
            shown = f", the first {count} of {len(frame)}" if len(frame) > count else ""
            last = [[*row[:-1], prompt_text(str(row[-1]))] for row in cells]
            table = html_table([heading_of(column) for column in columns], last)
            tables += f"<h2>{escape(name)}{shown}</h2>{table}"
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings.items() if value is not None)
        took = "" if math.isnan(self.seconds) else f" The call took {self.seconds:.0f} s."
        origin = f'<p class="dl-note">Settings: {escape(settings)}.{took}</p>'
        return Html(f"{notes}{claims}{figure}{tables}{origin}{python_details(self.code)}")


def check_study_folder(folder: Path) -> None:
    """Raise RunFolderError if a folder holds something else than a study."""
    if folder.is_dir():
        names = [file.name for file in folder.iterdir() if not file.name.startswith(".")]
        if not names or STUDY in names or PLAN in names:
            return
        shown = ", ".join(sorted(names)[:4])
        raise RunFolderError(
            f"{str(folder)!r} holds something else than a study ({shown}); choose another folder, or an empty one."
        )
    if folder.exists():
        raise RunFolderError(f"{str(folder)!r} is a file; a study is a folder. Choose another name.")


def _check_name(folder: Path, name: str) -> None:
    """Raise RunFolderError if a folder holds another study: a result or the runs of one."""
    for file in (folder / PLAN, folder / STUDY):
        try:
            known = str(json.loads(file.read_bytes())["name"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a damaged file is replaced
        if known != name:
            raise RunFolderError(f"{str(folder)!r} holds the study {known}; choose another folder for {name}.")


def _question(claim: StudyClaim) -> Html:
    rule = f' <span class="dl-note">({escape(claim.rule)})</span>' if claim.rule else ""
    return Html(escape(claim.question) + rule)


def _claims(claims: Sequence[StudyClaim]) -> str:
    """Return a table of sentences, which wrap, unlike the numbers of other tables."""
    columns = ("question", "verdict", "here", "in the paper")
    rows = [(_question(c), escape(c.verdict), escape(c.found or "-"), escape(c.paper or "-")) for c in claims]
    head = "".join(f"<th>{column}</th>" for column in columns)
    body = ""
    for row in rows:
        cells = [f'<td data-of="{column}">{cell}</td>' for column, cell in zip(columns, row, strict=True)]
        body += f"<tr>{''.join(cells)}</tr>"
    return f'<table class="dl-claims"><tr>{head}</tr>{body}</table>'


def _cells(frame: pd.DataFrame, count: int) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells of a table's first rows; the column text is last, and ids are left out."""
    names = [str(c) for c in frame.columns if c not in ("ids", "tokens")]
    names = [n for n in names if n != "text"] + ["text"] * ("text" in names)
    columns = []
    for name in names:
        values = frame[name].tolist()[:count]
        numeric = [v for v in values if isinstance(v, float) and math.isfinite(v)]
        places = decimals(numeric, 4) if numeric else 0
        columns.append([_cell(v, places) for v in values])
    return names, [list(row) for row in zip(*columns, strict=True)]


def _cell(value: Any, places: int) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return number(value, places)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value).removeprefix(" ")


def _writable(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose texts have a UTF-8 form: halves of characters become question marks."""
    copy = frame.copy()
    for name in copy.columns:
        if any(isinstance(v, str) for v in copy[name]):
            copy[name] = [v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for v in copy[name]]
    return copy


def _chart(data: dict[str, Any]) -> StudyChart:
    series = []
    for each in data["series"]:
        numbers = {n: tuple(math.nan if v is None else v for v in each[n]) for n in ("x", "y", "low", "high")}
        series.append(ChartSeries(**{**each, **numbers, "labels": tuple(each["labels"])}))
    return StudyChart(**{**data, "series": tuple(series), "categories": tuple(data["categories"])})


def _plain(value: Any) -> Any:
    """Return JSON values; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)

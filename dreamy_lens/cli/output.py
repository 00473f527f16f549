"""What commands print: a text, or with `--json` one JSON document; and tables, with `--csv`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dreamy_lens._files import write_text
from dreamy_lens.cli.options import report_file, write_page

_TABLE = "table"


def add_output(parser: argparse.ArgumentParser, table: str = "") -> None:
    """Add the option `--json`, and `--csv` for a result that has a table.

    Args:
        parser: Parser that gets the options.
        table: What the table has, as in "the frontier"; "" adds no `--csv`.
    """
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document instead of a text")
    if table:
        parser.add_argument("--csv", metavar="FILE", help=f"write a table of {table} as CSV")


def print_result(
    result: Any,
    options: argparse.Namespace,
    as_text: Callable[[], object],
    document: Mapping[str, Any] | None = None,
    table: Callable[[], Any] | None = None,
    page: Any = None,
) -> None:
    """Print a result as text or as JSON, and write its table and its page, if the options name files for them.

    Args:
        result: Result of the command.
        options: Options of :func:`add_output`, and perhaps of `add_page`.
        as_text: Function that prints the result as text.
        document: JSON document of the result; None makes it from the result.
        table: Function that returns the table of the result; None is `result.to_pandas`.
        page: Object that writes the page; None is the result.
    """
    if options.json:
        print_json(document_of(result) if document is None else document)
    else:
        as_text()
    if getattr(options, "csv", None):
        frame = result.to_pandas() if table is None else table()
        write_text(options.csv, frame.to_csv(index=False))
        report_file(options.csv, options)
    if getattr(options, "html", None):
        write_page(result if page is None else page, options)


def print_json(document: Mapping[str, Any]) -> None:
    """Print a JSON document; numbers that JSON does not have, such as NaN, become null."""
    print(json.dumps(plain(document), indent=2, allow_nan=False))


def document_of(result: Any) -> dict[str, Any]:
    """Return the JSON document of a result: its kind, what its text says, and the rows of its table.

    Args:
        result: Result that `dl.load` can open.
    """
    kind = type(result).__name__
    document: dict[str, Any] = {"kind": kind}
    if kind == "Dream":
        origin = result.provenance
        document |= {"feature": origin.feature, "model": origin.model, "seed": result.config.seed}
        document |= {"iteration": result.iteration, "status": result.status, "prompts": len(result.history)}
        document |= {"note": result.frontier.note or None, "folder": result.folder and str(result.folder)}
    elif kind == "Dreams":
        document["runs"] = [document_of(run) for run in result]
        document["merged"] = [document_of(merged) for merged in result.merged()]
        return document
    elif kind == "Merged":
        origin = result.runs[0].provenance
        document |= {"feature": origin.feature, "model": origin.model}
        document |= {"seeds": [run.provenance.seed for run in result.runs], "note": result.frontier.note or None}
        document[_TABLE] = rows_of(result.frontier)
        return document
    elif kind == "Frontier":
        document["note"] = result.note or None
    elif kind == "Attribution":
        names = ("feature", "value", "cross_entropy", "ids", "tokens", "drop_to_worst", "drop_to_best")
        document |= {name: getattr(result, name) for name in names}
    elif kind in ("Upstream", "Mechanisms", "Steering", "Ablation", "Patching"):
        # The kind of an ablation has another name here, because "kind" is that of the result.
        content = {name: x for name, x in result.to_dict().items() if name not in ("format", "version")}
        if "kind" in content:
            content["replacement"] = content.pop("kind")
        document |= content
    elif kind == "StudyResult":
        document |= result.to_dict()
        document["tables"] = {name: frame.to_dict("records") for name, frame in result.tables.items()}
    elif kind == "Sweep":
        document |= {"features": result.features, "seeds": result.seeds, "settings": result.settings}
    elif kind == "Examples":
        document |= {"model": result.model, "corpus": result.corpus, "settings": result.settings}
        document |= {"counts": result.counts, "folder": result.folder and str(result.folder)}
        document[_TABLE] = [
            {**row, "windows_kept": rows_of(result.of(number))} for number, row in enumerate(rows_of(result))
        ]
        return document
    elif kind == "Comparison":
        document |= {"feature": result.feature, "model": result.model, "corpus": result.scanned.corpus}
        document |= {"sentence": result.sentence, "statements": [each.text for each in result.statements]}
        document |= {"findings": result.findings, "warnings": result.warnings}
    document[_TABLE] = rows_of(result)
    return document


def rows_of(result: Any) -> list[dict[str, Any]]:
    """Return the rows of a result's table."""
    return result.to_pandas().to_dict("records")


def plain(value: Any) -> Any:
    """Return a value made of what JSON has: arrays and tuples become lists, numbers that are not finite become null.

    >>> plain({"value": float("nan"), "ids": (1, 2)})
    {'value': None, 'ids': [1, 2]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    return None if type(value).__name__ in ("NAType", "NaTType") else str(value)

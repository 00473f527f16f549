"""Write a result in the format that the ending of the file's name stands for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamy_lens._files import PAGES, TABLES, check_ending, check_file, ending_of, write_text
from dreamy_lens.figures.export import IMAGES, check_image, save
from dreamy_lens.results.storage import write_json

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dreamy_lens.figures.protocols import DrawnFigure


def check_format(path: str | os.PathLike[str], drawn: bool = False) -> None:
    """Check, before work begins, that a result can be written to a file in the format that its name promises.

    Args:
        path: File that will be written.
        drawn: Whether the result's figure is SVG, which needs neither kaleido nor a browser.

    Raises:
        FileWriteError: The file cannot be written, or its ending stands for another format.
        DreamyLensError: A picture cannot be drawn; the message says what is missing.
    """
    check_ending(path, ("json", *TABLES, *PAGES, *IMAGES), "JSON, a table, a picture or a page")
    check_file(path)
    if ending_of(path) in IMAGES:
        check_image(path, drawn)


def save_as(
    path: str | os.PathLike[str],
    content: Callable[[], dict[str, Any]],
    table: Callable[[], pd.DataFrame],
    figure: Callable[[], go.Figure | DrawnFigure],
    page: Callable[[], str] | None = None,
    drawn: bool = False,
    **sizes: Any,
) -> Path:
    """Write a result as JSON, as a table, as a picture or as a page, by the ending of the file's name.

    Args:
        path: File to write. `.json`, and any ending that stands for no format, gives the JSON that `load` reads.
        content: Function that returns the JSON values.
        table: Function that returns the table for `.csv`.
        figure: Function that returns the figure for `.svg`, `.pdf`, `.png`, `.jpg` and `.webp`.
        page: Function that returns the page for `.html`; None writes the figure as a page.
        drawn: Whether the figure is SVG, which needs neither kaleido nor a browser.
        **sizes: Sizes of a picture: keywords of :func:`dreamy_lens.figures.save`.

    Returns:
        Path of the file.

    Raises:
        FileWriteError: The file cannot be written, or its ending stands for another format.
        DreamyLensError: A picture cannot be drawn; the message says what is missing.
    """
    ending = os.path.splitext(os.fspath(path))[1][1:].lower()
    check_format(path, drawn)
    if ending in TABLES:
        return write_text(path, table().to_csv(index=False))
    if ending in PAGES and page is not None:
        return write_text(path, page())
    if ending in (*PAGES, *IMAGES):
        return save(figure(), path, **sizes)
    return write_json(path, content())

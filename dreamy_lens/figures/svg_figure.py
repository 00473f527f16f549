"""Figures made of text and boxes: SVG for papers, drawn without a browser, and the widths of their texts."""

from __future__ import annotations

import base64
import os
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from dreamy_lens._files import check_page, write_text
from dreamy_lens.html.escaping import escape, visible
from dreamy_lens.html.page import document

if TYPE_CHECKING:
    import plotly.graph_objects as go

MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"
SANS = "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"

CELL = 0.61
"""Width of a letter of the monospaced fonts, as a share of the size of the font; the widest of them has 0.602."""

TEXT, QUIET, LINE = "#1b1e23", "#4a515b", "#8a929c"
"""Colours of text, of less important text and of lines, on white."""


def text_cells(text: str) -> int:
    """Return the width of a visible text in letters: two for each wide character, none for each accent.

    >>> text_cells("file"), text_cells("日本"), text_cells("e\u0301")
    (4, 4, 1)
    """
    cells = 0
    for c in text:
        category = unicodedata.category(c)
        if category in ("Mn", "Me") or c in "\u200c\u200d\ufe0f":
            continue
        wide = unicodedata.east_asian_width(c)
        # Symbols that no monospaced font has come from other fonts, in which they may be wide.
        cells += 2 if wide in "WF" or (category in ("So", "Mc") and ord(c) > 0xFF) else 1
    return cells


def shortened(text: str, cells: int) -> str:
    """Return a text that is at most `cells` letters wide; … stands for the rest of a longer one."""
    if text_cells(text) <= cells:
        return text
    kept = ""
    for c in text:
        if text_cells(kept + c) > cells - 1:
            break
        kept += c
    return kept + "…"


def token_name(token: str, cells: int) -> str:
    """Return a token with every character visible, at most `cells` letters wide."""
    return shortened(visible(token, token=True), cells)


def text_element(
    x: float,
    y: float,
    text: str,
    size: float,
    *,
    mono: bool = True,
    anchor: str = "start",
    colour: str = TEXT,
    bold: bool = False,
) -> str:
    """Return a line of text as an SVG element. It is escaped, and as wide as :func:`text_cells` says in any font.

    Args:
        x: Position of the anchor, from the left.
        y: Position of the base line, from the top.
        text: Visible text.
        size: Size of the font.
        mono: Whether the font is monospaced.
        anchor: Part of the text that is at `x`: start, middle or end.
        colour: Colour of the text.
        bold: Whether the text is bold.
    """
    more = ' font-weight="600"' if bold else ""
    # Letters that the font lacks come from other fonts. A fixed length keeps them off the text beside them, and works
    # for either writing direction.
    if mono and not text.isascii() and text_cells(text):
        more += f' textLength="{text_cells(text) * CELL * size:.1f}" lengthAdjust="spacingAndGlyphs"'
    kind = "m" if mono else "s"
    place = "" if anchor == "start" else f' text-anchor="{anchor}"'
    fill = "" if colour == TEXT else f' fill="{colour}"'
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" font-size="{size:g}"{place}{fill}{more}>{escape(text)}</text>'


class SvgFigure:
    """Figure of text and boxes on white, for papers: an SVG without scripts, which any program for graphics opens.

    Notebooks show it. :meth:`save` writes it as .svg, .pdf, .png or as a page.

    Args:
        content: SVG elements.
        width: Width in pixels, 96 to the inch.
        height: Height in pixels.
        title: Description for screen readers, and title of the page.

    Attributes:
        svg: SVG, a complete document.
        width: Width in pixels, 96 to the inch.
        height: Height in pixels.
        title: Description for screen readers, and title of the page.
    """

    def __init__(self, content: str, width: float, height: float, title: str) -> None:
        self.width, self.height, self.title = round(width), round(height + 0.5), title
        fonts = f".m{{font-family:{MONO};white-space:pre}}.s{{font-family:{SANS}}}"
        self.svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}" role="img" xml:space="preserve" fill="{TEXT}">'
            f"<title>{escape(title)}</title><style>{fonts}</style>"
            f'<rect width="100%" height="100%" fill="#fff"/>{content}</svg>'
        )

    def save(self, path: str | os.PathLike[str], scale: float = 2.0) -> Path:
        """Write the figure to a file, and return its path.

        Args:
            path: File to write. `.svg` and `.html` need nothing else; `.pdf`, `.png`, `.jpg` and `.webp` are drawn as
                :func:`dreamy_lens.figures.save` draws them.
            scale: Pixels of a `.png`, `.jpg` or `.webp` for each pixel of the figure.

        Raises:
            DreamyLensError: The ending is unknown, or what draws images is missing; the message says what to do.
            FileWriteError: The file cannot be written.
        """
        from dreamy_lens.figures.export import save

        return save(self, path, scale=scale)

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the figure as a page without scripts.

        Args:
            path: File to which the page is also written; None writes no file.
        """
        if path is not None:
            check_page(path, "figure.save(path) writes pictures.")
        page = document(self.title, f'<div class="dl-figure">{self.svg}</div>')
        if path is not None:
            write_text(path, page)
        return page

    def to_plotly(self) -> go.Figure:
        """Return a plotly figure that shows the drawing as vectors, which kaleido writes in every format."""
        import plotly.graph_objects as go

        source = "data:image/svg+xml;base64," + base64.b64encode(self.svg.encode("utf-8")).decode("ascii")
        hidden = {"visible": False, "range": [0, 1]}
        where = {"xref": "paper", "yref": "paper", "x": 0, "y": 1, "sizex": 1, "sizey": 1, "sizing": "stretch"}
        return go.Figure(
            layout={
                "width": self.width,
                "height": self.height,
                "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
                "paper_bgcolor": "#ffffff",
                "plot_bgcolor": "#ffffff",
                "xaxis": hidden,
                "yaxis": hidden,
                "images": [{"source": source, **where}],
            }
        )

    @property
    def inline(self) -> str:
        """The SVG for use inside a page of HTML: without the namespace, and never wider than its container."""
        return self.svg.replace('<svg xmlns="http://www.w3.org/2000/svg"', '<svg style="max-width:100%;height:auto"', 1)

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"SvgFigure({self.title!r}, {self.width} by {self.height} pixels)"

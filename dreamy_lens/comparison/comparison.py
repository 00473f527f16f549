"""Comparison of dreams and windows of one feature, the result of `dreamy_lens.compare`."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamy_lens._files import check_page, write_text
from dreamy_lens._host import working
from dreamy_lens.comparison.content import ComparisonContent
from dreamy_lens.comparison.figure import comparison_figure
from dreamy_lens.comparison.page import comparison_fragment, comparison_page
from dreamy_lens.comparison.storage import comparison_to_dict, read_comparison
from dreamy_lens.html.words import plural
from dreamy_lens.results.export import save_as

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(ComparisonContent):
    """Comparison of dreams with the windows of a corpus, as a table, a figure and a page.

    The data are in the base class :class:`dreamy_lens.comparison.content.ComparisonContent`: `.sentence`,
    `.statements`, `.frontier`, `.top`, `.hypervolume()` and more.
    """

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row per dream of the frontier and per window of the comparison.

        The columns are side ("dream", "top", "fluent", "quantile 0.99", ...), value, cross_entropy, perplexity, text,
        beyond (whether no window that is at least as fluent is as strong; only for dreams), seed, iteration, document,
        character, shared_tokens, shared_in, nearest, distance, ids and tokens.
        """
        import pandas as pd

        rows = []
        for prompt, beyond, overlap in zip(self.frontier, self.beyond, self.overlaps, strict=True):
            near, shared = overlap.nearest, overlap.longest
            rows.append(
                {"side": "dream", **_scores(prompt), "beyond": beyond}
                | {"seed": prompt.provenance.seed, "iteration": prompt.provenance.iteration}
                | {"shared_tokens": shared.length, "shared_in": shared.document or None}
                | {"nearest": near and near.window.text, "distance": near and near.distance}
                | {"ids": prompt.ids, "tokens": prompt.tokens}
            )
        groups = [("top", self.top), ("fluent", self.fluent), *((f"quantile {q:g}", w) for q, w in self.quantiles)]
        for side, windows in groups:
            for w in windows:
                origin = {"document": w.document, "character": w.character}
                rows.append({"side": side, **_scores(w), **origin, "ids": w.ids, "tokens": w.tokens})
        names = ["side", "value", "cross_entropy", "perplexity", "text", "beyond", "seed", "iteration", "document"]
        names += ["character", "shared_tokens", "shared_in", "nearest", "distance", "ids", "tokens"]
        frame = pd.DataFrame(rows, columns=names)
        integers = ("seed", "iteration", "character", "shared_tokens", "distance")
        return frame.astype({"beyond": "boolean", **dict.fromkeys(integers, "Int64")})

    def figure(self, **settings: Any) -> go.Figure:
        """Draw value against cross-entropy, as in Figure 3 of the paper.

        Args:
            **settings: Settings of `comparison_figure`: `dark`, `cloud`.
        """
        return comparison_figure(self, **settings)

    def to_html(self, path: str | os.PathLike[str] | None = None, *, top: int = 64, dreams: int = 64) -> str:
        """Return one self-contained page. It needs neither a kernel nor a network, and is readable without scripts.

        Args:
            path: File to which the page is also written; None writes no file.
            top: Number of strongest windows on the page.
            dreams: Most dreams on the page, spread from fluent to strong.
        """
        if path is not None:
            check_page(path, "figures.save(comparison.figure(), path) writes pictures.")
        with working("Making the page"):
            text = comparison_page(self, top=top, dreams=dreams)
        if path is not None:
            write_text(path, text)
        return text

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the comparison to a file, and return its path.

        Args:
            path: File to write. Its ending decides the format: `.html` is the page, `.csv` the table, and `.svg`,
                `.pdf` and `.png` are the figure. `.json`, or no known ending, is the JSON that :meth:`load` reads; it
                has everything that the page, the figure, the table and the sentences need.

        Raises:
            FileWriteError: The file cannot be written, or its ending stands for another format.

        >>> import tempfile, dreamy_lens as dl
        >>> run = dl.dream("L2.N17", iterations=2, population=2, children=4, length=6)
        >>> examples = dl.max_activating("L2.N17", corpus=["Return a copy of the array.", "Open the file."], length=6)
        >>> comparison = dl.compare(run, examples)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     dl.load(comparison.save(f"{folder}/comparison.json")).sentence == comparison.sentence
        True
        """
        return save_as(path, lambda: comparison_to_dict(self), self.to_pandas, self.figure, self.to_html)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Comparison:
        """Read a comparison that :meth:`save` wrote. No model is loaded.

        Raises:
            RunFolderError: The file is missing or damaged, is not a comparison, or has another version of the format.
        """
        return cls(**read_comparison(path))

    def _repr_html_(self) -> str:
        return comparison_fragment(self)

    def __repr__(self) -> str:
        return (
            f"Comparison({self.title} on {self.model}, {plural(len(self.frontier), 'dream')} against "
            f"{plural(self.scanned.windows, 'window')} of {self.scanned.corpus})"
        )

    def __str__(self) -> str:
        return f"{self.title} on {self.model}, dreams against {self.scanned.corpus}\n{self.summary}"


def _scores(entry: Any) -> dict[str, Any]:
    """Return the scores and the text of a prompt or a window; NaN for scores that are unknown."""
    perplexity = math.nan if entry.perplexity is None else entry.perplexity
    cross_entropy = math.nan if entry.cross_entropy is None else entry.cross_entropy
    return {"value": entry.value, "cross_entropy": cross_entropy, "perplexity": perplexity, "text": entry.text}

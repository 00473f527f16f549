"""Dreams and windows of one feature side by side: what `dreamy_lens.compare` returns."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dreamy_lens._files import write_text
from dreamy_lens.comparison.content import ComparisonContent
from dreamy_lens.comparison.figure import comparison_figure
from dreamy_lens.comparison.page import comparison_fragment, comparison_page
from dreamy_lens.html.words import plural

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(ComparisonContent):
    """Dreams against the windows of a corpus, as a table, a figure and a page.

    Its data and what follows from them are those of :class:`dreamy_lens.comparison.content.ComparisonContent`:
    `.sentence`, `.statements`, `.frontier`, `.top`, `.hypervolume()`.
    """

    def to_pandas(self) -> pd.DataFrame:
        """One row per dream of the frontier and per window that is shown.

        Columns: side ("dream", "top", "fluent", "quantile 0.99", ...), value, cross_entropy, perplexity, text, beyond
        (whether no window at least as fluent is as strong; of dreams), seed, iteration, document, character,
        shared_tokens, shared_in, nearest, distance, ids, tokens.
        """
        import pandas as pd

        rows = []
        for prompt, beyond, overlap in zip(self.frontier, self.beyond, self.overlaps, strict=True):
            near, most = overlap.nearest, overlap.most
            rows.append(
                {"side": "dream", **_scores(prompt), "beyond": beyond}
                | {"seed": prompt.provenance.seed, "iteration": prompt.provenance.iteration}
                | {"shared_tokens": most.length, "shared_in": most.document or None}
                | {"nearest": near and near.window.text, "distance": near and near.distance}
                | {"ids": prompt.ids, "tokens": prompt.tokens}
            )
        groups = [("top", self.top), ("fluent", self.fluent), *((f"quantile {q:g}", w) for q, w in self.quantiles)]
        for side, windows in groups:
            for w in windows:
                place = {"document": w.document, "character": w.character}
                rows.append({"side": side, **_scores(w), **place, "ids": w.ids, "tokens": w.tokens})
        names = ["side", "value", "cross_entropy", "perplexity", "text", "beyond", "seed", "iteration", "document"]
        names += ["character", "shared_tokens", "shared_in", "nearest", "distance", "ids", "tokens"]
        frame = pd.DataFrame(rows, columns=names)
        whole = ("seed", "iteration", "character", "shared_tokens", "distance")
        return frame.astype({"beyond": "boolean", **dict.fromkeys(whole, "Int64")})

    def figure(self, **settings: Any) -> go.Figure:
        """Value against cross-entropy, as in Figure 3 of the paper; settings as for `comparison_figure`."""
        return comparison_figure(self, **settings)

    def to_html(self, path: str | os.PathLike[str] | None = None, *, top: int = 64, dreams: int = 64) -> str:
        """One self-contained page, which needs no kernel and no network, and reads without scripts too.

        Args:
            path: a file to write it to as well.
            top: how many of the strongest windows it has.
            dreams: how many dreams, spread from fluent to strong.

        Returns:
            The page.
        """
        text = comparison_page(self, top=top, dreams=dreams)
        if path is not None:
            write_text(path, text)
        return text

    def _repr_html_(self) -> str:
        return comparison_fragment(self)

    def __repr__(self) -> str:
        return (
            f"Comparison({self.title} on {self.model}, {plural(len(self.frontier), 'dream')} against "
            f"{plural(self.scanned.windows, 'window')} of {self.scanned.corpus})"
        )

    def __str__(self) -> str:
        return f"{self.title} on {self.model}, dreams against {self.scanned.corpus}\n{self.summary}"


def _scores(text: Any) -> dict[str, Any]:
    perplexity = math.nan if text.perplexity is None else text.perplexity
    cost = math.nan if text.cross_entropy is None else text.cross_entropy
    return {"value": text.value, "cross_entropy": cost, "perplexity": perplexity, "text": text.text}

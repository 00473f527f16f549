"""Examples of one feature: windows of a corpus, as a table and as a page."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from dreamy_lens._files import check_page, write_text
from dreamy_lens._host import working
from dreamy_lens.scan.feature_windows import FeatureWindows
from dreamy_lens.scan.page import examples_fragment, examples_page
from dreamy_lens.scan.window import scanned_part

if TYPE_CHECKING:
    import pandas as pd


class FeatureExamples(FeatureWindows):
    """Examples of one feature, with methods that return a table and a page.

    The windows and the statistics are attributes of :class:`dreamy_lens.scan.feature_windows.FeatureWindows`: `.top`,
    `.fluent`, `.quantile(q)`, `.frontier`, `.mean`.
    """

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row per kept window.

        The columns are kind, rank, value, cross_entropy, perplexity, text, document, character, before, after, window,
        ids, tokens and values.
        """
        import pandas as pd

        ranks = {kind: [row["rank"] for row in self._rows if row["kind"] == kind] for kind in ("top", "fluent")}
        kept = {"top": self.top, "fluent": self.fluent}
        rows = [(kind, rank, w) for kind in kept for rank, w in zip(ranks[kind], kept[kind], strict=True)]
        plain = ("value", "cross_entropy", "perplexity", "text", "document", "character", "before", "after")
        columns: dict[str, list[Any]] = {"kind": [k for k, _, _ in rows], "rank": [i for _, i, _ in rows]}
        columns |= {name: [getattr(w, name) for _, _, w in rows] for name in plain}
        columns |= {"window": [w.number for _, _, w in rows]}
        columns |= {name: [getattr(w, name) for _, _, w in rows] for name in ("ids", "tokens", "values")}
        return pd.DataFrame(columns)

    def to_html(self, path: str | os.PathLike[str] | None = None, *, top: int = 64) -> str:
        """Return the examples as one self-contained page, without scripts or network access.

        Args:
            path: File to write the page to; None writes no file.
            top: Number of the strongest windows to show.

        Returns:
            HTML of the page.
        """
        if path is not None:
            check_page(path)
        with working("Making the page"):
            text = examples_page(self, top)
        if path is not None:
            write_text(path, text)
        return text

    def _repr_html_(self) -> str:
        return examples_fragment(self)

    def __len__(self) -> int:
        return len(self.top)

    def __repr__(self) -> str:
        corpus = scanned_part(self.header)
        best = f", value up to {self.top[0].value:.4g}" if self.top else ""
        shown = f"the strongest {len(self.top)} of {self.windows:,} windows of {corpus}"
        return f"FeatureExamples({self.title}, {shown}{best})"

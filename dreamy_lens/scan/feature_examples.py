"""One feature's examples: the windows of a corpus that drive it most, and those that do not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from dreamy_lens._files import write_text
from dreamy_lens.scan.feature_windows import FeatureWindows
from dreamy_lens.scan.page import examples_fragment, examples_page
from dreamy_lens.scan.window import scanned_of

if TYPE_CHECKING:
    import pandas as pd


class FeatureExamples(FeatureWindows):
    """What a scan of a corpus found for one feature, as a table and a page.

    The windows and how they are distributed are those of :class:`dreamy_lens.scan.feature_windows.FeatureWindows`:
    `.top`, `.fluent`, `.quantile(q)`, `.frontier`, `.mean`.
    """

    def to_pandas(self) -> pd.DataFrame:
        """One row per kept window: kind, rank, value, cross_entropy, perplexity, text, where it stands, ids, tokens."""
        import pandas as pd

        ranks = {kind: [row["rank"] for row in self._rows if row["kind"] == kind] for kind in ("top", "fluent")}
        kept = {"top": self.top, "fluent": self.fluent}
        found = [(kind, rank, w) for kind in kept for rank, w in zip(ranks[kind], kept[kind], strict=True)]
        plain = ("value", "cross_entropy", "perplexity", "text", "document", "character", "before", "after")
        columns: dict[str, list[Any]] = {"kind": [k for k, _, _ in found], "rank": [i for _, i, _ in found]}
        columns |= {name: [getattr(w, name) for _, _, w in found] for name in plain}
        columns |= {"window": [w.number for _, _, w in found]}
        columns |= {name: [getattr(w, name) for _, _, w in found] for name in ("ids", "tokens", "values")}
        return pd.DataFrame(columns)

    def to_html(self, path: str | os.PathLike[str] | None = None, *, top: int = 64) -> str:
        """One self-contained page, without a script and without a network.

        Args:
            path: a file to write it to as well.
            top: how many of the strongest windows it has.

        Returns:
            The page.
        """
        text = examples_page(self, top)
        if path is not None:
            write_text(path, text)
        return text

    def _repr_html_(self) -> str:
        return examples_fragment(self)

    def __len__(self) -> int:
        return len(self.top)

    def __repr__(self) -> str:
        corpus = scanned_of(self.header)
        best = f", value up to {self.top[0].value:.4g}" if self.top else ""
        of = f"the strongest {len(self.top)} of {self.windows:,} windows of {corpus}"
        return f"FeatureExamples({self.title}, {of}{best})"

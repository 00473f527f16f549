"""Source of the windows of a comparison: a corpus, and the scan that read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dreamy_lens.html.words import format_count
from dreamy_lens.scan.feature_examples import FeatureExamples


@dataclass(frozen=True)
class ScanSource:
    """Corpus and scan that windows are from.

    Attributes:
        corpus: Name of the corpus.
        windows: Number of windows that were scored.
        tokens: Number of tokens that were read.
        documents: Number of documents with windows.
        length: Number of tokens of a window.
        measured: Whether the cross-entropy of all windows was measured.
        settings: Settings of the scan.
        versions: Versions of the packages that the scan used.
    """

    corpus: str
    windows: int
    tokens: int
    documents: int
    length: int
    measured: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, examples: FeatureExamples) -> ScanSource:
        """Return the source of one feature's examples."""
        header, counts = examples.header, examples.counts
        settings = dict(header.get("settings", {}))
        length = int(settings.get("length") or (len(examples.top[0]) if examples.top else 0))
        return cls(
            corpus=str(header.get("corpus", {}).get("name", "a corpus")),
            windows=examples.windows,
            tokens=int(counts.get("tokens", examples.windows * length)),
            documents=int(counts.get("documents", 0)),
            length=length,
            measured=examples.measured,
            settings=settings,
            versions=dict(header.get("versions", {})),
        )

    @property
    def extent(self) -> str:
        """Amount of text that was read, such as "500M tokens"."""
        return f"{format_count(self.tokens)} tokens"

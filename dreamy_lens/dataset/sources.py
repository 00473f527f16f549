"""From whatever a user has to a corpus."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dreamy_lens.dataset.corpora import Corpus
from dreamy_lens.dataset.documentation import PACKAGES, SPLITS
from dreamy_lens.dataset.problems import Problems
from dreamy_lens.dataset.texts import DocstringShard, TextShard
from dreamy_lens.errors import CorpusError, SettingsError


def open_corpus(source: Any = None, *, split: str | None = None) -> Corpus:
    """A corpus, from texts, files or the documentation installed here."""
    if isinstance(source, Corpus):
        return source
    if source is None or source == "docstrings":
        if split is not None and split not in SPLITS:
            raise SettingsError(f"There is no split {split!r}; use 'train', 'held_out', or None for both.")
        shards = [DocstringShard(s) for s in SPLITS if split in (None, s)]
        return Corpus("docstrings", list(shards), lambda: "-".join(["docstrings", *PACKAGES]), Problems())
    if isinstance(source, (list, tuple)):
        if not source:
            raise CorpusError("There are no texts in this list; give at least one.")
        shard = TextShard("texts", source)
        return Corpus(f"{len(source)} text{'s' * (len(source) != 1)}", [shard], shard.fingerprint, Problems())
    if isinstance(source, (str, os.PathLike)) and Path(source).is_file():
        shard = TextShard(Path(source).name, [Path(source).read_text(encoding="utf-8", errors="replace")])
        return Corpus(shard.name, [shard], shard.fingerprint, Problems())
    raise CorpusError(f"There is no corpus {source!r}.")

"""A scan of a corpus from its description to its results: gone on with, saved, stopped, cached."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from dreamy_lens._files import cache_folder
from dreamy_lens.corpus.corpus import Corpus
from dreamy_lens.corpus.problems import Problems
from dreamy_lens.corpus.sources import open_corpus
from dreamy_lens.errors import CorpusError, ExamplesError, FeatureError
from dreamy_lens.features.families import expressions
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.load import as_hooked
from dreamy_lens.models.transfer import to_host
from dreamy_lens.scan import storage
from dreamy_lens.scan.checkpoint import Checkpoint, check_same
from dreamy_lens.scan.config import ScanConfig
from dreamy_lens.scan.examples import Examples
from dreamy_lens.scan.fingerprint import features_digest, has_text_form, library_versions, model_digest
from dreamy_lens.scan.progress_bar import InterruptGuard, ScanBar, ValuesBar
from dreamy_lens.scan.scanner import Scanner
from dreamy_lens.scan.schema import table, token_table
from dreamy_lens.scan.storage import HEADER
from dreamy_lens.scan.table_builder import TableBuilder
from dreamy_lens.scan.tables import Tables
from dreamy_lens.scan.token_values import JobRunner
from dreamy_lens.scoring.feature_bank import given_order, make_banks

SAVE_SECONDS = 20.0
"""Seconds between two times that an unfinished scan is saved: a process that dies loses no more, and a block."""

CHECKED = 8
"""Number of features of a finished scan whose strongest windows are scored again before it is opened."""

PARTS = "parcels"
"""Folder of the parts of an unfinished scan that several processes share."""

UNFINISHED = "scan.safetensors"
"""File of an unfinished scan."""


class Scan:
    """A scan that is fully described; :func:`dreamy_lens.max_activating` makes one and runs it.

    Args:
        features: Expressions, their texts, or lists of these, as for :func:`dreamy_lens.max_activating`.
        model: Model whose activations the features read: a bridge, a Hugging Face id or folder; None is the embedded
            model.
        corpus: Corpus, or what :func:`dreamy_lens.corpus.open` makes one of.
        config: Settings of the scan.
        fluency_model: Model whose cross-entropy is measured; None is `model`.
    """

    def __init__(self, features: Any, model: Any, corpus: Any, config: ScanConfig, fluency_model: Any = None) -> None:
        self.model = as_hooked(model)
        self.fluency = None if fluency_model is None else as_hooked(fluency_model)
        if self.fluency is not None:
            self.model.check_same_tokenizer(self.fluency)
        self.config = config
        self.features = expressions(features, self.model)
        _check_names(self.features)
        self.corpus = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
        self.banks = make_banks(self.features, self.model, config.prepend_bos)
        self._identity: dict[str, Any] | None = None

    def scanner(self) -> Scanner:
        """Return a scanner for this scan."""
        return Scanner(self.banks, self.model, self.corpus, self.config, self.fluency)

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the result, as JSON values; scans of equal identity have equal results."""
        if self._identity is None:
            settings = dataclasses.asdict(self.config)
            settings["stride"] = self.config.windows.step
            settings["prepend_bos"] = bool(self.model.bos(settings["prepend_bos"]))
            settings.pop("batch_size")
            self._identity = {
                "model": self.model.name,
                "weights": model_digest(self.model),
                "tokenizer": self.model.vocabulary.digest,
                "fluency_model": None if self.fluency is None else [self.fluency.name, model_digest(self.fluency)],
                "corpus": self.corpus.name,
                "corpus fingerprint": self.corpus.fingerprint,
                "features": features_digest(self.features),
                "other models": [[model.name, model_digest(model)] for model in self._other_models()],
                "versions": library_versions(),
                **settings,
            }
        return self._identity

    def _other_models(self) -> list[HookedModel]:
        """Return the models besides the scan's own that the features read."""
        others = {model for bank in self.banks for model in bank.hooks if model is not self.model}
        return sorted(others, key=lambda model: model.name)

    @property
    def is_reproducible(self) -> bool:
        """Whether the identity says all: no objects of this session, no hooks, and no texts that are yet to come."""
        hooked = any(m.is_hooked for m in (self.model, self.fluency or self.model))
        vague = self.corpus.single_pass or self.corpus.partial_fingerprint
        return all(map(has_text_form, self.features)) and not hooked and not vague

    def folder(self) -> Path:
        """Return the folder of the cache that is for this scan."""
        key = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:24]
        return cache_folder("scans", key)

    def run(
        self, out: str | os.PathLike[str] | None = None, cache: bool = True, progress: bool | None = None
    ) -> Examples:
        """Scan, go on with an unfinished scan, or open a finished one; see :func:`dreamy_lens.max_activating`."""
        place = Path(out).expanduser() if out is not None else None
        if place is None and cache and self.is_reproducible:
            place = self.folder()
        finished = None if place is None else self.open_finished(place, cached=out is None)
        if finished is not None:
            return finished
        scanner = self.scanner()
        state = scanner.empty()
        if place is not None and (place / UNFINISHED).exists():
            state = Checkpoint.load(place / UNFINISHED, self.identity, self.model.device)
        whole = self._scan(scanner, state, place, progress)
        return self.build_examples(scanner, state, place, whole, progress)

    def open_finished(self, place: Path, cached: bool) -> Examples | None:
        """Return the finished scan in a folder, if there is one whose values are those of a new scan.

        Args:
            place: Folder to look in.
            cached: Whether the folder is of the cache, where another scan may take its place.

        Raises:
            ExamplesError: A folder that is not of the cache holds another scan.
        """
        finished = self._read_finished(place)
        if finished is None:
            return None
        if cached and (finished.failed_shards or not self.agrees_with(finished)):
            return None  # what could not be read may be readable now; or the model is not what it was
        if not self.agrees_with(finished):
            raise ExamplesError(
                f"{str(place)!r} holds a scan of another model, or of other features of the same names: windows that "
                "it kept have other values now. Was a function, an autoencoder or the model changed, or are there "
                "hooks on it? Scan into another folder."
            )
        if finished.failed_shards:
            named = "; ".join(f"{shard['name']} ({shard['why']})" for shard in finished.failed_shards[:5])
            warnings.warn(
                f"This scan lacks parts of {self.corpus.name} that could not be read: {named}. Scan into another "
                "folder to try again.",
                RuntimeWarning,
                stacklevel=4,
            )
        return finished

    def agrees_with(self, finished: Examples) -> bool:
        """Return whether windows that a scan kept have its values still: no digest knows all that a model computes."""
        places = given_order(self.banks)
        if len(places) != len(finished):
            return False
        few = np.unique(np.linspace(0, len(places) - 1, CHECKED).astype(int))
        kept = finished.tables.parts["kept"].where("feature", few.tolist()).to_pylist()
        kept = [row for row in kept if row["kind"] == "top" and row["rank"] < 2]
        if not kept:
            return True
        windows = finished.tables.parts["windows"].where("window", {row["window"] for row in kept}).to_pylist()
        ids = {row["window"]: row["ids"] for row in windows}
        rows = np.array([ids[row["window"]] for row in kept], dtype=np.int64)
        bulk = self.scanner().bulk
        values = np.concatenate([np.concatenate(to_host(*found.values), axis=1) for _, found in bulk.passes(rows)])
        ours = values[np.arange(len(kept)), places[[row["feature"] for row in kept]]]
        theirs = np.array([row["value"] for row in kept])
        coarse = self.model.dtype.itemsize < 4
        allowed = (0.05 if coarse else 1e-3) * np.maximum(np.abs(theirs), np.abs(theirs).mean()) + 1e-4
        off = np.nan_to_num(np.abs(ours - theirs), nan=np.inf) > allowed
        return not (off.mean() > 0.5 if coarse else off.any())

    def _read_finished(self, place: Path) -> Examples | None:
        """Return the finished scan in a folder, if there is one.

        Raises:
            ExamplesError: The scan is of another model, corpus, feature or setting; or the folder holds something else.
        """
        if place.exists() and not place.is_dir():
            raise ExamplesError(f"{str(place)!r} is a file; results are a folder. Choose another name.")
        if not (place / HEADER).exists():
            others = {path.name for path in place.iterdir()} - {PARTS} if place.is_dir() else set()
            if others and UNFINISHED not in others:
                raise ExamplesError(f"{str(place)!r} exists and holds no scan; choose another name.")
            return None
        examples = Examples.load(place)
        check_same(examples.header.get("identity", {}), self.identity, str(place))
        return examples if examples.header.get("complete") else None

    def _scan(self, scanner: Scanner, state: Checkpoint, place: Path | None, shown: bool | None) -> bool:
        """Scan, and return whether the corpus was scanned to its end; an interrupt leaves the rest for another call."""
        saved = time.monotonic()

        def after(checkpoint: Checkpoint, block: Any) -> bool:
            nonlocal saved
            bar.update(checkpoint, block)
            if place is not None and time.monotonic() - saved >= SAVE_SECONDS:
                checkpoint.save(place / UNFINISHED, self.identity)
                saved = time.monotonic()
            return stop.asked

        with ScanBar(scanner, shown) as bar, InterruptGuard() as stop:
            try:
                whole = scanner.run(state, after=after)
            except Exception:
                if place is not None and state.whole and state.counts["windows"]:
                    state.save(place / UNFINISHED, self.identity)
                raise
        if not state.counts["windows"]:
            raise self.nothing_found(state)
        if not whole:
            if place is not None:
                state.save(place / UNFINISHED, self.identity)
            again = "call again with the same arguments to go on" if place is not None else "nothing was saved"
            print(f"Stopped after {state.counts['tokens']:,} tokens; {again}.", file=sys.stderr)
        return whole

    def nothing_found(self, state: Checkpoint) -> CorpusError:
        """Return the error for a scan that found no windows, which says why."""
        name = self.corpus.name
        problems = Problems.total([self.corpus.opening_problems, state.problems])
        passed = f"; passed over: {problems}" if problems else ""
        if state.failed:
            passed += "; " + "; ".join(f"{shard}: {why}" for shard, why in list(state.failed.items())[:3])
        if state.counts["short"]:
            return CorpusError(
                f"{name} has no window of {self.config.length} tokens: all of its {state.counts['documents']:,} "
                f"documents are shorter. Use a smaller length{passed}."
            )
        return CorpusError(f"{name} has no text{passed}. Give a corpus with documents.")

    def build_examples(
        self,
        scanner: Scanner,
        state: Checkpoint,
        place: Path | None,
        whole: bool = True,
        shown: bool | None = None,
        run_jobs: JobRunner | None = None,
    ) -> Examples:
        """Return the examples of what was found.

        Args:
            scanner: Scanner of this scan.
            state: Results of the scan.
            place: Folder to write the examples to; None keeps them in memory.
            whole: Whether the scan came to its end.
            shown: Whether to show a progress bar; None shows it in terminals and notebooks.
            run_jobs: Function that computes values at tokens elsewhere; None computes them here.
        """
        if state.failed:
            named = "; ".join(f"{name} ({why})" for name, why in list(state.failed.items())[:5])
            warnings.warn(
                f"{len(state.failed)} of {len(self.corpus.shards)} parts of {self.corpus.name} could not be read to "
                f"their end, and what follows there is not in the examples: {named}.",
                RuntimeWarning,
                stacklevel=3,
            )
        with ValuesBar(shown) as bar:
            builder = TableBuilder(scanner, state, bar.update)
            builder.compute_values(run_jobs)
        header = builder.header(self.identity if place is not None else {}, whole)
        rows = table("windows", builder.windows())
        token_bytes = token_table(self.model.vocabulary, rows)
        if place is None:
            return Examples(Tables(header, builder.features(), rows, builder.kept_rows(), token_bytes))
        storage.write(place, header, builder.features(), rows, builder.kept_rows(), token_bytes)
        if whole:
            (place / UNFINISHED).unlink(missing_ok=True)
        return Examples.load(place)


def _check_names(features: list[Any]) -> None:
    """Raise FeatureError if two features have one text, by which results are looked up."""
    counts = Counter(map(str, features))
    twice = [text for text, count in counts.items() if count > 1]
    if twice:
        raise FeatureError(
            f"{counts[twice[0]]} different features are called {twice[0]:.80}, and results are looked up by that. Give "
            "custom functions different names, and save autoencoders in folders of different names."
        )

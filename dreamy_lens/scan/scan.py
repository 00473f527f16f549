"""Scan of a corpus, from its settings to its results: it can be stopped, saved, continued and cached."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from dreamy_lens._files import cache_folder
from dreamy_lens._host import working
from dreamy_lens.corpus.corpus import Corpus
from dreamy_lens.corpus.problems import Problems
from dreamy_lens.corpus.sources import open_corpus
from dreamy_lens.errors import CorpusError, ExamplesError, FeatureError, warn
from dreamy_lens.features.families import expressions
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.load import as_hooked
from dreamy_lens.models.transfer import to_host
from dreamy_lens.scan import storage
from dreamy_lens.scan.checkpoint import Checkpoint, check_identity
from dreamy_lens.scan.config import ScanConfig
from dreamy_lens.scan.examples import Examples
from dreamy_lens.scan.fingerprint import features_digest, has_complete_text, library_versions, model_digest
from dreamy_lens.scan.progress_bar import InterruptGuard, ScanBar, ValuesBar
from dreamy_lens.scan.scan_folder import ScanFolder, report_stop
from dreamy_lens.scan.scanner import Scanner
from dreamy_lens.scan.schema import arrow_table, token_table
from dreamy_lens.scan.storage import CHECKPOINT_FILE, HEADER
from dreamy_lens.scan.table_builder import TableBuilder
from dreamy_lens.scan.tables import Tables
from dreamy_lens.scan.token_values import JobRunner
from dreamy_lens.scoring.feature_bank import given_order, make_banks

SAVE_SECONDS = 20.0
"""Seconds between two saves of an unfinished scan: a process that dies loses no more than these and a block."""

CHECKED = 8
"""Number of features of a finished scan whose strongest windows are scored again before it is opened."""

PARTS_FOLDER = "parcels"
"""Name of the folder of an unfinished scan that is distributed over several processes."""


class Scan:
    """Scan with all its settings; :func:`dreamy_lens.max_activating` makes one and runs it.

    Args:
        features: Expressions, their texts, or lists of these, as :func:`dreamy_lens.max_activating` takes them.
        model: Model whose activations the features read: TransformerBridge, Hugging Face id, or folder; None is the
            embedded model.
        corpus: Corpus, or anything that :func:`dreamy_lens.corpus.open` takes.
        config: Settings of the scan.
        fluency_model: Model whose cross-entropy is measured; None is `model`.
        code: Program that makes the scan again, as Python, which the examples keep; "" if it is unknown.
    """

    def __init__(
        self,
        features: Any,
        model: Any,
        corpus: Any,
        config: ScanConfig,
        fluency_model: Any = None,
        code: str = "",
    ) -> None:
        self.code = code
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
        """Everything that decides the result, as JSON values; scans of equal identity have equal results."""
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
        """Return the models that features read besides the scan's own model."""
        others = {model for bank in self.banks for model in bank.hooks if model is not self.model}
        return sorted(others, key=lambda model: model.name)

    @property
    def is_reproducible(self) -> bool:
        """True if the identity decides the result: no objects in memory, no hooks, no corpus that is read only once."""
        models = {self.model, self.fluency or self.model, *self._other_models()}
        for model in models:
            model.renew()
        hooked = any(model.is_hooked or model.has_foreign_hooks for model in models)
        vague = self.corpus.single_pass or self.corpus.partial_fingerprint
        return all(map(has_complete_text, self.features)) and not hooked and not vague

    def folder(self) -> Path:
        """Return the folder of this scan in the cache."""
        key = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:24]
        return cache_folder("scans", key)

    def run(
        self, out: str | os.PathLike[str] | None = None, cache: bool = True, progress: bool | None = None
    ) -> Examples:
        """Scan, continue an unfinished scan, or open a finished one; see :func:`dreamy_lens.max_activating`."""
        folder = self.scan_folder(out, cache)
        with working("Looking for an earlier scan of this model and corpus", progress):
            finished = None if folder.path is None else self.open_finished(folder)
            if finished is not None:
                return finished
            folder.check_writable()
            state = None if folder.path is None else folder.load_state(self.identity, self.model.device)
        scanner = self.scanner()
        state = scanner.new_checkpoint() if state is None else state
        complete = self._scan(scanner, state, folder, progress)
        return self.build_examples(scanner, state, folder, complete, progress)

    def scan_folder(self, out: str | os.PathLike[str] | None, cache: bool) -> ScanFolder:
        """Return the folder in which this scan is saved: `out`, a folder of the cache, or none.

        Args:
            out: Folder of the results, or None.
            cache: Whether results without `out` are kept in the cache.
        """
        if out is not None:
            return ScanFolder(Path(os.path.expanduser(out)), cached=False)
        return ScanFolder(self.folder() if cache and self.is_reproducible else None, cached=True)

    def open_finished(self, folder: ScanFolder) -> Examples | None:
        """Return the finished scan in a folder, if there is one whose values are those of a new scan.

        Args:
            folder: Folder to look in. In the cache, a new scan may replace what it holds.

        Raises:
            ExamplesError: A folder outside the cache holds another scan.
        """
        path = folder.path
        return None if path is None else folder.attempt(lambda: self._finished(path, folder.cached))

    def _finished(self, folder: Path, cached: bool) -> Examples | None:
        finished = self._read_finished(folder)
        if finished is None:
            return None
        if cached and (finished.failed_shards or not self.agrees_with(finished)):
            return None  # a failed shard may be readable now, or the model has changed
        if not self.agrees_with(finished):
            raise ExamplesError(
                f"{str(folder)!r} holds a scan of another model, or of other features with the same names: windows "
                "that it kept have other scores now. Did a function, an autoencoder or the model change, or does the "
                "model have hooks? Scan into another folder."
            )
        if finished.failed_shards:
            named = "; ".join(f"{shard['name']} ({shard['why']})" for shard in finished.failed_shards[:5])
            warn(
                f"This scan lacks parts of {self.corpus.name} that could not be read: {named}. Scan into another "
                "folder to try again.",
                RuntimeWarning,
            )
        return finished

    def agrees_with(self, finished: Examples) -> bool:
        """Return whether the windows that a scan kept still have their values and cross-entropies.

        Digests of weights and texts do not cover everything that a model computes, so some windows are scored again.
        """
        order = given_order(self.banks)
        if len(order) != len(finished):
            return False
        checked = np.unique(np.linspace(0, len(order) - 1, CHECKED).astype(int))
        kept = finished.tables.parts["kept"].where("feature", checked.tolist()).to_pylist()
        kept = [row for row in kept if row["kind"] == "top" and row["rank"] < 2]
        if not kept:
            return True
        windows = finished.tables.parts["windows"].where("window", {row["window"] for row in kept}).to_pylist()
        ids = {row["window"]: row["ids"] for row in windows}
        rows = np.array([ids[row["window"]] for row in kept], dtype=np.int64)
        passes = [scores for _, scores in self.scanner().scorer.passes(rows)]
        values = np.concatenate([np.concatenate(to_host(*scores.values), axis=1) for scores in passes])
        current = values[np.arange(len(kept)), order[[row["feature"] for row in kept]]]
        agree = self._agree(current, np.array([row["value"] for row in kept]))
        losses = [scores.cross_entropy for scores in passes if scores.cross_entropy is not None]
        if losses:
            former = {row["window"]: row["cross_entropy"] for row in windows}
            saved = np.array([former[row["window"]] for row in kept])
            agree = agree and self._agree(np.concatenate(to_host(*losses)), saved)
        return agree

    def _agree(self, current: np.ndarray, saved: np.ndarray) -> bool:
        """Return whether numbers computed now differ from saved ones by rounding at most."""
        coarse = self.model.dtype.itemsize < 4
        allowed = (0.05 if coarse else 1e-3) * np.maximum(np.abs(saved), np.abs(saved).mean()) + 1e-4
        differs = np.nan_to_num(np.abs(current - saved), nan=np.inf) > allowed
        return not (differs.mean() > 0.5 if coarse else differs.any())

    def _read_finished(self, folder: Path) -> Examples | None:
        """Return the finished scan in a folder, if there is one.

        Raises:
            ExamplesError: The scan has another model, corpus, features or settings, or the folder holds something else.
        """
        if folder.exists() and not folder.is_dir():
            raise ExamplesError(f"{str(folder)!r} is a file, and examples are a folder; choose another name.")
        entries = storage.other_entries(folder) - {PARTS_FOLDER}  # before the header, which may be written just now
        if not (folder / HEADER).exists():
            if entries and CHECKPOINT_FILE not in entries:
                raise ExamplesError(f"{str(folder)!r} exists and holds no scan; choose another name.")
            return None
        examples = Examples.load(folder)
        check_identity(examples.header.get("identity", {}), self.identity, str(folder))
        return examples if examples.header.get("complete") else None

    def _scan(self, scanner: Scanner, state: Checkpoint, folder: ScanFolder, shown: bool | None) -> bool:
        """Scan, and return whether the scan reached its end; after an interrupt, another call continues it."""
        saved = time.monotonic()

        def after(checkpoint: Checkpoint, block: Any) -> bool:
            nonlocal saved
            bar.update(checkpoint, block)
            if folder.path is not None and time.monotonic() - saved >= SAVE_SECONDS:
                folder.save_state(checkpoint, self.identity)
                saved = time.monotonic()
            return guard.stop_requested

        with ScanBar(scanner, shown) as bar, InterruptGuard() as guard:
            try:
                complete = scanner.run(state, after=after)
            except Exception:
                if folder.path is not None and state.consistent and state.counts["windows"]:
                    folder.save_state(state, self.identity)
                raise
        if not state.counts["windows"]:
            raise self.no_windows_error(state)
        if not complete:
            saved_state = folder.path is not None and folder.save_state(state, self.identity)
            report_stop(state.counts["tokens"], saved_state)
        return complete

    def no_windows_error(self, state: Checkpoint) -> CorpusError:
        """Return the error for a scan that found no windows; the message names the reason."""
        name = self.corpus.name
        problems = Problems.total([self.corpus.opening_problems, state.problems])
        details = f"; skipped: {problems}" if problems else ""
        if state.failed:
            details += "; " + "; ".join(f"{shard}: {why}" for shard, why in list(state.failed.items())[:3])
        if state.counts["short"]:
            return CorpusError(
                f"{name} has no window of {self.config.length} tokens: all of its {state.counts['documents']:,} "
                f"documents are shorter. Use a smaller length{details}."
            )
        return CorpusError(f"{name} has no text{details}. Give a corpus with documents.")

    def build_examples(
        self,
        scanner: Scanner,
        state: Checkpoint,
        folder: ScanFolder | None,
        complete: bool = True,
        shown: bool | None = None,
        run_jobs: JobRunner | None = None,
    ) -> Examples:
        """Return the examples of a scan.

        Args:
            scanner: Scanner of this scan.
            state: Results of the scan.
            folder: Folder to write the examples to; None keeps them in memory, as does a folder that cannot be written.
            complete: Whether the scan reached its end.
            shown: Whether to show a progress bar; None shows it in terminals and notebooks.
            run_jobs: Function that computes the values at tokens in other processes; None computes them in this one.
        """
        if state.failed:
            named = "; ".join(f"{name} ({why})" for name, why in list(state.failed.items())[:5])
            warn(
                f"{len(state.failed)} of {len(self.corpus.shards)} parts of {self.corpus.name} could not be read to "
                f"their end, and the rest of these parts is not in the examples: {named}.",
                RuntimeWarning,
            )
        with ValuesBar(shown) as bar:
            builder = TableBuilder(scanner, state, bar.update)
            builder.compute_values(run_jobs)
        folder = ScanFolder(None, cached=True) if folder is None else folder
        header = builder.header({} if folder.path is None else self.identity, complete)
        header |= {"code": self.code} if self.code else {}
        rows = arrow_table("windows", builder.windows())
        token_bytes = token_table(self.model.vocabulary, rows)

        def write(path: Path) -> None:
            storage.write_tables(path, header, builder.features(), rows, builder.kept_rows(), token_bytes)

        saved = folder.save_results(write, complete, state.counts["tokens"], header["identity"])
        if saved is not None:
            return saved
        return Examples(Tables(header, builder.features(), rows, builder.kept_rows(), token_bytes))


def _check_names(features: list[Any]) -> None:
    """Raise FeatureError if two features have the same text, since results are looked up by the text."""
    counts = Counter(map(str, features))
    repeated = [text for text, count in counts.items() if count > 1]
    if repeated:
        raise FeatureError(
            f"{counts[repeated[0]]} different features are called {repeated[0]:.80}, and results are looked up by "
            "name. Give custom functions different names, and save autoencoders in folders with different names."
        )

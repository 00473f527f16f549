"""A scan of a corpus from its description to its results: gone on with, saved, stopped, remembered."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamy_lens.errors import CorpusError, ExamplesError, FeatureError

if TYPE_CHECKING:
    from dreamy_lens.scan.checkpoint import Checkpoint
    from dreamy_lens.scan.examples import Examples
    from dreamy_lens.scan.scanner import Scanner
    from dreamy_lens.scan.token_values import Answers

SAVE_SECONDS = 20.0
"""How often an unfinished scan is saved: what a sudden death costs at most, and a block."""

CHECKED = 8
"""Features of a finished scan whose strongest windows are scored again before it is opened."""

PARTS = "parcels"
"""The folder of what several processes have found of a scan that is not done."""

UNFINISHED = "scan.safetensors"
"""The file of a scan that is not done."""


class Scan:
    """A scan that is fully described; :func:`dreamy_lens.max_activating` makes one and runs it.

    Args:
        features: as for :func:`dreamy_lens.max_activating`.
        model: likewise.
        corpus: likewise.
        settings: a :class:`~dreamy_lens.scan.scanner.ScanSettings`.
        fluency_model: likewise.
    """

    def __init__(self, features: Any, model: Any, corpus: Any, settings: Any, fluency_model: Any = None) -> None:
        from dreamy_lens.corpus import Corpus, open_corpus
        from dreamy_lens.features.families import expressions
        from dreamy_lens.models.load import as_hooked
        from dreamy_lens.scoring.feature_bank import banks

        self.model = as_hooked(model)
        self.fluency = None if fluency_model is None else as_hooked(fluency_model)
        if self.fluency is not None:
            self.model.check_same_tokenizer(self.fluency)
        self.settings = settings
        self.given = expressions(features, self.model)
        _check_names(self.given)
        self.corpus = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
        self.banks = banks(self.given, self.model, settings.prepend_bos)
        self._identity: dict[str, Any] | None = None

    def scanner(self) -> Scanner:
        """What scans blocks for this scan."""
        from dreamy_lens.scan.scanner import Scanner

        return Scanner(self.banks, self.model, self.corpus, self.settings, self.fluency)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result, in plain values; scans of equal identity have equal results."""
        if self._identity is None:
            import dataclasses

            from dreamy_lens.scan.fingerprint import features_digest, model_digest
            from dreamy_lens.scan.scanner import versions

            settings = dataclasses.asdict(self.settings)
            settings["stride"] = self.settings.windows.step
            settings["prepend_bos"] = bool(self.model.bos(settings["prepend_bos"]))
            settings.pop("batch_size")
            self._identity = {
                "model": self.model.name,
                "weights": model_digest(self.model),
                "tokenizer": self.model.vocabulary.digest,
                "fluency_model": None if self.fluency is None else [self.fluency.name, model_digest(self.fluency)],
                "corpus": self.corpus.name,
                "corpus fingerprint": self.corpus.fingerprint,
                "features": features_digest(self.given),
                "other models": [[m.name, model_digest(m)] for m in self._others()],
                "versions": dict(versions()),
                **settings,
            }
        return self._identity

    def _others(self) -> list[Any]:
        """Models besides its own that the features read."""
        return sorted({m for b in self.banks for m in b.hooks if m is not self.model}, key=lambda m: m.name)

    @property
    def is_reproducible(self) -> bool:
        """Whether the identity says all: nothing of this session, of hooks or of texts yet to come is in it."""
        from dreamy_lens.scan.fingerprint import has_text_form

        hooked = any(m.is_hooked for m in (self.model, self.fluency or self.model))
        vague = self.corpus.once or self.corpus.sampled
        return all(map(has_text_form, self.given)) and not hooked and not vague

    def folder(self) -> Path:
        """Where the cache keeps it."""
        from dreamy_lens._files import cache_folder

        key = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:24]
        return cache_folder("scans", key)

    def run(
        self, out: str | os.PathLike[str] | None = None, cache: bool = True, progress: bool | None = None
    ) -> Examples:
        """Scan, or go on, or open what is there; see :func:`dreamy_lens.max_activating`."""
        place = Path(out).expanduser() if out is not None else None
        if place is None and cache and self.is_reproducible:
            place = self.folder()
        finished = None if place is None else self.opened(place, cached=out is None)
        if finished is not None:
            return finished
        scanner = self.scanner()
        state = scanner.empty()
        if place is not None and (place / UNFINISHED).exists():
            from dreamy_lens.scan.checkpoint import Checkpoint

            state = Checkpoint.load(place / UNFINISHED, self.identity, self.model.device)
        whole = self._scan(scanner, state, place, progress)
        return self.examples(scanner, state, place, whole, progress)

    def opened(self, place: Path, cached: bool) -> Examples | None:
        """The finished scan in a folder, if there is one that still says what a new one would.

        Args:
            place: the folder.
            cached: it is of the cache, where another scan may take its place.

        Raises:
            ExamplesError: a folder that is not of the cache holds another scan.
        """
        finished = self.finished(place)
        if finished is None:
            return None
        if cached and (finished.failed_shards or not self.holds(finished)):
            return None  # what could not be read may be readable now; or the model is not what it was
        if not self.holds(finished):
            raise ExamplesError(
                f"{str(place)!r} holds a scan of another model, or of other features of the same names: windows that "
                "it kept have other values now. Was a function, an autoencoder or the model changed, or are there "
                "hooks on it? Scan into another folder."
            )
        if finished.failed_shards:
            named = "; ".join(f"{one['name']} ({one['why']})" for one in finished.failed_shards[:5])
            warnings.warn(
                f"This scan lacks parts of {self.corpus.name} that could not be read: {named}. Scan into another "
                "folder to try again.",
                RuntimeWarning,
                stacklevel=4,
            )
        return finished

    def holds(self, finished: Examples) -> bool:
        """Whether windows that a scan kept have the values that it says: no digest knows all that a model computes."""
        import numpy as np

        from dreamy_lens.models.transfer import to_host
        from dreamy_lens.scoring.feature_bank import order

        places = order(self.banks)
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
        found = np.concatenate([_side_by_side(to_host(*one.values)) for _, one in bulk.passes(rows)])
        ours = found[np.arange(len(kept)), places[[row["feature"] for row in kept]]]
        theirs = np.array([row["value"] for row in kept])
        coarse = self.model.dtype.itemsize < 4
        allowed = (0.05 if coarse else 1e-3) * np.maximum(np.abs(theirs), np.abs(theirs).mean()) + 1e-4
        off = np.nan_to_num(np.abs(ours - theirs), nan=np.inf) > allowed
        return not (off.mean() > 0.5 if coarse else off.any())

    # In parts, for several processes.

    def parcels(self, characters: int = 1 << 22) -> list[tuple[int, int, int | None]]:
        """Parts of the corpus that can be scanned each by itself: shard, first block, and the block to end before.

        Args:
            characters: of a part, at least; None for the end stands where the corpus is not read beforehand.
        """
        found: list[tuple[int, int, int | None]] = []
        size = 0
        for shard, block, count in self.corpus.table():
            if not found or found[-1][0] != shard or size >= characters:
                found.append((shard, block, block + 1))
                size = 0
            found[-1] = (shard, found[-1][1], block + 1)
            size += count
        return found

    def parcel(self, shard: int, first: int, end: int | None, after: Any = None) -> Checkpoint:
        """What is found in one part. Merged, in whichever order, those of all parts are what one pass finds."""
        scanner = self.scanner()
        progress = scanner.empty()
        progress.shard, progress.block = shard, first
        scanner.run(progress, [shard], end, *([] if after is None else [after]))
        return progress

    def finished(self, place: Path) -> Examples | None:
        """The finished scan in a folder, if there is one.

        Raises:
            ExamplesError: it is of another model, corpus, feature or setting; or the folder holds something else.
        """
        from dreamy_lens.scan.checkpoint import check_same
        from dreamy_lens.scan.examples import Examples
        from dreamy_lens.scan.storage import HEADER

        if place.exists() and not place.is_dir():
            raise ExamplesError(f"{str(place)!r} is a file; results are a folder. Choose another name.")
        if not (place / HEADER).exists():
            others = {path.name for path in place.iterdir()} - {PARTS} if place.is_dir() else set()
            if others and UNFINISHED not in others:
                raise ExamplesError(f"{str(place)!r} exists and holds no scan; choose another name.")
            return None
        found = Examples.load(place)
        check_same(found.header.get("identity", {}), self.identity, str(place))
        return found if found.header.get("complete") else None

    def _scan(self, scanner: Scanner, state: Checkpoint, place: Path | None, shown: bool | None) -> bool:
        """Whether the corpus was scanned to its end; an interrupt leaves the rest for another time."""
        from dreamy_lens.scan.progress_bar import InterruptGuard, ScanBar

        saved = time.monotonic()

        def after(progress: Checkpoint, block: Any) -> bool:
            nonlocal saved
            bar.update(progress, block)
            if place is not None and time.monotonic() - saved >= SAVE_SECONDS:
                progress.save(place / UNFINISHED, self.identity)
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
            raise CorpusError(_nothing(state, self.corpus, self.settings))
        if not whole:
            if place is not None:
                state.save(place / UNFINISHED, self.identity)
            again = "call again with the same arguments to go on" if place is not None else "nothing was saved"
            print(f"Stopped after {state.counts['tokens']:,} tokens; {again}.", file=sys.stderr)
        return whole

    def examples(
        self,
        scanner: Scanner,
        state: Checkpoint,
        place: Path | None,
        whole: bool = True,
        shown: bool | None = None,
        answers: Answers | None = None,
    ) -> Examples:
        """The results of what was found, written to a folder if one is given; `answers` as for `describe`."""
        from dreamy_lens.scan import storage
        from dreamy_lens.scan.examples import Examples
        from dreamy_lens.scan.progress_bar import DescribingBar
        from dreamy_lens.scan.tables import Tables
        from dreamy_lens.scan.token_values import TableBuilder

        if state.failed:
            named = "; ".join(f"{name} ({why})" for name, why in list(state.failed.items())[:5])
            warnings.warn(
                f"{len(state.failed)} of {len(self.corpus.shards)} parts of {self.corpus.name} could not be read to "
                f"their end, and what follows there is not in the examples: {named}.",
                RuntimeWarning,
                stacklevel=3,
            )
        with DescribingBar(shown) as bar:
            description = TableBuilder(scanner, state, bar.update)
            description.describe(answers)
        header = description.header(self.identity if place is not None else {}, whole)
        rows = storage.table("windows", description.windows())
        token_bytes = storage.tokens_of(self.model.vocabulary, rows)
        if place is None:
            return Examples(Tables(header, description.features(), rows, description.kept_rows(), token_bytes))
        storage.write(place, header, description.features(), rows, description.kept_rows(), token_bytes)
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


def _side_by_side(values: Any) -> Any:
    import numpy as np

    return np.concatenate(list(values), axis=1)


def _nothing(state: Checkpoint, corpus: Any, settings: Any) -> str:
    from dreamy_lens.corpus.problems import Problems

    problems = Problems.total([corpus.opening_problems, state.problems])
    passed = f"; passed over: {problems}" if problems else ""
    if state.failed:
        passed += "; " + "; ".join(f"{name}: {why}" for name, why in list(state.failed.items())[:3])
    if state.counts["short"]:
        return (
            f"{corpus.name} has no window of {settings.length} tokens: all of its {state.counts['documents']:,} "
            f"documents are shorter. Use a smaller length{passed}."
        )
    return f"{corpus.name} has no text{passed}. Give a corpus with documents."

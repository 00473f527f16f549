"""`dl.max_activating`: what of a corpus drives features highest."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamy_lens.errors import CorpusError, ExamplesError, SettingsError

if TYPE_CHECKING:
    from dreamy_lens.dataset.describing import Answers
    from dreamy_lens.dataset.examples import Examples
    from dreamy_lens.dataset.progress import Progress
    from dreamy_lens.dataset.scanner import Scanner

SAVE_SECONDS = 20.0
"""How often an unfinished scan is saved: what a sudden death costs at most, and a block."""

UNFINISHED = "scan.safetensors"
"""The file of a scan that is not done."""


def max_activating(
    features: Any,
    model: Any = None,
    corpus: Any = None,
    k: int = 64,
    length: int = 12,
    tokens: int | None = None,
    *,
    stride: int | None = None,
    context: int = 24,
    cross_entropy: bool = True,
    sample: int = 1024,
    seed: int | None = 0,
    prepend_bos: bool | None = None,
    fluency_model: Any = None,
    batch_size: int | None = None,
    out: str | os.PathLike[str] | None = None,
    cache: bool = True,
    progress: bool | None = None,
    dtype: Any = None,
    ray: bool | str | None = None,
    address: str | None = None,
    workers: int | None = None,
    cpus_per_worker: float = 1,
    gpus_per_worker: float = 0,
) -> Examples:
    """The windows of a corpus that drive features highest, found in one pass for all of them.

    A window is scored as a prompt of a dream is: by itself, after the model's BOS, so that its value and cross-entropy
    are those that :func:`dreamy_lens.score` gives. Besides the strongest windows, a histogram of all values and a
    uniform sample of the windows are kept, and, where cross-entropy is measured, the strongest window at every quarter
    of a nat, so that the frontier of the whole corpus is known.

    Args:
        features: expressions, their texts, or lists of these. One that leaves an axis of units stands for a feature for
            each unit, and a `*` for all hook points that match: `dl.neurons(2)`, "L2.N*", `dl.neurons()`,
            "blocks.*.hook_resid_post[-1]".
        model: a bridge, a Hugging Face id or folder; None is the embedded model.
        corpus: texts, as for `dl.corpus.open`: None is the documentation of the installed Python packages; a file, a
            folder, a pattern of paths, a URL, a data set or the id of one, or strings.
        k: how many of each feature's strongest windows are kept, each text once.
        length: tokens of a window.
        tokens: scan windows of about so many tokens in all, a random sample of the corpus; None scans all of it.
        stride: tokens from one window to the next; None is `length`.
        context: tokens that are shown on each side of a kept window; the model does not read them.
        cross_entropy: whether that of every window is measured. Without, it is for the kept ones only, and layers
            deeper than the features' are not run.
        sample: windows drawn at random, for quantiles.
        seed: of what is drawn; with None, `tokens` are the first of the corpus.
        prepend_bos: whether a BOS stands before every window; None is the model's convention.
        fluency_model: whose cross-entropy is measured; None is the model.
        batch_size: windows in one pass; None chooses.
        out: a folder for the results. A scan that was stopped goes on from there, a finished one is opened.
        cache: without `out`, whether a finished scan of the same model, corpus, features and settings is opened again,
            and an unfinished one gone on with. They are in ``~/.cache/dreamy_lens/scans``, or where `DREAMY_LENS_CACHE`
            says.
        progress: whether to show a progress bar; None shows one in terminals and notebooks.
        dtype: of a model that is given by name, such as "bfloat16"; None is float32.
        ray: True to share the scan out to a Ray cluster: the one this process is connected to or `RAY_ADDRESS` names,
            or else one that starts on this machine and ends with the scan. A text is an address. What is found is the
            same. `out` can be a URL then, such as `s3://bucket/scan`; a folder has to be one that all workers see.
        address: of a cluster to join: "auto", "host:port" or "ray://host:port".
        workers: how many; None is as many as the cluster has room for.
        cpus_per_worker: cores of each, and torch's threads.
        gpus_per_worker: GPUs of each; 0.25 has four share one. Without, workers use their cores only.

    Returns:
        The examples, feature by feature. An interrupt (Ctrl-C) gives those found so far; calling again goes on.

    Raises:
        FeatureError: or one of its kinds, if a feature does not fit the model.
        CorpusError: there is no such corpus, or nothing of it could be read.
        ExamplesError: `out` holds another scan, or cannot be written.

    >>> import dreamy_lens as dl
    >>> texts = ["Return a copy of the array, with axes transposed and the dtype kept.", "Raise an error if not found."]
    >>> examples = dl.max_activating("L2.N17", corpus=texts, k=2, length=6, cache=False)
    >>> [len(window.ids) for window in examples.of("L2.N17").top]
    [6, 6]
    """
    from dreamy_lens.cluster.shipping import Shipped
    from dreamy_lens.dataset.scanner import ScanSettings

    settings = ScanSettings(k, length, stride, context, tokens, seed, cross_entropy, sample, prepend_bos, batch_size)
    from dreamy_lens.cluster import ray_here

    use_ray, address = ray_here.wanted(ray, address)
    ray_here.checked_share(workers, cpus_per_worker, gpus_per_worker)
    if not use_ray:
        if workers is not None:
            raise SettingsError(f"workers={workers!r} are started on a Ray cluster; add ray=True, or leave it out.")
        if out is not None and "://" in str(out):
            raise SettingsError(f"out={str(out)!r} is a URL, to which a scan on a Ray cluster writes: add ray=True.")
        given = model if dtype is None else Shipped.of(model, dtype).loaded()
        return Scan(features, given, corpus, settings, fluency_model).run(out=out, cache=cache, progress=progress)
    from dreamy_lens.cluster.scanning import ClusterScan

    sent = Shipped.of(model, dtype), None if fluency_model is None else Shipped.of(fluency_model)
    # Here the model is only asked what it has, and workers may need the GPUs.
    here = [None if one is None else one.loaded("cpu") for one in sent]
    scan = Scan(features, here[0], corpus, settings, here[1])
    whole = ClusterScan(scan, *sent, address, workers, cpus_per_worker, gpus_per_worker)
    return whole.run(out=out, cache=cache, progress=progress)


class Scan:
    """A scan that is fully described; :func:`max_activating` makes one and runs it.

    Args:
        features: as for :func:`max_activating`.
        model: likewise.
        corpus: likewise.
        settings: a :class:`~dreamy_lens.dataset.scanner.ScanSettings`.
        fluency_model: likewise.
    """

    def __init__(self, features: Any, model: Any, corpus: Any, settings: Any, fluency_model: Any = None) -> None:
        from dreamy_lens.dataset import Corpus, open_corpus
        from dreamy_lens.features.families import expressions
        from dreamy_lens.models.load import as_hooked
        from dreamy_lens.scoring.banks import banks

        self.model = as_hooked(model)
        self.fluency = None if fluency_model is None else as_hooked(fluency_model)
        if self.fluency is not None:
            self.model.check_same_tokenizer(self.fluency)
        self.settings = settings
        self.given = expressions(features, self.model)
        self.corpus = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
        self.banks = banks(self.given, self.model, settings.prepend_bos)
        self._identity: dict[str, Any] | None = None

    def scanner(self) -> Scanner:
        """What scans blocks for this scan."""
        from dreamy_lens.dataset.scanner import Scanner

        return Scanner(self.banks, self.model, self.corpus, self.settings, self.fluency)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result, in plain values; scans of equal identity have equal results."""
        if self._identity is None:
            import dataclasses

            from dreamy_lens.dataset.identity import features_digest, model_digest

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
                **settings,
            }
        return self._identity

    @property
    def is_reproducible(self) -> bool:
        """Whether the identity says all: functions of the session, hooks and texts yet to come are not in it."""
        from dreamy_lens.dataset.identity import is_plain

        hooked = any(m.is_hooked for m in (self.model, self.fluency or self.model))
        return all(map(is_plain, self.given)) and not hooked and not self.corpus.once

    def folder(self) -> Path:
        """Where the cache keeps it."""
        from dreamy_lens.dataset.remembering import cache_folder

        key = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:24]
        return cache_folder("scans", key)

    def run(
        self, out: str | os.PathLike[str] | None = None, cache: bool = True, progress: bool | None = None
    ) -> Examples:
        """Scan, or go on, or open what is there; see :func:`max_activating`."""
        place = Path(out).expanduser() if out is not None else None
        if place is None and cache and self.is_reproducible:
            place = self.folder()
        finished = None if place is None else self.finished(place)
        if finished is not None:
            return finished
        scanner = self.scanner()
        state = scanner.empty()
        if place is not None and (place / UNFINISHED).exists():
            from dreamy_lens.dataset.progress import Progress

            state = Progress.load(place / UNFINISHED, self.identity, self.model.device)
        whole = self._scan(scanner, state, place, progress)
        return self.examples(scanner, state, place, whole, progress)

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

    def parcel(self, shard: int, first: int, end: int | None, after: Any = None) -> Progress:
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
        from dreamy_lens.cluster.parcels import FOLDER
        from dreamy_lens.dataset.examples import Examples
        from dreamy_lens.dataset.progress import check_same
        from dreamy_lens.dataset.tables import HEADER

        if place.exists() and not place.is_dir():
            raise ExamplesError(f"{str(place)!r} is a file; results are a folder. Choose another name.")
        if not (place / HEADER).exists():
            others = {path.name for path in place.iterdir()} - {FOLDER} if place.is_dir() else set()
            if others and UNFINISHED not in others:
                raise ExamplesError(f"{str(place)!r} exists and holds no scan; choose another name.")
            return None
        found = Examples.load(place)
        check_same(found.header.get("identity", {}), self.identity, str(place))
        return found if found.header.get("complete") else None

    def _scan(self, scanner: Scanner, state: Progress, place: Path | None, shown: bool | None) -> bool:
        """Whether the corpus was scanned to its end; an interrupt leaves the rest for another time."""
        from dreamy_lens.dataset.scan_bar import Interrupt, ScanBar

        saved = time.monotonic()

        def after(progress: Progress, block: Any) -> bool:
            nonlocal saved
            bar.update(progress, block)
            if place is not None and time.monotonic() - saved >= SAVE_SECONDS:
                progress.save(place / UNFINISHED, self.identity)
                saved = time.monotonic()
            return stop.asked

        with ScanBar(scanner, shown) as bar, Interrupt() as stop:
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
        state: Progress,
        place: Path | None,
        whole: bool = True,
        shown: bool | None = None,
        answers: Answers | None = None,
    ) -> Examples:
        """The results of what was found, written to a folder if one is given; `answers` as for `describe`."""
        from dreamy_lens.dataset import tables
        from dreamy_lens.dataset.describing import Description
        from dreamy_lens.dataset.examples import Examples
        from dreamy_lens.dataset.parts import Tables
        from dreamy_lens.dataset.scan_bar import DescribingBar

        if state.failed:
            named = "; ".join(f"{name} ({why})" for name, why in list(state.failed.items())[:5])
            warnings.warn(
                f"{len(state.failed)} of {len(self.corpus.shards)} parts of {self.corpus.name} could not be read to "
                f"their end, and what follows there is not in the examples: {named}.",
                RuntimeWarning,
                stacklevel=3,
            )
        with DescribingBar(shown) as bar:
            description = Description(scanner, state, bar.update)
            description.describe(answers)
        header = description.header(self.identity if place is not None else {}, whole)
        rows = tables.table("windows", description.windows())
        token_bytes = tables.tokens_of(self.model.vocabulary, rows)
        if place is None:
            return Examples(Tables(header, description.features(), rows, description.kept_rows(), token_bytes))
        tables.write(place, header, description.features(), rows, description.kept_rows(), token_bytes)
        if whole:
            (place / UNFINISHED).unlink(missing_ok=True)
        return Examples.load(place)


def _nothing(state: Progress, corpus: Any, settings: Any) -> str:
    from dreamy_lens.dataset.problems import Problems

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

"""Dreams against data: `compare()` holds runs against the windows of a corpus."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.analysis.prefix_values import Ids, series
from dreamy_lens.comparison import compatibility
from dreamy_lens.comparison.comparison import Comparison, ScanSource
from dreamy_lens.comparison.corpus_frontier import CorpusFrontier
from dreamy_lens.comparison.ngrams import NgramIndex
from dreamy_lens.comparison.overlap import Overlap, nearest
from dreamy_lens.comparison.statements import usual_limits
from dreamy_lens.corpus import open_corpus
from dreamy_lens.errors import DreamyLensError, SettingsError
from dreamy_lens.models.names import EMBEDDED_NAME
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.results.merged import Merged, merge
from dreamy_lens.runs.dream import Dream

if TYPE_CHECKING:
    from dreamy_lens.corpus.corpus import Corpus
    from dreamy_lens.scan.feature_examples import FeatureExamples
    from dreamy_lens.scoring.scorer import Scorer

QUANTILES = (0.999, 0.99, 0.9, 0.5)
SHOWN = 64
"""Dreams whose value at every token is worked out at most, spread from fluent to strong."""

EACH = 8
"""Windows shown for each quantile."""


def compare(
    runs: Any,
    examples: Any,
    *,
    limits: float | Iterable[float] | None = None,
    quantiles: Sequence[float] = QUANTILES,
    corpus: Any = None,
    values: bool | None = None,
    progress: bool | None = None,
) -> Comparison:
    """Hold dreams against the text that drives the same feature most in a corpus (Figure 3 of the paper).

    Args:
        runs: a dream, several of one feature, or what :func:`dreamy_lens.merge` returns. Reading them waits for runs
            that still go on.
        examples: of the same feature on the same model, from :func:`dreamy_lens.max_activating`; those of many
            features will do, and so does the folder they are in.
        limits: cross-entropies, in nats per token, below which both are compared; infinity is no limit. None chooses:
            first the fluency of the corpus' strongest window.
        quantiles: shares of the corpus of whose strength windows are shown, beside the strongest.
        corpus: read once more, from end to end, to find out how much of each dream stands in it word for word; None
            looks only into the windows that were kept. Anything that :func:`dreamy_lens.corpus.open` takes.
        values: whether the feature's value at every token of the dreams is worked out, for which the model is needed;
            None does so if it is in memory.
        progress: whether to show a bar while `corpus` is read; None shows one in terminals and notebooks.

    Returns:
        A Comparison: `.sentence`, `.summary`, `.figure()`, `.to_html(path)`, `.to_pandas()`; a notebook shows it.

    Raises:
        ExamplesError: the examples are of another model, fluency model, tokenizer, feature or BOS convention.
        SettingsError: the runs are of several features, or a limit or quantile is outside its range.

    >>> import dreamy_lens as dl
    >>> run = dl.dream("L2.N17", iterations=2, population=2, children=4, length=6)
    >>> examples = dl.max_activating("L2.N17", corpus=["Return a copy of the array.", "Open the file."], length=6)
    >>> found = dl.compare(run, examples)
    >>> found.sentence == str(found.headline) and len(found.beyond) == len(run.frontier)
    True
    """
    merged = _merged(runs)
    corpus = None if corpus is None else open_corpus(corpus)
    chosen = _limits(limits)
    for q in quantiles:
        if not 0 <= q <= 1:
            raise SettingsError(f"A quantile is a share from 0 to 1, such as 0.99; got {q!r}.")
    found = compatibility.examples_of(examples, merged)
    frontier = merged.frontier
    shown = [w for q in quantiles for w in found.quantile(q, EACH)]
    known = _with_model(merged, found, frontier.spread(SHOWN), shown, values)
    histories = [run.history for run in merged.runs]
    header, counts = found.header, found.counts
    settings = dict(header.get("settings", {}))
    length = int(settings.get("length") or (len(found.top[0]) if found.top else 0))
    scanned = ScanSource(
        corpus=str(header.get("corpus", {}).get("name", "a corpus")),
        windows=found.windows,
        tokens=int(counts.get("tokens", found.windows * length)),
        documents=int(counts.get("documents", 0)),
        length=length,
        measured=found.measured,
        settings=settings,
        versions=dict(header.get("versions", {})),
    )
    measured = [(w.cross_entropy, w.value) for w in found.sampled if w.cross_entropy is not None]
    cloud = np.array(measured, dtype=np.float64).reshape(-1, 2)
    origin = merged.runs[0].provenance
    return Comparison(
        feature=origin.feature,
        title=found.title,
        model=origin.model,
        frontier=frontier,
        seeds=tuple(run.provenance.seed for run in merged.runs),
        evaluated=None if any(h is None for h in histories) else sum(len(h) for h in histories if h is not None),
        top=found.top,
        fluent=found.fluent,
        quantiles=tuple((float(q), found.quantile(q, EACH)) for q in quantiles),
        cloud=cloud[np.isfinite(cloud).all(1)],
        histogram=found.histogram,
        scanned=scanned,
        overlaps=_overlaps(frontier, found, corpus, merged, progress),
        limits=usual_limits(frontier, CorpusFrontier.of(found)) if chosen is None else chosen,
        series=known,
        warnings=compatibility.warnings_of(merged, found, corpus),
        settings=_settings_of(merged),
        quantile_values=tuple(found.quantile_value(q) for q in quantiles),
        fluent_levels=found.fluent_levels,
    )


def _merged(runs: Any) -> Merged:
    if isinstance(runs, Merged):
        return runs
    if isinstance(runs, Dream) or (hasattr(runs, "frontier") and hasattr(runs, "provenance")):
        return merge([runs])
    try:
        given = list(runs)
    except TypeError:
        raise SettingsError(f"compare() takes a run or several, and examples; got {runs!r} for the runs.") from None
    if not all(isinstance(r, Merged) or (hasattr(r, "frontier") and hasattr(r, "provenance")) for r in given):
        raise SettingsError(
            f"compare() takes a run or several, and then examples; got {type(runs).__name__} for the runs. A saved run "
            "is opened by load_run(folder)."
        )
    features = list(dict.fromkeys(getattr(getattr(r, "provenance", None), "feature", "") for r in given))
    if len(features) > 1 and not any(isinstance(r, Merged) for r in given):
        raise SettingsError(
            f"These runs are of {len(features)} features, {features[0]} and {features[1]} among them; compare one at a "
            "time: compare(runs.of(feature), examples)."
        )
    return merge(given)


def _limits(given: float | Iterable[float] | None) -> tuple[float, ...] | None:
    if given is None:
        return None
    try:
        found = tuple(float(x) for x in (given if isinstance(given, Iterable) else [given]))
    except (TypeError, ValueError):
        found = ()
    if not found or any(math.isnan(x) or x <= 0 for x in found):
        raise SettingsError(f"limits are cross-entropies in nats per token, such as 4 or [3, 4, 5]; got {given!r}.")
    return found


def _with_model(
    merged: Merged, examples: FeatureExamples, dreams: Frontier, windows: Sequence[Any], wanted: bool | None
) -> dict[Ids, np.ndarray]:
    """What only the model knows: that the examples are of the same one, and values at every token."""
    if wanted is False:
        return {}
    run = next((r for r in merged.runs if isinstance(r, Dream) and (wanted or _at_hand(r))), None)
    if run is None:
        if wanted:
            raise SettingsError(
                "These runs were read back without a model; compare those that have one, or values=None."
            )
        return {}
    asked = run
    try:
        asked._where_used(lambda: asked.session)
    except DreamyLensError:
        if wanted:
            raise
        return {}  # whatever it is that keeps the run from going on, it need not be compared less

    def work() -> dict[Ids, np.ndarray]:
        within, alone = _scorers(asked.session.scorer)
        compatibility.check_same_model(alone, examples)
        mine = series(within, [p.ids for p in dreams])
        theirs = series(alone, [w.ids for w in windows if w.values is None])
        return theirs | mine

    return run._where_used(work)


def _at_hand(run: Dream) -> bool:
    """Whether the run's model need not be loaded from a folder or the network."""
    given = run._model is not None and not isinstance(run._model, (str, Path))
    return run._session is not None or given or run.provenance.model == EMBEDDED_NAME


def _scorers(of: Scorer) -> tuple[Scorer, Scorer]:
    """Two that score prompts of any length at once: one as the run does, in its template, and one without it."""
    from dreamy_lens.scoring.scorer import Scorer

    other = None if of.fluency is of.model else of.fluency
    plain: dict[str, Any] = {"prepend_bos": of.prepend_bos, "share_prefixes": False, "fluency_model": other}
    alone = Scorer(of.bound, of.model, **plain)
    if not (of.prefix or of.suffix):
        return alone, alone
    return Scorer(of.bound, of.model, prefix=of.prefix, suffix=of.suffix, **plain), alone


def _overlaps(
    frontier: Frontier, examples: FeatureExamples, corpus: Corpus | None, merged: Merged, progress: bool | None
) -> tuple[Overlap, ...]:
    """How much of each dream stands in the kept windows and what surrounds them, and in the corpus if it is read."""
    from dreamy_lens.comparison.ngram_reader import in_corpus

    prompts = [p.ids for p in frontier]
    known = list({w.number: w for w in (*examples.top, *examples.fluent, *examples.sampled)}.values())
    kept = NgramIndex(prompts)
    documents, passages = examples.passages([w.number for w in known])
    kept.feed(passages, documents)
    whole = None
    if corpus is not None:
        whole = in_corpus(prompts, corpus, _vocabulary(merged, examples), progress)
    text = examples.reader.text
    return tuple(
        Overlap(
            kept.shared(i, text, counted=False),
            nearest(ids, known),
            None if whole is None else whole.shared(i, text),
        )
        for i, ids in enumerate(prompts)
    )


def _vocabulary(merged: Merged, examples: FeatureExamples) -> Any:
    """What encodes text: the examples' own, or that of the runs' model, loaded if need be."""
    if hasattr(examples.reader, "encode_many"):
        return examples.reader
    run = next((r for r in merged.runs if isinstance(r, Dream)), None)
    if run is not None:
        return run.session.scorer.vocabulary
    from dreamy_lens.models.load import as_hooked

    return as_hooked(merged.runs[0].provenance.model).vocabulary


def _settings_of(merged: Merged) -> dict[str, Any]:
    from dreamy_lens.runs.report import settings_of

    run = merged.runs[0]
    if isinstance(run, Dream):
        found = settings_of(run)
        if len(merged.runs) > 1:
            found["seed"] = ", ".join(str(r.provenance.seed) for r in merged.runs)
        return found
    return {"feature": run.provenance.feature, "model": run.provenance.model}

"""Compute a comparison: values at every token, overlaps with the corpus, and what both sides reach."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dreamy_lens.comparison.comparison import Comparison
from dreamy_lens.comparison.compatibility import check_same_model, examples_of, warnings_of
from dreamy_lens.comparison.corpus_frontier import CorpusFrontier
from dreamy_lens.comparison.merged_runs import dreams_of, settings_of_runs, vocabulary_of
from dreamy_lens.comparison.ngram_reader import in_corpus
from dreamy_lens.comparison.ngrams import NgramIndex
from dreamy_lens.comparison.overlap import Overlap, nearest
from dreamy_lens.comparison.scan_source import ScanSource
from dreamy_lens.comparison.statements import usual_limits
from dreamy_lens.corpus.corpus import Corpus
from dreamy_lens.errors import DreamyLensError, SettingsError
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.results.merged import Merged
from dreamy_lens.scan.examples import Examples
from dreamy_lens.scan.feature_examples import FeatureExamples
from dreamy_lens.scan.page import EACH
from dreamy_lens.scan.window import Window
from dreamy_lens.scoring.prefix_values import Ids, values_at_tokens

SHOWN = 64
"""Dreams whose value at every token is worked out at most, spread from fluent to strong."""


def build_comparison(
    merged: Merged,
    examples: Examples | FeatureExamples,
    limits: tuple[float, ...] | None,
    quantiles: Sequence[float],
    corpus: Corpus | None,
    values: bool | None,
    progress: bool | None,
) -> Comparison:
    """Compare runs of one feature with its examples; arguments as for :func:`dreamy_lens.compare`, checked already."""
    known = examples_of(examples, merged)
    frontier, origin = merged.frontier, merged.runs[0].provenance
    groups = tuple((float(q), known.quantile(q, EACH)) for q in quantiles)
    at_tokens = token_values(merged, known, frontier.spread(SHOWN), [w for _, some in groups for w in some], values)
    histories = [run.history for run in merged.runs]
    scores = [(w.cross_entropy, w.value) for w in known.sampled if w.cross_entropy is not None]
    cloud = np.array(scores, dtype=np.float64).reshape(-1, 2)
    return Comparison(
        feature=origin.feature,
        title=known.title,
        model=origin.model,
        frontier=frontier,
        seeds=tuple(run.provenance.seed for run in merged.runs),
        evaluated=None if any(h is None for h in histories) else sum(len(h) for h in histories if h is not None),
        top=known.top,
        fluent=known.fluent,
        quantiles=groups,
        cloud=cloud[np.isfinite(cloud).all(1)],
        histogram=known.histogram,
        scanned=ScanSource.of(known),
        overlaps=find_overlaps(merged, known, corpus, progress),
        limits=usual_limits(frontier, CorpusFrontier.of(known)) if limits is None else limits,
        series=at_tokens,
        warnings=warnings_of(merged, known, corpus),
        settings=settings_of_runs(merged),
        quantile_values=tuple(known.quantile_value(q) for q in quantiles),
        fluent_levels=known.fluent_levels,
    )


def token_values(
    merged: Merged, examples: FeatureExamples, dreams: Frontier, windows: Sequence[Window], wanted: bool | None
) -> dict[Ids, np.ndarray]:
    """Work out the feature's value at every token, and check that the examples are of the runs' model.

    Args:
        merged: the runs.
        examples: examples of their feature.
        dreams: prompts whose values are worked out.
        windows: windows whose values are worked out where the scan did not keep them.
        wanted: whether the model is used; None uses it if it is in memory.

    Returns:
        Values by ids, float32 `[n]` each; none if the model is not used.

    Raises:
        SettingsError: values are wanted, and no run has a model.
        ExamplesError: the examples are of another model of the same name.
    """
    if wanted is False:
        return {}
    run = next((run for run in dreams_of(merged) if wanted or run.has_model), None)
    if run is None:
        if wanted:
            raise SettingsError(
                "These runs were read back without a model; compare those that have one, or values=None."
            )
        return {}
    try:
        run.use_model(lambda: run.session)
    except DreamyLensError:
        if wanted:
            raise
        return {}  # what keeps the run from going on does not keep it from being compared

    def work() -> dict[Ids, np.ndarray]:
        scorer = run.session.scorer
        within, alone = scorer.without_sharing(), scorer.without_sharing(template=False)
        check_same_model(alone, examples)
        of_dreams = values_at_tokens(within, [p.ids for p in dreams])
        of_windows = values_at_tokens(alone, [w.ids for w in windows if w.values is None])
        return of_windows | of_dreams

    return run.use_model(work)


def find_overlaps(
    merged: Merged, examples: FeatureExamples, corpus: Corpus | None, progress: bool | None
) -> tuple[Overlap, ...]:
    """Find how much of each dream stands in the kept windows and around them, and in the corpus if one is given."""
    prompts = [p.ids for p in merged.frontier]
    windows = list({w.number: w for w in (*examples.top, *examples.fluent, *examples.sampled)}.values())
    kept = NgramIndex(prompts)
    documents, passages = examples.passages([w.number for w in windows])
    kept.feed(passages, documents)
    whole = None if corpus is None else in_corpus(prompts, corpus, vocabulary_of(merged, examples), progress)
    text = examples.reader.text
    return tuple(
        Overlap(
            kept.shared(i, text, counted=False),
            nearest(ids, windows),
            None if whole is None else whole.shared(i, text),
        )
        for i, ids in enumerate(prompts)
    )

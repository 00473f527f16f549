"""Computation of a comparison: values at every token, overlaps with the corpus, and both frontiers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dreamy_lens.comparison.comparison import Comparison
from dreamy_lens.comparison.compatibility import check_same_model, examples_of, warnings_of
from dreamy_lens.comparison.corpus_frontier import CorpusFrontier
from dreamy_lens.comparison.merged_runs import dreams_of, settings_of_runs, vocabulary_of
from dreamy_lens.comparison.ngram_reader import index_corpus
from dreamy_lens.comparison.ngrams import NgramIndex
from dreamy_lens.comparison.overlap import Overlap, nearest_window
from dreamy_lens.comparison.scan_source import ScanSource
from dreamy_lens.comparison.statements import default_limits
from dreamy_lens.corpus.corpus import Corpus
from dreamy_lens.errors import DreamyLensError, SettingsError
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.results.merged import Merged
from dreamy_lens.scan.examples import Examples
from dreamy_lens.scan.feature_examples import FeatureExamples
from dreamy_lens.scan.page import WINDOWS_PER_QUANTILE
from dreamy_lens.scan.window import Window
from dreamy_lens.scoring.prefix_values import Ids, values_at_tokens

MAX_DREAMS = 64
"""Most dreams whose value at every token is computed; they are spread from fluent to strong."""


def build_comparison(
    merged: Merged,
    examples: Examples | FeatureExamples,
    limits: tuple[float, ...] | None,
    quantiles: Sequence[float],
    corpus: Corpus | None,
    values: bool | None,
    progress: bool | None,
) -> Comparison:
    """Compare runs of one feature with its examples.

    Args:
        merged: Runs of one feature.
        examples: Examples of this feature, or of several features with this one among them.
        limits: Cross-entropies that the statements are about; None chooses them.
        quantiles: Shares of the windows, from 0 to 1, whose quantiles are shown.
        corpus: Corpus in which the text of the dreams is searched; None searches only the kept windows.
        values: Whether to compute values at every token; None computes them if a run has its model in memory.
        progress: Whether to show a progress bar; None shows it in terminals and notebooks.

    Raises:
        ExamplesError: The examples are not comparable with the runs.
        SettingsError: `values` is true, and no run has a model.
    """
    matching = examples_of(examples, merged)
    frontier, origin = merged.frontier, merged.runs[0].provenance
    groups = tuple((float(q), matching.quantile(q, WINDOWS_PER_QUANTILE)) for q in quantiles)
    at_tokens = token_values(
        merged, matching, frontier.spread(MAX_DREAMS), [w for _, group in groups for w in group], values
    )
    histories = [run.history for run in merged.runs]
    scores = [(w.cross_entropy, w.value) for w in matching.sampled if w.cross_entropy is not None]
    cloud = np.array(scores, dtype=np.float64).reshape(-1, 2)
    return Comparison(
        feature=origin.feature,
        title=matching.title,
        model=origin.model,
        frontier=frontier,
        seeds=tuple(run.provenance.seed for run in merged.runs),
        evaluated=None if any(h is None for h in histories) else sum(len(h) for h in histories if h is not None),
        top=matching.top,
        fluent=matching.fluent,
        quantiles=groups,
        cloud=cloud[np.isfinite(cloud).all(1)],
        histogram=matching.histogram,
        scanned=ScanSource.of(matching),
        overlaps=find_overlaps(merged, matching, corpus, progress),
        limits=default_limits(frontier, CorpusFrontier.of(matching)) if limits is None else limits,
        series=at_tokens,
        warnings=(*([frontier.note] if frontier.note else []), *warnings_of(merged, matching, corpus)),
        settings=settings_of_runs(merged),
        quantile_values=tuple(matching.quantile_value(q) for q in quantiles),
        fluent_levels=matching.fluent_levels,
    )


def token_values(
    merged: Merged, examples: FeatureExamples, dreams: Frontier, windows: Sequence[Window], wanted: bool | None
) -> dict[Ids, np.ndarray]:
    """Compute the feature's value at every token, and check that the examples were scored with the runs' model.

    Args:
        merged: Runs of one feature.
        examples: Examples of this feature.
        dreams: Prompts whose values are computed.
        windows: Windows whose values are computed if the scan did not keep them.
        wanted: Whether to use the model; None uses it if it is in memory.

    Returns:
        Values by token ids, float32 `[n]` each; empty if the model is not used.

    Raises:
        SettingsError: Values are wanted, and no run has a model.
        ExamplesError: The examples were scored with another model of the same name.
    """
    if wanted is False:
        return {}
    run = next((run for run in dreams_of(merged) if wanted or run.has_model), None)
    if run is None:
        if wanted:
            raise SettingsError(
                "values=True needs the model of the runs, and these runs have none. Compare runs that have their "
                "model, or leave out values=."
            )
        return {}
    try:
        run.use_model(lambda: run.session)
    except DreamyLensError:
        if wanted:
            raise
        return {}  # a run that cannot continue, for example without its model, can still be compared

    def compute() -> dict[Ids, np.ndarray]:
        scorer = run.session.scorer
        with_template, without_template = scorer.without_sharing(), scorer.without_sharing(template=False)
        check_same_model(without_template, examples)
        of_dreams = values_at_tokens(with_template, [p.ids for p in dreams])
        of_windows = values_at_tokens(without_template, [w.ids for w in windows if w.values is None])
        return of_windows | of_dreams

    return run.use_model(compute)


def find_overlaps(
    merged: Merged, examples: FeatureExamples, corpus: Corpus | None, progress: bool | None
) -> tuple[Overlap, ...]:
    """Find the overlap of each dream with the kept windows and their context, and with the corpus if one is given.

    Args:
        merged: Runs of one feature.
        examples: Examples of this feature.
        corpus: Corpus to search; None searches only the kept windows and their context.
        progress: Whether to show a progress bar; None shows it in terminals and notebooks.

    Returns:
        Overlap of each prompt of the frontier.
    """
    prompts = [p.ids for p in merged.frontier]
    windows = list({w.number: w for w in (*examples.top, *examples.fluent, *examples.sampled)}.values())
    in_windows = NgramIndex(prompts)
    documents, passages = examples.passages([w.number for w in windows])
    in_windows.feed(passages, documents)
    in_corpus = None if corpus is None else index_corpus(prompts, corpus, vocabulary_of(merged, examples), progress)
    text = examples.reader.text
    return tuple(
        Overlap(
            in_windows.shared(i, text, counted=False),
            nearest_window(ids, windows),
            None if in_corpus is None else in_corpus.shared(i, text),
        )
        for i, ids in enumerate(prompts)
    )

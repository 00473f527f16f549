"""Dreams against the strongest windows of a corpus: `against_data`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dreamy_lens._host import silenced
from dreamy_lens.api.compare import compare
from dreamy_lens.results.study import MEASURED, ChartSeries, StudyChart, StudyClaim, StudyResult
from dreamy_lens.studies.claims import span_text, verdict
from dreamy_lens.studies.execution import StudyExecution, best_within, merged_runs_of
from dreamy_lens.studies.neuron_study import features_of
from dreamy_lens.studies.settings import StudySettings, own_keywords, show_study_settings

if TYPE_CHECKING:
    from dreamy_lens.comparison.comparison import Comparison

DRAWN = 6
"""Most features that are drawn."""
MOST = 0.5
"""Share of the features for which a claim must be true, to hold."""


@dataclass(frozen=True)
class DataStudy(StudySettings):
    """Settings of :func:`dreamy_lens.studies.against_data`.

    Attributes:
        features: Features, or their texts; None is six neurons at the depths of those in the paper's Table 5; see
            :func:`~dreamy_lens.studies.paper.living_neurons`.
        seeds: Number of seeds of each feature; their joint frontier counts.
        corpus: Corpus, as :func:`dreamy_lens.corpus.open` takes it; None is the documentation of installed packages.
        tokens: Tokens of the corpus to scan, such as "1M"; None is all.
        k: Number of each feature's strongest windows.
    """

    features: Any = None
    seeds: int = 1
    corpus: Any = None
    tokens: Any = None
    k: int = 64

    quick: ClassVar[Mapping[str, Any]] = {"seconds": 30.0, "tokens": "300k"}
    least: ClassVar[Mapping[str, int]] = {"seeds": 1, "k": 1}


@silenced
def study_against_data(
    model: Any = None,
    *,
    out: Any = None,
    quick: bool = False,
    ray: Any = None,
    progress: bool | None = None,
    **settings: Any,
) -> StudyResult:
    """Compare dreams of features with the windows of a corpus that drive them most (Figure 3).

    Args:
        model: TransformerBridge, Hugging Face id, or folder of a model; None is the embedded model.
        out: Folder of the study. If it holds an unfinished study, that continues; more seeds may be added.
        quick: Whether to make the quick version, with runs of 30 seconds and 300,000 tokens of the corpus.
        ray: Ray cluster that makes the runs and the scan, as :func:`dreamy_lens.sweep` takes it.
        progress: Whether to show progress; None shows it in terminals and notebooks.
        **settings: Fields of :class:`~dreamy_lens.studies.data_study.DataStudy`.

    Returns:
        A :class:`~dreamy_lens.results.StudyResult`: `.table` has a row for each feature, and `.tables["windows"]` one
        for each of the strongest windows.

    Raises:
        CorpusError: The corpus does not exist, or none of it can be read.
        FeatureError: A feature does not fit the model.
        RunFolderError: `out` holds something else or a study with other settings, or no run is finished.
        SettingsError: A setting does not exist, or has a value that it cannot have.

    >>> import dreamy_lens as dl
    >>> texts = ["Return a copy of the array, with axes transposed.", "Raise an error if the file is not found there."]
    >>> small = dict(search=dl.RandomSearch(iterations=1, children=8), length=6, progress=False)
    >>> study = dl.studies.against_data(features="L2.N17", corpus=texts, **small)
    >>> study.table["feature"].tolist(), len(study.claims)
    (['L2.N17'], 3)
    """
    chosen = DataStudy.chosen(quick, settings, own_keywords(study_against_data))
    with StudyExecution("against_data", "Dreams against a corpus", chosen, model, out, ray, progress) as work:
        features = features_of(chosen.features, work.hooked, chosen.length)
        examples = work.scan(features, chosen.corpus, k=chosen.k, tokens=chosen.tokens)
        runs = work.sweep(features, seeds=chosen.seeds)
        limits = [chosen.limit, math.inf]
        comparisons = {
            label: compare(merged, examples, limits=limits, values=False, progress=False)
            for label, merged in merged_runs_of(runs, features).items()
        }
        return _result(work, chosen, comparisons)


show_study_settings(study_against_data, DataStudy)


def _result(work: StudyExecution, chosen: DataStudy, comparisons: Mapping[str, Comparison]) -> StudyResult:
    import pandas as pd

    rows, windows = [], []
    for label, each in comparisons.items():
        if not each.top:
            work.notes.append(f"No window of the corpus has a finite value of {label}, so it is not compared.")
            continue
        top = each.top[0]
        fluent_windows = [w for w in (*each.top, *each.fluent) if (w.cross_entropy or math.inf) <= chosen.limit]
        window = max((w.value for w in fluent_windows), default=math.nan)
        fluent, equal = best_within(each.frontier, chosen.limit), None
        if top.cross_entropy is not None:
            equal = best_within(each.frontier, top.cross_entropy)
        shown = fluent or each.frontier[-1]
        rows.append(
            {
                "feature": label,
                "window": top.value,
                "window_cross_entropy": math.nan if top.cross_entropy is None else top.cross_entropy,
                "dream": each.frontier[-1].value,
                "dream_cross_entropy": each.frontier[-1].cross_entropy,
                "fluent_window": window,
                "fluent_dream": math.nan if fluent is None else fluent.value,
                "dream_as_fluent_as_window": math.nan if equal is None else equal.value,
                "beyond": int(sum(each.beyond)),
                "windows": each.scanned.windows,
                "text": shown.text,
            }
        )
        windows += [
            {"feature": label, "rank": i, "value": w.value, "cross_entropy": w.cross_entropy, "text": w.text}
            for i, w in enumerate(each.top)
        ]
    frame = pd.DataFrame(rows)
    charts = [_chart(label, each) for label, each in list(comparisons.items())[:DRAWN] if each.top]
    tables = {"features": frame, "windows": pd.DataFrame(windows)}
    return work.result(tables, _claims(chosen, frame) if len(frame) else [], charts)


def _claims(chosen: DataStudy, frame: Any) -> list[StudyClaim]:
    count = len(frame)
    rule = "most features"

    def claim(name: str, question: str, paper: str, dream: str, window: str) -> StudyClaim:
        known = frame[[dream, window]].dropna()
        above = int((known[dream] > known[window]).sum())
        positive = known[known[window] > 0]
        ratios = (positive[dream] / positive[window]).tolist()
        found = f"{above} of {count} features" + (f"; dream / window {span_text(ratios)}" if ratios else "")
        return StudyClaim(name, question, paper, found, verdict(above > MOST * count), rule)

    limit = f"{chosen.limit:g}"
    strong = claim(
        "higher than data",
        "Dreams drive features higher than every window of the corpus.",
        "dreams are above the strongest dataset examples; L3.N1000 of Pythia-12B: the strongest has 4.6",
        "dream",
        "window",
    )
    fluent = claim(
        "higher while fluent",
        f"They do so with a cross-entropy of at most {limit}, against windows within the same limit.",
        "",
        "fluent_dream",
        "fluent_window",
    )
    known = frame["dream_as_fluent_as_window"]
    above = int((known > frame["window"]).sum())
    equal = StudyClaim(
        "higher at the window's fluency",
        "For how many features is a dream that is as fluent as the strongest window higher than it?",
        "",
        f"{above} of {count}; {int(known.isna().sum())} have no dream that fluent",
        MEASURED,
    )
    return [strong, fluent, equal]


def _chart(label: str, each: Comparison) -> StudyChart:
    top = [w for w in each.top if w.cross_entropy is not None]
    x, y = (tuple(column.tolist()) for column in each.cloud.T)
    strongest = tuple(float(w.cross_entropy or 0) for w in top), tuple(w.value for w in top)
    frontier = tuple(each.frontier.cross_entropies.tolist()), tuple(each.frontier.values.tolist())
    series = (
        ChartSeries("random windows", x, y, "points", colour=6, thin=True),
        ChartSeries(f"top {len(top)} windows", *strongest, "points", colour=1, labels=tuple(w.text for w in top)),
        ChartSeries("dreams", *frontier, "steps"),
    )
    return StudyChart(f"{label} (3)", "cross-entropy, nats per token", "value", series)

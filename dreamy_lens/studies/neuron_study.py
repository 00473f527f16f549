"""Dreams of several neurons, and the attribution of their prompts: `neurons`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dreamy_lens._host import silenced
from dreamy_lens.errors import NoGradientError, SettingsError, quoted
from dreamy_lens.features.expressions import Feature
from dreamy_lens.features.parser import parse
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.results.study import MEASURED, ChartSeries, StudyChart, StudyClaim, StudyResult
from dreamy_lens.studies.claims import span_text, verdict
from dreamy_lens.studies.execution import StudyExecution, best_within, merged_runs_of
from dreamy_lens.studies.paper import TABLE_5_FLUENT, TABLE_5_MAXIMA, default_neurons
from dreamy_lens.studies.settings import StudySettings, own_keywords, show_study_settings

if TYPE_CHECKING:
    from dreamy_lens.results.attribution import Attribution
    from dreamy_lens.results.merged import Merged
    from dreamy_lens.results.prompt import Prompt

DRAWN = 6
"""Most prompts whose attribution is drawn."""


@dataclass(frozen=True)
class NeuronStudy(StudySettings):
    """Settings of :func:`dreamy_lens.studies.neurons`.

    Attributes:
        features: Features, or their texts; None is six neurons at the depths of those in the paper's Table 5; see
            :func:`~dreamy_lens.studies.paper.living_neurons`.
        seeds: Number of seeds of each feature; their joint frontier counts.
        substitutes: Substitutes at each position of an attribution; 0 computes none.
    """

    features: Any = None
    seeds: int = 1
    substitutes: int = 32

    quick: ClassVar[Mapping[str, Any]] = {"seconds": 30.0}
    least: ClassVar[Mapping[str, int]] = {"seeds": 1, "substitutes": 0}


@silenced
def study_neurons(
    model: Any = None,
    *,
    out: Any = None,
    quick: bool = False,
    ray: Any = None,
    progress: bool | None = None,
    **settings: Any,
) -> StudyResult:
    """Dream of neurons, and attribute the value of their prompts to tokens (Tables 3 and 5, Figures 1 and 4).

    Args:
        model: TransformerBridge, Hugging Face id, or folder of a model; None is the embedded model.
        out: Folder of the study. If it holds an unfinished study, that continues; more seeds may be added.
        quick: Whether to make the quick version, with runs of 30 seconds.
        ray: Ray cluster that makes the runs, as :func:`dreamy_lens.sweep` takes it.
        progress: Whether to show progress; None shows it in terminals and notebooks.
        **settings: Fields of :class:`~dreamy_lens.studies.neuron_study.NeuronStudy`.

    Returns:
        A :class:`~dreamy_lens.results.StudyResult`: `.table` has a row for each neuron, `.tables["prompts"]` one for
        each corner of the frontiers' hulls, and `.tables["attributions"]` one for each token of the fluent prompts.

    Raises:
        FeatureError: A feature does not fit the model.
        RunFolderError: `out` holds something else or a study with other settings, or no run is finished.
        SettingsError: A setting does not exist, or has a value that it cannot have.

    >>> import dreamy_lens as dl
    >>> small = dict(search=dl.RandomSearch(iterations=1, children=8), length=6, progress=False)
    >>> study = dl.studies.neurons(features=["L2.N17", "L3.N5"], substitutes=0, **small)
    >>> study.table["feature"].tolist(), list(study.tables)
    (['L2.N17', 'L3.N5'], ['neurons', 'prompts', 'attributions'])
    """
    chosen = NeuronStudy.chosen(quick, settings, own_keywords(study_neurons))
    with StudyExecution("neurons", "Dreams of neurons", chosen, model, out, ray, progress) as work:
        features = features_of(chosen.features, work.hooked, chosen.length)
        runs = work.sweep(features, seeds=chosen.seeds)
        return _result(work, chosen, merged_runs_of(runs, features))


show_study_settings(study_neurons, NeuronStudy)


def features_of(given: Any, model: HookedModel, length: int) -> list[Feature]:
    """Return the features of a study: those given, or the neurons that stand for the paper's.

    Raises:
        SettingsError: The list is empty.
    """
    if given is None:
        return default_neurons(model, length)
    found = [parse(each) for each in (given if isinstance(given, (list, tuple)) else [given])]
    if not found:
        raise SettingsError(f"features is {quoted(given)}; give at least one feature, or None for the paper's neurons.")
    return found


def shown_prompt(merged: Merged, limit: float) -> Prompt:
    """Return the strongest fluent prompt of a frontier, or the strongest one if none is fluent."""
    return best_within(merged.frontier, limit) or merged.frontier[-1]


def _result(work: StudyExecution, chosen: NeuronStudy, merged: Mapping[str, Merged]) -> StudyResult:
    import pandas as pd

    rows, corners, tokens = [], [], []
    attributions: dict[str, Attribution] = {}
    for label, each in merged.items():
        shown, strongest = shown_prompt(each, chosen.limit), each.frontier[-1]
        fluent = shown.cross_entropy <= chosen.limit
        rows.append(
            {
                "feature": label,
                "value": shown.value if fluent else math.nan,
                "cross_entropy": shown.cross_entropy if fluent else math.nan,
                "best_value": strongest.value,
                "best_cross_entropy": strongest.cross_entropy,
                "kept": shown.value / strongest.value if fluent and strongest.value > 0 else math.nan,
                "prompts": sum(len(run.history) for run in each.runs if run.history is not None),
                "text": shown.text,
            }
        )
        corners += [
            {"feature": label, "value": p.value, "cross_entropy": p.cross_entropy, "perplexity": p.perplexity}
            | {"seed": p.provenance.seed, "text": p.text}
            for p in each.frontier.hull()
        ]
        if not chosen.substitutes:
            continue
        work.say(f"Attributing the prompt of {label} ...")
        try:
            found = attributions[label] = shown.attribution(k=chosen.substitutes)
        except NoGradientError as error:
            work.notes.append(f"There is no attribution of {label}: {error}")
            continue
        drops = zip(found.tokens, found.drop_to_worst.tolist(), found.drop_to_best.tolist(), strict=True)
        tokens += [
            {"feature": label, "position": i, "token": token, "drop_to_worst": worst, "drop_to_best": best}
            for i, (token, worst, best) in enumerate(drops)
        ]
    names = ["feature", "position", "token", "drop_to_worst", "drop_to_best"]
    tables = {
        "neurons": pd.DataFrame(rows),
        "prompts": pd.DataFrame(corners),
        "attributions": pd.DataFrame(tokens, columns=names),
    }
    charts = [
        _frontier_chart(merged),
        *map(_attribution_chart, list(attributions)[:DRAWN], list(attributions.values())),
    ]
    return work.result(tables, _claims(chosen, tables, attributions), charts)


def _claims(
    chosen: NeuronStudy, tables: Mapping[str, Any], attributions: Mapping[str, Attribution]
) -> Sequence[StudyClaim]:
    frame = tables["neurons"]
    count, positive = len(frame), int((frame["value"] > 0).sum())
    paper_kept = np.array(TABLE_5_FLUENT) / np.array(TABLE_5_MAXIMA)
    kept, known = frame["kept"].dropna(), frame["value"].dropna()
    claims = [
        StudyClaim(
            "fluent prompts drive neurons",
            f"For each neuron, a prompt with a cross-entropy of at most {chosen.limit:g} has a value above 0.",
            f"six neurons of Pythia-12B (Table 5): {span_text(TABLE_5_FLUENT)}, with a cross-entropy of at most 6",
            f"{positive} of {count} neurons" + (f"; values {span_text(known)}" if len(known) else ""),
            verdict(positive == count),
            "all neurons",
        ),
        StudyClaim(
            "price of fluency",
            "How much of a neuron's highest value do fluent prompts keep?",
            f"Table 5: {span_text(100 * paper_kept)} %",
            f"{span_text(100 * kept)} %" if len(kept) else "no neuron has a value above 0 and a fluent prompt",
            MEASURED,
        ),
    ]
    if attributions:
        shares = []
        for found in attributions.values():
            drops = np.clip(found.drop_to_worst, 0, None)
            shares.append(float(drops[-1] / drops.max()) if drops.max() > 0 else math.nan)
        last = sum(s >= 1 for s in shares)
        claims.append(
            StudyClaim(
                "which tokens carry the value",
                "Is the last token, at which the neuron is read, the one whose replacement costs most?",
                "",
                f"in {last} of {len(shares)} prompts",
                MEASURED,
            )
        )
    return claims


def _frontier_chart(merged: Mapping[str, Merged]) -> StudyChart:
    series = [
        ChartSeries(label, tuple(m.frontier.cross_entropies.tolist()), tuple(m.frontier.values.tolist()), "steps",
                    colour=k % 6)
        for k, (label, m) in enumerate(merged.items())
    ]  # fmt: skip
    return StudyChart("Frontiers of the neurons", "cross-entropy, nats per token", "value", tuple(series))


def _attribution_chart(label: str, found: Attribution) -> StudyChart:
    places = tuple(map(float, range(len(found.tokens))))
    series = (
        ChartSeries("to the worst substitute", places, tuple(found.drop_to_worst.tolist()), "points"),
        ChartSeries("to the best", places, tuple(found.drop_to_best.tolist()), "points", colour=1),
    )
    return StudyChart(f"Tokens of {label}", "token", "drop of the value", series, tuple(found.tokens))

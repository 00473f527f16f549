"""The runs of a comparison: several seen as one, and the models that they have."""

from __future__ import annotations

from typing import Any

from dreamy_lens.errors import SettingsError
from dreamy_lens.features.expressions import Feature
from dreamy_lens.features.paths import absolute
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.load import as_hooked
from dreamy_lens.results.merged import Merged, merge
from dreamy_lens.runs.dream import Dream
from dreamy_lens.runs.dreams import Dreams
from dreamy_lens.runs.report import run_settings
from dreamy_lens.scan.feature_examples import FeatureExamples


def merge_runs(runs: Any) -> Merged:
    """Merge the runs that a comparison is given.

    Args:
        runs: a run, several of one feature, or merged runs.

    Raises:
        SettingsError: they are no runs, or runs of several features.
    """
    if isinstance(runs, Merged):
        return runs
    if _is_run(runs):
        return merge([runs])
    try:
        given = list(runs)
    except TypeError:
        raise SettingsError(f"compare() takes a run or several, and examples; got {runs!r} for the runs.") from None
    if not all(isinstance(run, Merged) or _is_run(run) for run in given):
        raise SettingsError(
            f"compare() takes a run or several, and then examples; got {type(runs).__name__} for the runs. A saved run "
            "is opened by load_run(folder)."
        )
    features = list(dict.fromkeys(getattr(getattr(run, "provenance", None), "feature", "") for run in given))
    if len(features) > 1 and not any(isinstance(run, Merged) for run in given):
        raise SettingsError(
            f"These runs are of {len(features)} features, {features[0]} and {features[1]} among them; compare one at a "
            "time: compare(runs.of(feature), examples)."
        )
    return merge(given)


def merge_runs_of(feature: Feature, runs: Any) -> Merged:
    """Merge those of some runs that are of one feature.

    Args:
        feature: the feature.
        runs: a run, several, or merged runs, which are taken as they are.

    Raises:
        SettingsError: none of the runs is of the feature.
    """
    if isinstance(runs, Merged):
        return runs
    given = list(runs) if isinstance(runs, (Dreams, list, tuple)) else [runs]
    names = {str(feature), str(absolute(feature))}
    chosen = [run for run in given if run.provenance.feature in names]
    if given and not chosen:
        there = ", ".join(dict.fromkeys(run.provenance.feature for run in given))
        raise SettingsError(f"The card is of {feature}, and the run is of {there}; give the run of this feature.")
    return merge(chosen)


def dreams_of(merged: Merged) -> list[Dream]:
    """Return the merged runs that are dreams, and not only read back from a file of merged runs."""
    return [run for run in merged.runs if isinstance(run, Dream)]


def prompt_length(merged: Merged) -> int:
    """Return how many tokens the dreams have."""
    return len(merged.frontier[0]) if len(merged.frontier) else dreams_of(merged)[0].config.length


def model_of(merged: Merged) -> HookedModel:
    """Return the model of the runs: the one that a dream has in memory, or else the one that they name."""
    dreams = dreams_of(merged)
    return dreams[0].session.scorer.model if dreams else as_hooked(merged.runs[0].provenance.model)


def fluency_model_of(merged: Merged) -> HookedModel | None:
    """Return the fluency model of the runs, which a scan that is made for them has too; None is their model itself."""
    named = next((run for run in dreams_of(merged) if run.fluency_name), None)
    return None if named is None else named.session.scorer.fluency


def vocabulary_of(merged: Merged, examples: FeatureExamples) -> Any:
    """Return what encodes text: the examples' own vocabulary, or that of the runs' model, loaded if need be."""
    if hasattr(examples.reader, "encode_many"):
        return examples.reader
    dreams = dreams_of(merged)
    return dreams[0].session.scorer.vocabulary if dreams else model_of(merged).vocabulary


def settings_of_runs(merged: Merged) -> dict[str, Any]:
    """Return what the runs were made of and with, for the foot of a page."""
    run = merged.runs[0]
    if not isinstance(run, Dream):
        return {"feature": run.provenance.feature, "model": run.provenance.model}
    settings = run_settings(run)
    if len(merged.runs) > 1:
        settings["seed"] = ", ".join(str(run.provenance.seed) for run in merged.runs)
    return settings


def _is_run(given: Any) -> bool:
    return hasattr(given, "frontier") and hasattr(given, "provenance")

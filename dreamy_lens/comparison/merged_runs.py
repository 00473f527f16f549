"""Merged runs of a comparison, and the models that the runs have."""

from __future__ import annotations

from typing import Any

from dreamy_lens.errors import SettingsError, quoted
from dreamy_lens.features.expressions import Feature
from dreamy_lens.features.parser import feature_names
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.load import as_hooked
from dreamy_lens.results.merged import Merged, merge
from dreamy_lens.runs.dream import Dream
from dreamy_lens.runs.dreams import Dreams
from dreamy_lens.runs.report import run_settings
from dreamy_lens.scan.feature_examples import FeatureExamples


def merge_runs(runs: Any, caller: str = "compare") -> Merged:
    """Merge the runs of a comparison.

    Args:
        runs: A run, several runs of one feature, or merged runs.
        caller: Name of the function that the user called, for messages.

    Raises:
        SettingsError: `runs` has anything but runs, or runs of several features.
    """
    if isinstance(runs, Merged):
        return runs
    if _is_run(runs):
        return merge([runs])
    try:
        members = list(runs)
    except TypeError:
        raise SettingsError(
            f"{caller}() takes one run or several, and then examples; got {quoted(runs)} for the runs."
        ) from None
    if not all(isinstance(run, Merged) or _is_run(run) for run in members):
        raise SettingsError(
            f"{caller}() takes one run or several, and then examples; got {type(runs).__name__} for the runs. "
            "load_run(folder) opens a saved run."
        )
    features = list(dict.fromkeys(getattr(getattr(run, "provenance", None), "feature", "") for run in members))
    if len(features) > 1 and not any(isinstance(run, Merged) for run in members):
        raise SettingsError(
            f"These runs are of {len(features)} features, {features[0]} and {features[1]} among them; compare one "
            f"feature at a time: {caller}(runs.of(feature), examples)."
        )
    return merge(members)


def merge_runs_of(feature: Feature, runs: Any) -> Merged:
    """Merge the runs of one feature.

    Args:
        feature: Feature whose runs are selected.
        runs: A run, several runs, or merged runs, which are returned unchanged.

    Raises:
        SettingsError: No run is of this feature.
    """
    if isinstance(runs, Merged):
        return runs
    members = list(runs) if isinstance(runs, (Dreams, list, tuple)) else [runs]
    names = {str(feature), str(feature.absolute())}
    matching = [run for run in members if run.provenance.feature in names]
    if members and not matching:
        others = ", ".join(dict.fromkeys(feature_names(run.provenance.feature)[0] for run in members))
        name = feature.label
        raise SettingsError(f"The card is about {name}, but the run is of {others}; give a run of {name}.")
    return merge(matching)


def dreams_of(merged: Merged) -> list[Dream]:
    """Return the merged runs that are dreams, without those from a file of merged runs."""
    return [run for run in merged.runs if isinstance(run, Dream)]


def prompt_length(merged: Merged) -> int:
    """Return the number of tokens of the dreams; the median, if they have several lengths."""
    lengths = sorted(len(prompt) for prompt in merged.frontier)
    return lengths[len(lengths) // 2] if lengths else dreams_of(merged)[0].config.length


def model_of(merged: Merged) -> HookedModel:
    """Return the model of the runs: the model that a dream has in memory, or else the model of that name."""
    dreams = dreams_of(merged)
    return dreams[0].session.scorer.model if dreams else as_hooked(merged.runs[0].provenance.model)


def fluency_model_of(merged: Merged) -> HookedModel | None:
    """Return the fluency model of the runs, for a scan to be compared with them; None is the model of the feature."""
    run = next((run for run in dreams_of(merged) if run.fluency_name), None)
    return None if run is None else run.session.scorer.fluency


def vocabulary_of(merged: Merged, examples: FeatureExamples) -> Any:
    """Return a vocabulary that encodes text: that of the examples, or that of the runs' model, which may be loaded."""
    if hasattr(examples.reader, "encode_many"):
        return examples.reader
    dreams = dreams_of(merged)
    return dreams[0].session.scorer.vocabulary if dreams else model_of(merged).vocabulary


def settings_of_runs(merged: Merged) -> dict[str, Any]:
    """Return the settings of the runs, for the end of a page."""
    run = merged.runs[0]
    if not isinstance(run, Dream):
        return {"feature": feature_names(run.provenance.feature)[1], "model": run.provenance.model}
    settings = run_settings(run)
    if len(merged.runs) > 1:
        settings["seed"] = ", ".join(str(run.provenance.seed) for run in merged.runs)
    return settings


def _is_run(candidate: Any) -> bool:
    """Return whether an object has the attributes of a run."""
    # Several runs have a frontier too, unless they drive several features, but no provenance.
    return hasattr(candidate, "provenance") and hasattr(candidate, "frontier")

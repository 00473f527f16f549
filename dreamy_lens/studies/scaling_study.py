"""What dreams reach in models of several sizes: `scaling`."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from dreamy_lens._host import silenced
from dreamy_lens.errors import SettingsError, quoted
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.load import check_source
from dreamy_lens.results.study import MEASURED, NOT_MEASURED, ChartSeries, StudyChart, StudyClaim, StudyResult
from dreamy_lens.studies.claims import bootstrap
from dreamy_lens.studies.directions import random_directions, random_scores
from dreamy_lens.studies.execution import StudyExecution, best_within, merged_runs_of
from dreamy_lens.studies.settings import StudySettings, own_keywords, show_study_settings


@dataclass(frozen=True)
class ScalingStudy(StudySettings):
    """Settings of :func:`dreamy_lens.studies.scaling`.

    Attributes:
        directions: Number of random unit directions in each model.
        depth: Share of the layers before the one whose residual stream is read, from 0 to 1.
        prompts: Number of random prompts, the scale of z-scores.
        seeds: Number of seeds of each direction; their joint frontier counts.
        seed: Seed of the directions and of the random prompts.
    """

    directions: int = 8
    depth: float = 0.5
    prompts: int = 1024
    seeds: int = 1
    seed: int = 0

    quick: ClassVar[Mapping[str, Any]] = {"directions": 4, "seconds": 15.0}
    least: ClassVar[Mapping[str, int]] = {"directions": 1, "prompts": 2, "seeds": 1, "seed": 0}

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.depth, bool) or not isinstance(self.depth, (int, float)) or not 0 <= self.depth <= 1:
            raise SettingsError(f"depth is {quoted(self.depth)}; it is a share of the layers, from 0 to 1.")


@silenced
def study_scaling(
    model: Any = None,
    *,
    out: Any = None,
    quick: bool = False,
    ray: Any = None,
    progress: bool | None = None,
    **settings: Any,
) -> StudyResult:
    """Compare what dreams reach in models of several sizes. Not in the paper.

    The features are random unit directions of the residual stream at one relative depth (Eq. 4), whose values have the
    same scale in every model once they are z-scores (Eq. 5). Cross-entropies of models with different tokenizers cannot
    be compared.

    Args:
        model: List of models, each a TransformerBridge, a Hugging Face id, or the folder of a model.
        out: Folder of the study. If it holds an unfinished study, that continues; more seeds may be added.
        quick: Whether to make the quick version: 4 directions, runs of 15 seconds.
        ray: Ray cluster that makes the runs, as :func:`dreamy_lens.sweep` takes it.
        progress: Whether to show progress; None shows it in terminals and notebooks.
        **settings: Fields of :class:`~dreamy_lens.studies.scaling_study.ScalingStudy`.

    Returns:
        A :class:`~dreamy_lens.results.StudyResult`: `.table` has a row for each model, and `.tables["directions"]` one
        for each direction.

    Raises:
        ModelError: A model cannot be loaded.
        RunFolderError: `out` holds something else or a study with other settings, or no run is finished.
        SettingsError: A setting does not exist, or has a value that it cannot have.

    >>> import dreamy_lens as dl
    >>> small = dict(search=dl.RandomSearch(iterations=1, children=8), length=6, progress=False)
    >>> study = dl.studies.scaling([None], directions=1, prompts=16, **small)
    >>> study.table["layers"].tolist(), study.claims[0].verdict
    ([6], 'not measured')
    """
    import pandas as pd

    chosen = ScalingStudy.chosen(quick, settings, own_keywords(study_scaling))
    models = list(model) if isinstance(model, (list, tuple)) else [model]
    if not models:
        raise SettingsError("The list of models is empty; give at least one.")
    for number, each in enumerate(models):
        if any(each is other or (isinstance(each, str) and each == other) for other in models[:number]):
            raise SettingsError(f"The model {quoted(each)} is in the list twice; give each model once.")
        check_source(each)  # a wrong name is an error before any run
    models_rows, rows = [], []
    with StudyExecution("scaling", "Models of several sizes", chosen, models[0], out, ray, progress) as work:
        work.given_model = models
        for number, each in enumerate(models):
            folder = work.folder / f"model-{number:03d}"
            with StudyExecution("scaling", work.title, chosen, each, folder, ray, progress) as part:
                row, own = _measured(part, chosen)
                models_rows.append(row)
                rows += own
                work.notes += [f"{row['model']}: {note}" for note in part.notes]
                work.interrupted = part.interrupted
            if number + 1 < len(models):
                work.check_going_on()
        frame, directions = pd.DataFrame(models_rows), pd.DataFrame(rows)
        tables, names = {"models": frame, "directions": directions}, ", ".join(frame["model"])
        return work.result(tables, _claims(frame), [_chart(frame, chosen)], names)


show_study_settings(study_scaling, ScalingStudy)


def _measured(part: StudyExecution, chosen: ScalingStudy) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the row of a model, and those of its directions."""
    hooked = part.hooked
    layer = min(hooked.n_layers - 1, int(chosen.depth * hooked.n_layers))
    features = random_directions(hooked.d_model, layer, chosen.directions, chosen.seed)
    random = random_scores(features, hooked, chosen.prompts, chosen.length, chosen.seed)
    runs = part.sweep(features, seeds=chosen.seeds)
    rows = []
    for j, feature in enumerate(features):
        found = merged_runs_of(runs, [feature])
        for merged in found.values():
            best, fluent = merged.frontier[-1], best_within(merged.frontier, chosen.limit)
            rows.append(
                {"model": hooked.name, "layer": layer, "direction": j, "value": best.value}
                | {"z": random.z(j, best.value), "cross_entropy": best.cross_entropy}
                | {"fluent_z": math.nan if fluent is None else random.z(j, fluent.value), "text": (fluent or best).text}
            )
    z, kept = (np.array([r[name] for r in rows]) for name in ("z", "fluent_z"))
    low, high = bootstrap(z)
    row = {
        **{"model": hooked.name, "parameters": parameter_count(hooked), "layers": hooked.n_layers},
        **{"width": hooked.d_model, "layer": layer, "directions": len(rows)},
        **{"z": float(np.nanmean(z)), "low": low, "high": high},
        "fluent_z": float(np.nanmean(kept)) if np.isfinite(kept).any() else math.nan,
    }
    return row, rows


def parameter_count(model: HookedModel) -> int:
    """Return the number of parameters of the Hugging Face model, in which tied weights count once.

    TransformerLens keeps further copies, of queries, keys and values that are one matrix in the model, and biases of
    zeros. So the parameters of the architecture are counted, without memory for them.
    """
    from transformers import PreTrainedModel

    module = model.backend.module
    original = getattr(module, "original_model", None)
    if not isinstance(original, PreTrainedModel):
        return sum(p.numel() for p in module.parameters())
    with torch.device("meta"):
        return sum(p.numel() for p in type(original)(copy.deepcopy(original.config)).parameters())


def _claims(frame: Any) -> list[StudyClaim]:
    question = "Do dreams reach higher z-scores in larger models?"
    if len(frame) < 2:
        return [StudyClaim("size", question, "", "one model", NOT_MEASURED)]
    ordered = frame.sort_values("parameters")
    shown = ", ".join(f"{n:,} parameters: {z:.2f}" for n, z in zip(ordered["parameters"], ordered["z"], strict=True))
    return [StudyClaim("size", question, "", shown, MEASURED)]


def _chart(frame: Any, chosen: ScalingStudy) -> StudyChart:
    ordered = frame.sort_values("parameters")
    x, labels = tuple(map(float, ordered["parameters"])), tuple(ordered["model"])
    series = [
        ChartSeries("strongest prompt", x, tuple(ordered["z"].tolist()), "bars", tuple(ordered["low"].tolist()),
                    tuple(ordered["high"].tolist()), labels=labels),
        ChartSeries(f"cross-entropy up to {chosen.limit:g}", x, tuple(ordered["fluent_z"].tolist()), "points",
                    colour=1, labels=labels),
    ]  # fmt: skip
    title = "z-scores of random directions"
    return StudyChart(title, "parameters", "z, mean and 95 % interval", tuple(series), logarithmic=True)

"""Searches compared at equal time, by the anytime curve of the hypervolume: `optimisers`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dreamy_lens._host import silenced
from dreamy_lens.errors import SettingsError, quoted
from dreamy_lens.features.expressions import Feature
from dreamy_lens.html.numbers import number
from dreamy_lens.results.study import ChartSeries, StudyChart, StudyClaim, StudyResult
from dreamy_lens.search.optimizers import as_settings
from dreamy_lens.studies.claims import bootstrap, verdict
from dreamy_lens.studies.directions import random_scores
from dreamy_lens.studies.execution import StudyExecution
from dreamy_lens.studies.neuron_study import features_of
from dreamy_lens.studies.settings import StudySettings, own_keywords, show_study_settings

if TYPE_CHECKING:
    from dreamy_lens.sweeps.sweep import Sweep

MOMENTS = 40
"""Number of times at which curves are drawn."""
MOST_APART = 1.25
"""Largest ratio of the mean times of two searches that counts as equal; runs end with a whole iteration."""
PROMPTS = 256
"""Number of random prompts, whose median value is the floor of the hypervolume."""


@dataclass(frozen=True)
class OptimiserStudy(StudySettings):
    """Settings of :func:`dreamy_lens.studies.optimisers`.

    Attributes:
        seconds: Number of seconds of every run.
        features: Features, or their texts; None is neurons at the depths of those in the paper's Table 5.
        count: Number of features, if `features` is None; at most six.
        seeds: Number of seeds of each feature.
        searches: Names of searches, or a mapping from names to settings of searches.
        cap: Cross-entropy up to which the hypervolume counts, in nats per token.
    """

    seconds: float | None = 60.0
    features: Any = None
    count: int = 6
    seeds: int = 3
    searches: Any = ("epo", "frontier", "gcg", "random")
    cap: float = 9.0

    quick: ClassVar[Mapping[str, Any]] = {"seconds": 15.0, "count": 2, "seeds": 2}
    least: ClassVar[Mapping[str, int]] = {"count": 1, "seeds": 1}
    unused: ClassVar[Mapping[str, str]] = {
        "search": 'the searches that it compares are searches=, such as ["epo", "gcg"]'
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seconds is None and self.iterations is None:
            raise SettingsError("seconds is None, so the runs have no equal time; give seconds=, such as 60.")
        if not isinstance(self.searches, (list, tuple, Mapping)) or not self.searches:
            raise SettingsError(
                f'searches is {quoted(self.searches)}; it is a list of names, such as ["epo", "gcg"], or a mapping '
                "from names to settings."
            )
        for name in self.named:
            if not isinstance(name, str) or not name.replace("_", "").replace("-", "").isalnum():
                raise SettingsError(f"A search is called {quoted(name)}; its name is letters, digits, - and _.")
            self.search_of(self.named[name])

    @property
    def named(self) -> dict[str, Any]:
        """Settings of the searches, or their names, by name."""
        if isinstance(self.searches, Mapping):
            return dict(self.searches)
        return {name if isinstance(name, str) else as_settings(name, {}).name: name for name in self.searches}


@silenced
def study_optimisers(
    model: Any = None,
    *,
    out: Any = None,
    quick: bool = False,
    ray: Any = None,
    progress: bool | None = None,
    **settings: Any,
) -> StudyResult:
    """Compare searches on features and seeds at equal time, by the hypervolume at every moment. Not in the paper.

    The hypervolume is the area between a frontier, the median value of random prompts, and a cross-entropy of `cap`. It
    is divided by the largest that any run reached for the feature, and averaged over features and seeds.

    Args:
        model: TransformerBridge, Hugging Face id, or folder of a model; None is the embedded model.
        out: Folder of the study. If it holds an unfinished study, that continues; more seeds may be added.
        quick: Whether to make the quick version: 2 neurons, 2 seeds, runs of 15 seconds.
        ray: Ray cluster that makes the runs, as :func:`dreamy_lens.sweep` takes it. Workers that share a machine slow
            each other down, all searches alike.
        progress: Whether to show progress; None shows it in terminals and notebooks.
        **settings: Fields of :class:`~dreamy_lens.studies.optimiser_study.OptimiserStudy`.

    Returns:
        A :class:`~dreamy_lens.results.StudyResult`: `.table` has a row for each search, `.tables["runs"]` one for each
        run, and `.tables["curves"]` the anytime curves.

    Raises:
        FeatureError: A feature does not fit the model.
        RunFolderError: `out` holds something else or a study with other settings, or no run is finished.
        SettingsError: A setting does not exist, or has a value that it cannot have.

    >>> import dreamy_lens as dl
    >>> small = dict(features="L2.N17", seeds=1, iterations=2, seconds=5, length=6, progress=False)
    >>> searches = {"few": dl.RandomSearch(children=4), "more": dl.RandomSearch(children=8)}
    >>> dl.studies.optimisers(searches=searches, **small).table["search"].tolist()
    ['few', 'more']
    """
    chosen = OptimiserStudy.chosen(quick, settings, own_keywords(study_optimisers))
    with StudyExecution("optimisers", "Searches at equal time", chosen, model, out, ray, progress) as work:
        features = features_of(chosen.features, work.hooked, chosen.length)
        features = features[: chosen.count] if chosen.features is None else features
        random = random_scores(features, work.hooked, PROMPTS, chosen.length, 0)
        floors = np.nanmedian(random.scores.values.astype(np.float64), axis=0).tolist()
        sweeps = {
            name: work.sweep(features, f"runs-{name}", seeds=chosen.seeds, search=chosen.search_of(search))
            for name, search in chosen.named.items()
        }
        return _result(work, chosen, features, floors, sweeps)


show_study_settings(study_optimisers, OptimiserStudy)


def _result(
    work: StudyExecution,
    chosen: OptimiserStudy,
    features: Sequence[Feature],
    floors: Sequence[float],
    sweeps: Mapping[str, Sweep],
) -> StudyResult:
    import pandas as pd

    rows, evolutions = [], []
    for feature, floor in zip(features, floors, strict=True):
        for name, runs in sweeps.items():
            for run in runs.of(feature):
                frame = run.evolution((floor, chosen.cap))
                best = run.frontier.best() if len(run.frontier) else None
                fluent = [p.value for p in run.frontier if p.cross_entropy <= chosen.limit]
                evolutions.append(frame)
                rows.append(
                    {"search": name, "feature": feature.label, "seed": run.config.seed}
                    | {"hypervolume": float(frame["hypervolume"].iloc[-1]), "floor": floor}
                    | {
                        "best_value": math.nan if best is None else best.value,
                        "fluent_value": max(fluent, default=math.nan),
                    }
                    | {"prompts": len(run.history), "seconds": float(frame["seconds"].iloc[-1])}
                )
    table: Any = pd.DataFrame(rows)
    tops = table.groupby("feature")["hypervolume"].transform("max")
    table["relative"] = table["hypervolume"] / tops.where(tops > 0)
    last = chosen.seconds if chosen.seconds is not None else float(table["seconds"].max())
    moments = np.geomspace(last / 100, last, MOMENTS)
    scale = np.where(tops > 0, tops, np.nan)[:, None]  # no run of the feature has an area: no curve
    curves = np.array([_curve(frame, moments) for frame in evolutions]) / scale
    lines, summary = [], []
    for name in sweeps:
        own = table["search"] == name
        relative = table.loc[own, "relative"]
        known = curves[(own & table["relative"].notna()).to_numpy()]
        mean = known.mean(axis=0) if len(known) else np.full(MOMENTS, math.nan)
        low, high = bootstrap(relative)
        summary.append(
            {"search": name, "runs": int(own.sum()), "hypervolume": float(relative.mean()), "low": low, "high": high}
            | {"best_value": float(table.loc[own, "best_value"].mean())}
            | {"fluent_value": float(table.loc[own, "fluent_value"].mean())}
            | {"prompts_per_second": float((table.loc[own, "prompts"] / table.loc[own, "seconds"]).mean())}
        )
        lines += [{"search": name, "seconds": s, "hypervolume": v} for s, v in zip(moments.tolist(), mean, strict=True)]
    drawn: Any = pd.DataFrame(lines)
    series = tuple(
        ChartSeries(name, tuple(moments.tolist()), tuple(drawn.loc[drawn["search"] == name, "hypervolume"].tolist()),
                    colour=k % 6)
        for k, name in enumerate(sweeps)
    )  # fmt: skip
    chart = StudyChart("Hypervolume over time", "seconds", "share of the largest", series, logarithmic=True)
    tables = {"searches": pd.DataFrame(summary), "runs": table, "curves": drawn}
    took = {name: float(table.loc[table["search"] == name, "seconds"].mean()) for name in sweeps}
    return work.result(tables, _claims(table, took), [chart])


def _curve(frame: Any, moments: np.ndarray) -> np.ndarray:
    """Return the hypervolume that a run had reached at each moment; 0 before its first iteration ended."""
    seconds, area = frame["seconds"].to_numpy(), frame["hypervolume"].to_numpy()
    places = np.searchsorted(seconds, moments, side="right") - 1
    return np.where(places >= 0, area[np.maximum(places, 0)], 0.0)


def _claims(table: Any, took: Mapping[str, float]) -> list[StudyClaim]:
    """Return a comparison of the first search with each other one, by pairs of equal feature and seed.

    Args:
        table: Row of each run.
        took: Mean seconds of the runs of each search; a verdict needs times that are nearly equal.
    """
    keyed = table.set_index(["feature", "seed"])
    first, *others = took
    base = keyed.loc[keyed["search"] == first, "hypervolume"]
    claims = []
    for name in others:
        other = keyed.loc[keyed["search"] == name, "hypervolume"].reindex(base.index)
        pairs = (base > 0) & (other > 0)
        logs = np.log(other[pairs] / base[pairs]).to_numpy()
        above = int((other > base).sum())
        found = f"higher in {above} of {len(base)} pairs of equal feature and seed"
        holds = False if len(base) and not above else None
        none = int((other == 0).sum())
        found += f"; {none} runs have no prompt within the cap and above the floor" if none else ""
        if len(logs):
            low, high = bootstrap(logs)
            found += f"; ratio {math.exp(float(logs.mean())):.2f}"
            if math.isfinite(low):
                found += f", 95 % interval {math.exp(low):.2f} to {math.exp(high):.2f}"
                holds = bool(low > 0)
        seconds = took[first], took[name]
        equal = max(seconds) <= MOST_APART * min(seconds)
        if not equal:
            found += f"; the runs took {seconds[1]:.2f} s against {seconds[0]:.2f} s, which is no equal time"
        question = f"In {number(max(seconds), 2)} s, {name} reaches a larger hypervolume than {first}."
        answer = verdict(holds if equal else None)
        claims.append(StudyClaim(f"{name} against {first}", question, "", found, answer, "the interval is above 1"))
    return claims

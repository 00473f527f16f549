"""Random directions of the residual stream, driven by three methods: `residual`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from dreamy_lens._host import silenced
from dreamy_lens.errors import SettingsError, quoted
from dreamy_lens.features.expressions import Feature
from dreamy_lens.results.study import ChartSeries, StudyChart, StudyClaim, StudyResult
from dreamy_lens.studies.claims import mean_text, verdict
from dreamy_lens.studies.directions import RandomScores, random_directions, random_scores
from dreamy_lens.studies.execution import StudyExecution, spaced
from dreamy_lens.studies.settings import StudySettings, own_keywords, show_study_settings

METHODS = ("random prompts", "corpus windows", "dreams")
"""Names of the three methods."""
DRAWN = 4
"""Number of layers whose slack is drawn, as in Figures 5b-e."""
SLACKS = tuple(np.linspace(0.0, 4.0, 17).tolist())
"""Slacks below the maximum, in z-scores."""


@dataclass(frozen=True)
class ResidualStudy(StudySettings):
    """Settings of :func:`dreamy_lens.studies.residual`.

    Attributes:
        layers: Layers, or their number, evenly spaced.
        directions: Number of random unit directions in each layer.
        prompts: Number of random prompts.
        corpus: Corpus, as :func:`dreamy_lens.corpus.open` takes it; None is the documentation of installed packages.
        tokens: Tokens of the corpus to scan, such as "1M"; None is all.
        k: Number of strongest windows that are kept for each direction.
        seed: Seed of the directions and of the random prompts.
        together: Number of runs that are scored in the same passes.
    """

    layers: Any = 7
    directions: int = 50
    prompts: int = 1024
    corpus: Any = None
    tokens: Any = None
    k: int = 64
    seed: int = 0
    together: int = 1

    quick: ClassVar[Mapping[str, Any]] = {"directions": 3, "seconds": 15.0, "tokens": "300k"}
    least: ClassVar[Mapping[str, int]] = {"directions": 1, "prompts": 2, "k": 1, "seed": 0, "together": 1}

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.layers if isinstance(self.layers, (list, tuple, range)) else [self.layers]
        whole = all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 0 for n in given)
        if not given or not whole or (given == [self.layers] and given[0] < 1):
            raise SettingsError(
                f"layers is {quoted(self.layers)}; it is a number of layers, such as 7, or a list, such as [0, 3]."
            )

    def layers_of(self, count: int) -> list[int]:
        """Return the layers in a model with `count` of them.

        Raises:
            SettingsError: The model has no such layer.
        """
        if not isinstance(self.layers, (list, tuple, range)):
            return spaced(count, int(self.layers))
        layers = sorted({int(n) for n in self.layers})
        if layers[-1] >= count:
            raise SettingsError(f"layers has {layers[-1]}, and the model has layers 0 to {count - 1}.")
        return layers


@silenced
def study_residual(
    model: Any = None,
    *,
    out: Any = None,
    quick: bool = False,
    ray: Any = None,
    progress: bool | None = None,
    **settings: Any,
) -> StudyResult:
    """Align the residual stream with random unit directions, by three methods (Section 3.5, Figures 5b-e and 6).

    The value is the standardised residual stream times a unit direction (Eq. 4), read after a layer at the last token.
    Random prompts, a scan of a corpus and dreams each look for the highest one. z-scores (Eq. 5) count deviations of
    the random prompts. The slack curve is the lowest cross-entropy of a method's prompts as a function of how far they
    may be below the method's own highest value.

    Args:
        model: TransformerBridge, Hugging Face id, or folder of a model; None is the embedded model.
        out: Folder of the study. If it holds an unfinished study, that continues.
        quick: Whether to make the quick version: 3 directions in each layer, runs of 15 seconds, and 300,000 tokens.
        ray: Ray cluster that makes the runs and the scan, as :func:`dreamy_lens.sweep` takes it.
        progress: Whether to show progress; None shows it in terminals and notebooks.
        **settings: Fields of :class:`~dreamy_lens.studies.residual_study.ResidualStudy`.

    Returns:
        A :class:`~dreamy_lens.results.StudyResult`: `.table` has a row for each layer and method,
        `.tables["directions"]` one for each direction and method, and `.tables["slack"]` the slack curves.

    Raises:
        CorpusError: The corpus does not exist, or none of it can be read.
        RunFolderError: `out` holds something else or a study with other settings, or no run is finished.
        SettingsError: A setting does not exist, or has a value that it cannot have.

    >>> import dreamy_lens as dl
    >>> texts = ["Return a copy of the array, with axes transposed.", "Raise an error if the file is not found there."]
    >>> small = dict(search=dl.RandomSearch(iterations=1, children=8), length=6, progress=False)
    >>> study = dl.studies.residual(layers=[3], directions=1, prompts=16, corpus=texts, **small)
    >>> study.table[["layer", "method"]].values.tolist()[:2]
    [[3, 'random prompts'], [3, 'corpus windows']]
    """
    chosen = ResidualStudy.chosen(quick, settings, own_keywords(study_residual))
    title = "Random directions of the residual stream"
    with StudyExecution("residual", title, chosen, model, out, ray, progress) as work:
        layers = chosen.layers_of(work.hooked.n_layers)
        places = [(layer, j) for layer in layers for j in range(chosen.directions)]
        drawn = {n: random_directions(work.hooked.d_model, n, chosen.directions, chosen.seed) for n in layers}
        features = [drawn[layer][j] for layer, j in places]
        work.say(f"Scoring {chosen.prompts:,} random prompts ...")
        random = random_scores(features, work.hooked, chosen.prompts, chosen.length, chosen.seed)
        pools = _pools(work, chosen, features, random)
        return _result(work, chosen, places, random, pools)


show_study_settings(study_residual, ResidualStudy)


class ScoredPool(NamedTuple):
    """Prompts that a method found for one direction: values and cross-entropies, float64 `[B]` each."""

    value: np.ndarray
    cross_entropy: np.ndarray

    def best(self, limit: float = math.inf) -> tuple[float, float]:
        """Return the highest value with at most this cross-entropy, and its cross-entropy; NaN if there is none."""
        fine = np.flatnonzero(self.cross_entropy <= limit)
        if not len(fine):
            return math.nan, math.nan
        i = fine[int(self.value[fine].argmax())]
        return float(self.value[i]), float(self.cross_entropy[i])

    def slack(self, unit: float) -> np.ndarray:
        """Return the lowest cross-entropy within each of :data:`SLACKS` times `unit` below the highest value."""
        if not len(self.value):
            return np.full(len(SLACKS), math.nan)
        top = self.value.max()
        return np.array([self.cross_entropy[self.value >= top - s * unit].min() for s in SLACKS])


Pools = dict[tuple[int, str], ScoredPool]


def _pools(work: StudyExecution, chosen: ResidualStudy, features: Sequence[Feature], random: RandomScores) -> Pools:
    """Return what each method found for each feature."""
    examples = work.scan(features, chosen.corpus, k=chosen.k, tokens=chosen.tokens)
    runs = work.sweep(features, together=chosen.together)
    pools: Pools = {}
    for i, feature in enumerate(features):
        windows = [w for w in (*examples.of(feature).top, *examples.of(feature).fluent) if w.cross_entropy is not None]
        pairs = {
            METHODS[0]: (random.scores.values[:, i], random.scores.cross_entropy),
            METHODS[1]: ([w.value for w in windows], [w.cross_entropy for w in windows]),
        }
        own = runs.of(feature)
        if len(own):
            frontier = own.merged().frontier
            pairs[METHODS[2]] = frontier.values, frontier.cross_entropies
        for method, pair in pairs.items():
            value, loss = (np.asarray(x, dtype=np.float64) for x in pair)
            fine = np.isfinite(value) & np.isfinite(loss)
            pools[i, method] = ScoredPool(value[fine], loss[fine])
    return pools


def _result(
    work: StudyExecution, chosen: ResidualStudy, places: Sequence[tuple[int, int]], random: RandomScores, pools: Pools
) -> StudyResult:
    import pandas as pd

    rows, slack = [], []
    for i, (layer, j) in enumerate(places):
        for method in METHODS:
            if (i, method) not in pools:
                continue
            pool = pools[i, method]
            value, loss = pool.best()
            fluent, _ = pool.best(chosen.limit)
            rows.append(
                {"layer": layer, "direction": j, "method": method, "value": value, "cross_entropy": loss}
                | {"z": random.z(i, value), "fluent_value": fluent, "fluent_z": random.z(i, fluent)}
            )
            curve = pool.slack(float(random.deviation[i]))
            slack += [
                {"layer": layer, "direction": j, "method": method, "slack": s, "cross_entropy": c}
                for s, c in zip(SLACKS, curve.tolist(), strict=True)
            ]
    directions: Any = pd.DataFrame(rows)
    curves: Any = pd.DataFrame(slack)
    grouped: Any = directions.groupby(["layer", "method"], sort=False)
    summary = grouped.agg(
        z=("z", "mean"),
        z_deviation=("z", "std"),
        cross_entropy=("cross_entropy", "mean"),
        fluent_z=("fluent_z", "mean"),
        fluent_z_deviation=("fluent_z", "std"),
        fluent=("fluent_z", "count"),
        directions=("z", "count"),
    ).reset_index()
    layers = list(dict.fromkeys(layer for layer, _ in places))
    tables = {"layers": summary, "directions": directions, "slack": curves}
    names = [layers[k] for k in spaced(len(layers), DRAWN)]
    charts = [
        _z_chart(summary, "z", "Alignment by layer (6)"),
        _z_chart(summary, "fluent_z", f"... up to {chosen.limit:g} nats per token"),
        *(_slack_chart(curves, layer, letter) for layer, letter in zip(names, "bcde", strict=False)),
    ]
    return work.result(tables, _claims(chosen, directions, layers), charts)


def _claims(chosen: ResidualStudy, frame: Any, layers: Sequence[int]) -> list[StudyClaim]:
    limit = f"{chosen.limit:g}"

    def by_method(column: str) -> dict[str, Any]:
        keyed = frame.set_index(["layer", "direction"])
        return {method: keyed.loc[keyed["method"] == method, column] for method in METHODS}

    z, fluent = by_method("z"), by_method("fluent_z")
    dreams, others = z[METHODS[2]], [z[m].reindex(z[METHODS[2]].index) for m in METHODS[:2]]
    above = int(((dreams > others[0]) & (dreams > others[1])).sum())
    kept, windows = fluent[METHODS[2]], fluent[METHODS[1]].reindex(fluent[METHODS[2]].index)
    higher = int((kept > windows).sum())
    noise = int(fluent[METHODS[0]].notna().sum())
    means = dreams.groupby("layer").mean()
    third = len(layers) // 3
    middle = list(layers[third:-third]) if third else []
    ends = [n for n in layers if n not in middle]
    lower = None
    found = "fewer than three layers"
    if middle and all(n in means.index for n in layers):
        inside, outside = means.loc[middle], means.loc[ends]
        lower = bool(inside.mean() < outside.mean())
        found = (
            f"mean z {inside.mean():.2f} in layers {', '.join(map(str, middle))}, and {outside.mean():.2f} in layers "
            f"{', '.join(map(str, ends))}"
        )
    return [
        StudyClaim(
            "dreams align most",
            "Dreams align the residual stream with random directions more than random prompts and a corpus do.",
            "50 directions in each of seven layers of Pythia-12B, 1,024 random prompts",
            f"{above} of {len(dreams)} directions; z of dreams {mean_text(dreams)}, "
            f"windows {mean_text(z[METHODS[1]])}, random prompts {mean_text(z[METHODS[0]])}",
            verdict(above > len(dreams) / 2),
            "most directions",
        ),
        StudyClaim(
            "dreams align most while fluent",
            f"They still do with a cross-entropy of at most {limit}.",
            "",
            f"{higher} of {len(kept)} directions; z of dreams {mean_text(kept)}, "
            f"windows {mean_text(fluent[METHODS[1]])}; {noise} directions have a random prompt that fluent",
            verdict(higher > len(kept) / 2),
            "most directions",
        ),
        StudyClaim(
            "middle layers",
            "Dreams align less in middle layers than in early and late ones.",
            "",
            found,
            verdict(lower),
            "the mean z of the middle third of the layers is lower",
        ),
    ]


def _z_chart(summary: Any, column: str, title: str) -> StudyChart:
    series = []
    for k, method in enumerate(METHODS):
        rows = summary[summary["method"] == method]
        x = tuple(float(n) + 0.06 * (k - 1) for n in rows["layer"])
        z, deviation = rows[column].to_numpy(), rows[f"{column}_deviation"].to_numpy()
        low, high = tuple((z - deviation).tolist()), tuple((z + deviation).tolist())
        if np.isfinite(z).any():
            series.append(ChartSeries(method, x, tuple(z.tolist()), "bars", low, high, colour=2 - k))
    return StudyChart(title, "layer", "z-score, mean ± deviation", tuple(series))


def _slack_chart(curves: Any, layer: int, letter: str) -> StudyChart:
    series = []
    for k, method in enumerate(METHODS):
        rows = curves[(curves["layer"] == layer) & (curves["method"] == method)]
        mean = rows.groupby("slack")["cross_entropy"].mean()
        if len(mean):
            x, y = tuple(map(float, mean.index)), tuple(mean.tolist())
            series.append(ChartSeries(method, x, y, "line", colour=2 - k))
    title = f"Slack in layer {layer} (5{letter})"
    return StudyChart(title, "slack below the highest value, z", "lowest cross-entropy", tuple(series))

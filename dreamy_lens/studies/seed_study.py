"""Many seeds on one neuron: how far their frontiers differ, and what triggers the prompts: `seeds`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dreamy_lens._host import silenced
from dreamy_lens.api.mechanisms import mechanisms
from dreamy_lens.errors import FeatureError, LLMError, SettingsError, quoted
from dreamy_lens.features.parser import parse
from dreamy_lens.html.words import plural
from dreamy_lens.results.study import MEASURED, ChartSeries, StudyChart, StudyClaim, StudyResult
from dreamy_lens.studies.claims import span_text, verdict
from dreamy_lens.studies.execution import StudyExecution, best_within
from dreamy_lens.studies.paper import default_neuron
from dreamy_lens.studies.prompt_grouping import PromptGroup, group_by_ending, named_groups, vocabulary_words
from dreamy_lens.studies.settings import StudySettings, own_keywords, show_study_settings

if TYPE_CHECKING:
    from dreamy_lens.models.vocabulary import Vocabulary
    from dreamy_lens.results.merged import Merged
    from dreamy_lens.results.prompt import Prompt
    from dreamy_lens.sweeps.sweep import Sweep

READ = 4_000_000
"""Most characters of a corpus whose words are read."""

SPREAD = 2.0
"""Ratio of the highest to the lowest strongest value from which on seeds are said to differ."""
GROUP_COLUMNS = ("name", "key", "kind", "prompts", "misspelt", "value", "cross_entropy", "text")
"""Columns of the table of groups."""
_MOMENTS = (0.0, 0.03, 0.1, 0.3, 1.0)  # shares of a run at which its frontier is drawn


@dataclass(frozen=True)
class SeedStudy(StudySettings):
    """Settings of :func:`dreamy_lens.studies.seeds`.

    Attributes:
        feature: Feature, or its text; None is a neuron at the depth of the paper's L10.N5; see
            :func:`~dreamy_lens.studies.paper.living_neurons`.
        seeds: Number of seeds.
        groups: "ngrams" groups prompts by their last words and by n-grams that they share. "mechanisms" also finds
            in how many ways the prompts of all seeds drive the feature, with :func:`dreamy_lens.mechanisms`.
        names: Names of groups, by their keys in the table "groups".
        llm: Function from a prompt to a reply that names groups, or a :class:`~dreamy_lens.analysis.ChatEndpoint`.
        corpus: Corpus whose words count as known, besides the vocabulary's; None is the vocabulary alone.
        together: Number of runs that are scored in the same passes.
    """

    feature: Any = None
    seeds: int = 60
    groups: str = "ngrams"
    names: Any = None
    llm: Any = None
    corpus: Any = None
    together: int = 1

    quick: ClassVar[Mapping[str, Any]] = {"seeds": 12, "seconds": 20.0}
    least: ClassVar[Mapping[str, int]] = {"seeds": 1, "together": 1}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups not in WAYS:
            raise SettingsError(f"groups is {quoted(self.groups)}; it is one of {', '.join(map(repr, WAYS))}.")
        named_groups((), (), self.names, self.llm)  # what cannot name groups is an error before any run


WAYS = ("ngrams", "mechanisms")
"""Ways of grouping prompts."""


@silenced
def study_seeds(
    model: Any = None,
    *,
    out: Any = None,
    quick: bool = False,
    ray: Any = None,
    progress: bool | None = None,
    **settings: Any,
) -> StudyResult:
    """Dream of one neuron with many seeds, and group the prompts by what triggers them (Figures 2a and 2b, Table 4).

    Args:
        model: TransformerBridge, Hugging Face id, or folder of a model; None is the embedded model.
        out: Folder of the study. If it holds an unfinished study, that continues; more seeds may be added.
        quick: Whether to make the quick version, 12 seeds of 20 seconds.
        ray: Ray cluster that makes the runs, as :func:`dreamy_lens.sweep` takes it.
        progress: Whether to show progress; None shows it in terminals and notebooks.
        **settings: Fields of :class:`~dreamy_lens.studies.seed_study.SeedStudy`.

    Returns:
        A :class:`~dreamy_lens.results.StudyResult`: `.table` has a row for each seed, `.tables["groups"]` one for each
        group, and `.tables["prompts"]` the joint frontier.

    Raises:
        FeatureError: The feature does not fit the model.
        RunFolderError: `out` holds something else or a study with other settings, or no run is finished.
        SettingsError: A setting does not exist, or has a value that it cannot have.

    >>> import dreamy_lens as dl
    >>> small = dict(search=dl.RandomSearch(iterations=1, children=8), length=6, progress=False)
    >>> study = dl.studies.seeds(feature="L2.N17", seeds=2, **small)
    >>> study.table["seed"].tolist(), sorted(study.tables)
    ([0, 1], ['groups', 'prompts', 'seeds'])
    """
    chosen = SeedStudy.chosen(quick, settings, own_keywords(study_seeds))
    with StudyExecution("seeds", "Seeds on one feature", chosen, model, out, ray, progress) as work:
        feature = default_neuron(work.hooked, chosen.length) if chosen.feature is None else parse(chosen.feature)
        words = _known_words(work.hooked.vocabulary, chosen, work)
        runs = work.sweep([feature], seeds=chosen.seeds, together=chosen.together)
        return _result(work, chosen, runs, words)


show_study_settings(study_seeds, SeedStudy)


def _result(work: StudyExecution, chosen: SeedStudy, runs: Sweep, words: set[str]) -> StudyResult:
    import pandas as pd

    merged = runs.merged()
    reference = _reference(runs)
    joint = merged.frontier.hypervolume(reference)
    fluent = [best_within(run.frontier, chosen.limit) for run in runs]
    prompts = [prompt for prompt in fluent if prompt is not None]
    groups = _groups(work, chosen, prompts, words)
    group_of = {id(prompts[i]): group.name for group in groups for i in group.members}
    rows = []
    for run, prompt in zip(runs, fluent, strict=True):
        area = run.frontier.hypervolume(reference)
        rows.append(
            {
                "seed": run.config.seed,
                "best_value": run.frontier[-1].value,
                "best_cross_entropy": run.frontier[-1].cross_entropy,
                "value": math.nan if prompt is None else prompt.value,
                "cross_entropy": math.nan if prompt is None else prompt.cross_entropy,
                "hypervolume": area,
                "share_of_joint": area / joint if joint > 0 else math.nan,
                "group": "" if prompt is None else group_of[id(prompt)],
                "text": (prompt or run.frontier[-1]).text,
            }
        )
    tables = {
        "seeds": pd.DataFrame(rows),
        "groups": pd.DataFrame([_group_row(group, prompts) for group in groups], columns=list(GROUP_COLUMNS)),
        "prompts": merged.frontier.to_pandas()[["value", "cross_entropy", "perplexity", "seed", "text"]],
    }
    claims = _claims(chosen, tables, groups, str(merged.feature_names[0]))
    if chosen.groups == "mechanisms":
        claims += _mechanisms(work, runs, tables)
    return work.result(tables, claims, [_frontiers(merged), *_evolution(runs), _spread(tables["seeds"], chosen.limit)])


def _groups(work: StudyExecution, chosen: SeedStudy, prompts: Sequence[Prompt], words: set[str]) -> list[PromptGroup]:
    """Return the groups of fluent prompts, named as the user wants; without the names of a model that fails."""
    texts = [" ".join(p.text.split()) for p in prompts]
    found = group_by_ending([p.tokens for p in prompts], words)
    try:
        return named_groups(found, texts, chosen.names, chosen.llm)
    except LLMError as error:
        work.notes.append(f"The groups have no names of a language model: {error}")
        return named_groups(found, texts, chosen.names, None)


def _reference(runs: Sequence[Any]) -> tuple[float, float]:
    """Return the reference of hypervolumes: the lowest value and the highest cross-entropy of all runs."""
    pairs = [run.history.reference() for run in runs]
    return min(v for v, _ in pairs), max(c for _, c in pairs)


def _known_words(vocabulary: Vocabulary, chosen: SeedStudy, work: StudyExecution) -> set[str]:
    pieces = (vocabulary.piece(i) for i in range(vocabulary.size))
    texts: list[str] = []
    if chosen.corpus is not None:
        from dreamy_lens.corpus.sources import open_corpus

        work.say("Reading the words of the corpus ...")
        blocks = open_corpus(chosen.corpus).first_blocks(READ)
        texts = [section.text for block in blocks for section in block.sections]
    return vocabulary_words(pieces, texts)


def _group_row(group: PromptGroup, prompts: Sequence[Prompt]) -> dict[str, Any]:
    best = max((prompts[i] for i in group.members), key=lambda p: p.value)
    return {
        "name": group.name,
        "key": group.key,
        "kind": group.kind,
        "prompts": len(group.members),
        "misspelt": ", ".join(group.misspelt),
        "value": best.value,
        "cross_entropy": best.cross_entropy,
        "text": best.text,
    }


def _claims(
    chosen: SeedStudy, tables: Mapping[str, Any], groups: Sequence[PromptGroup], label: str
) -> list[StudyClaim]:
    frame = tables["seeds"]
    best, count = frame["best_value"], len(frame)
    fluent = frame.loc[frame["cross_entropy"] <= chosen.limit, "value"]
    low, high = float(best.min()), float(best.max())
    differ = None if count < 2 else (high >= SPREAD * low if low > 0 else high > 0)
    claims = [
        StudyClaim(
            "spread of seeds",
            "Runs that differ only in their seed end at very different values.",
            "L10.N5 of Pythia-12B, 60 seeds: the strongest prompts are from 2.4 to 10.2",
            f"{label}, {plural(count, 'seed')}: {span_text(best)}",
            verdict(differ),
            f"the highest is at least {SPREAD:g} times the lowest",
        ),
        StudyClaim(
            "fluent prompts",
            f"Each seed finds a prompt with a cross-entropy of at most {chosen.limit:g}.",
            "L10.N5 of Pythia-12B, cross-entropy below 5: values from 0 to 8.6",
            f"{len(fluent)} of {plural(count, 'seed')}" + (f"; {span_text(fluent)}" if len(fluent) else ""),
            verdict(len(fluent) == count),
            "all seeds",
        ),
        StudyClaim(
            "one run against all",
            "How much of the joint frontier does one run reach?",
            "",
            f"the median run dominates {100 * float(np.median(frame['share_of_joint'])):.0f} % of the joint area",
            MEASURED,
        ),
    ]
    shared = [g for g in groups if len(g.members) > 1]
    misspelt = sorted({w for g in groups for w in g.misspelt})
    words = f"{plural(len(groups), 'group')}, {len(shared)} with several prompts"
    words += f": {', '.join(f'{g.name} ({len(g.members)})' for g in shared[:4])}" if shared else ""
    words += f"; misspelt: {', '.join(misspelt[:6])}" if misspelt else "; no misspelt words"
    claims.append(
        StudyClaim(
            "groups of prompts",
            "The prompts of all seeds fall into groups with different triggers (Table 4).",
            "",
            words,
            verdict(len(shared) > 1 if count > 1 else None),
            "at least two groups have several prompts" if count > 1 else "",
        )
    )
    return claims


def _mechanisms(work: StudyExecution, runs: Sweep, tables: dict[str, Any]) -> list[StudyClaim]:
    """Add the table of mechanisms, and return the claim about them."""
    question = "The prompts drive the feature by more than one mechanism, tested by ablation."
    name, rule = "groups by mechanisms", "ablation confirms at least two ways"
    try:
        found = mechanisms(list(runs))
    except FeatureError as error:
        work.notes.append(f"There are no groups by mechanisms: {error}")
        return [StudyClaim(name, question, "", "", verdict(None))]
    table: Any = found.to_pandas("cell")
    table["text"] = [cell.frontier[-1].text if len(cell.frontier) else "" for cell in found.cells]
    tables["mechanisms"] = table
    ways = {cell.name for cell in found.ways}
    confirmed = sum(yes for cell, yes in zip(found.cells, found.confirmed, strict=True) if cell.name in ways)
    return [StudyClaim(name, question, "", found.sentence, verdict(confirmed > 1), rule)]


def _frontiers(merged: Merged) -> StudyChart:
    series = [
        ChartSeries("one seed", tuple(r.frontier.cross_entropies.tolist()), tuple(r.frontier.values.tolist()), "steps",
                    colour=6, thin=True)
        for r in merged.runs
    ]  # fmt: skip
    joint = merged.frontier
    series.append(
        ChartSeries("all seeds", tuple(joint.cross_entropies.tolist()), tuple(joint.values.tolist()), "steps")
    )
    return StudyChart("Frontiers of all seeds (2a)", "cross-entropy, nats per token", "value", tuple(series))


def _evolution(runs: Sweep) -> list[StudyChart]:
    """Return the frontier of the strongest run over its iterations."""
    run = max(runs, key=lambda r: r.frontier[-1].value)
    history, last = run.history, run.history.iterations
    series = []
    for k, iteration in enumerate(sorted({round(share * last) for share in _MOMENTS})):
        rows = history.frontier_rows(iteration)
        x, y = history.cross_entropy[rows].tolist(), history.value[rows].tolist()
        series.append(ChartSeries(f"iteration {iteration}", tuple(x), tuple(y), "steps", colour=k))
    title = f"Iterations of seed {run.config.seed} (2b)"
    return [StudyChart(title, "cross-entropy, nats per token", "value", tuple(series))]


def _spread(frame: Any, limit: float) -> StudyChart:
    every = np.sort(frame["best_value"].to_numpy())
    fluent = np.sort(frame.loc[frame["cross_entropy"] <= limit, "value"].to_numpy())
    series = [
        ChartSeries(name, tuple(v.tolist()), tuple(((np.arange(len(v)) + 1) / len(frame)).tolist()), "steps", colour=k)
        for k, (name, v) in enumerate((("strongest prompt", every), (f"cross-entropy up to {limit:g}", fluent)))
        if len(v)
    ]
    return StudyChart("Values that seeds reach", "value", "share of seeds up to this value", tuple(series))

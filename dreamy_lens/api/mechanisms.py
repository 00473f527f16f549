"""Ways in which prompts drive a feature, by the components that they use: `mechanisms()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dreamy_lens._host import working
from dreamy_lens.analysis.mechanisms import PromptPool, find_mechanisms
from dreamy_lens.api.noted_code import notes_code
from dreamy_lens.api.signatures import parse_first
from dreamy_lens.cluster.remote_scan import local_examples
from dreamy_lens.comparison.compatibility import open_examples
from dreamy_lens.errors import SettingsError, names_keywords, quoted
from dreamy_lens.models.load import as_hooked
from dreamy_lens.results.mechanisms import Mechanisms
from dreamy_lens.results.merged import Merged, merge
from dreamy_lens.results.prompt import Provenance
from dreamy_lens.runs.recorded_run import RecordedRun
from dreamy_lens.scan.examples import Examples
from dreamy_lens.scoring.prompts import as_ids
from dreamy_lens.search.frames import scorer_around, summary_of_contexts


@names_keywords
@notes_code("mechanisms")
def mechanisms(
    prompts: Any,
    feature: Any = None,
    model: Any = None,
    *,
    share: float = 0.8,
    examples: Any = None,
    similar: float = 0.5,
    most: int = 400,
    windows: int = 64,
    quantity: str | None = None,
    seed: int = 0,
    prepend_bos: bool | None = None,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
    contexts: Any = None,
) -> Mechanisms:
    """Find the ways in which prompts drive a feature: by which heads and neurons, whatever their words are.

    The fingerprint of a prompt is what every head, and every neuron of the MLPs, contributes to the feature's value
    (:func:`dreamy_lens.upstream`), beyond what it contributes on texts that the model writes. Prompts whose
    fingerprints point the same way form a cell; the number of cells follows from the data. Each cell is tested: without
    its most characteristic unit, its own prompts should fall, and those of other cells should not.

    Args:
        prompts: A run, several runs of one feature, or prompts: texts, ids, or Prompts.
        feature: Expression, or its text such as ``"L2.N17"``; None is the feature of the runs.
        model: TransformerBridge, Hugging Face id, or folder of a model; None is the model of the runs, or the embedded
            model.
        share: Share of the maximum that a cell must reach to count as a way. Prompts that reach half of it are
            examined.
        examples: Examples of the feature from :func:`dreamy_lens.max_activating`, or their folder. The strongest
            windows are put into the cells too, or form cells of their own. None looks at no corpus.
        similar: Mean cosine of two fingerprints from which on prompts are in one cell.
        most: Most prompts of the runs whose fingerprints are computed at first: those with the least similar texts.
        windows: Most windows of `examples`.
        quantity: Quantity whose contributions are computed, as in :func:`dreamy_lens.upstream`.
        seed: Seed of the texts that the model writes, and of the random units.
        prepend_bos: Whether a BOS token stands before the prompts; None is the model's convention. Runs have their own,
            as well as their template.
        prefix: Token ids of a template before the prompts.
        suffix: Token ids of a template after the prompts.
        contexts: Template, chat or several contexts, from :mod:`dreamy_lens.constraints`, in place of `prefix` and
            `suffix`. Of several contexts, the first is used.

    Returns:
        :class:`~dreamy_lens.results.Mechanisms`: `.cells`, each with its frontier, characteristic units and windows;
        the ablations `.drops` with `.control_drops`; `.texts`, `.polysemanticity`, `.plot()` and `.to_pandas()`.

    Raises:
        FeatureError: The feature has no upstream contributions; the message gives the reason. Or no prompt drives it
            above ordinary text.
        ExamplesError: The feature is not among the examples, or these are none.
        SettingsError: The runs are not of one feature, or a setting has a value that it cannot have.

    >>> import dreamy_lens as dl
    >>> prompts = ["if given, applied only", "the same as described only", "is optional and is applied only"]
    >>> found = dl.mechanisms(prompts, "L2.N812")
    >>> len(found), found["A"].size, found.drops.shape
    (1, 3, (1, 1))
    """
    settings: dict[str, Any] = {
        "share": share,
        "similar": similar,
        "most": most,
        "quantity": quantity,
        "seed": seed,
        "windows": _windows_of(examples, windows, feature),
    }
    runs = _runs_of(prompts)
    if runs:
        around = {"prepend_bos": prepend_bos, "contexts": contexts, "prefix": prefix or None, "suffix": suffix or None}
        given = {"feature": feature, "model": model, **around}
        twice = [name for name, value in given.items() if value is not None]
        if twice:
            raise SettingsError(
                f"Runs have their own feature, model and template; leave out {', '.join(twice)}. Prompts of other "
                "features are given as texts."
            )
        return _of_runs(runs, examples, windows, settings)
    if feature is None:
        raise SettingsError(
            'mechanisms(prompts, feature) needs a feature, such as "L2.N812"; only runs have one of their own.'
        )
    expression = parse_first(feature, prompts if isinstance(prompts, str) else "", "mechanisms(prompts, feature)")
    hooked = as_hooked(model)
    scorer = scorer_around(contexts, expression, hooked, prefix, suffix, prepend_bos=prepend_bos)
    rows = as_ids(prompts, scorer.vocabulary, scorer.frame.bos)
    with working("Finding the ways in which the prompts drive the feature"):
        scores = [scorer.score(row) for row in rows]
        pool = PromptPool.of(rows, [s.value[0] for s in scores], [s.cross_entropy[0] for s in scores])
        frame = scorer.prepend_bos, scorer.prefix, scorer.suffix
        origin = Provenance(str(expression), hooked.name, None, None, *frame, summary_of_contexts(scorer.origin))
        return find_mechanisms(scorer, pool, origin, **settings)


def _runs_of(prompts: Any) -> list[RecordedRun]:
    """Return the runs among what a user gives: none if these are prompts."""
    if isinstance(prompts, RecordedRun):
        return [prompts]
    if isinstance(prompts, Merged):
        return _runs_of(list(prompts.runs))
    parts = getattr(prompts, "runs", prompts)
    if not isinstance(parts, (list, tuple)) or not any(isinstance(p, RecordedRun) for p in parts):
        return []
    odd = next((p for p in parts if not isinstance(p, RecordedRun)), None)
    if odd is not None:
        raise SettingsError(f"mechanisms() takes runs, or prompts; got runs and {quoted(odd)} together.")
    return list(parts)


def _of_runs(runs: list[RecordedRun], examples: Any, windows: int, settings: dict[str, Any]) -> Mechanisms:
    """Find the mechanisms of runs of one feature, with the first run's model and template."""
    merge(runs)  # type: ignore[arg-type]  # says which runs do not belong together
    first, found, parts = runs[0], [], []
    if examples is not None and not settings["windows"]:
        settings["windows"] = _windows_of(examples, windows, first.feature)
    for run in runs:
        history = run.so_far.history
        found += history.all_ids()
        seed = -1 if run.provenance.seed is None else run.provenance.seed
        count = len(history)
        parts.append((history.value, history.cross_entropy, np.full(count, seed), history.iteration))
    value, cross_entropy, seed, iteration = (np.concatenate(column) for column in zip(*parts, strict=True))
    pool = PromptPool.of(found, value, cross_entropy, seed, iteration)

    def work() -> Mechanisms:
        return find_mechanisms(first.session.scorer, pool, first.provenance, **settings)

    with working("Finding the ways in which the run drives its feature"):
        return first.use_model(work)


def _windows_of(examples: Any, count: int, feature: Any) -> list[tuple[int, ...]]:
    """Return the token ids of the strongest windows of a feature; none if the feature is not known yet."""
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
        raise SettingsError(f"windows is {quoted(count)}; it is a whole number of at least 1.")
    if examples is None:
        return []
    found = open_examples(local_examples(examples))
    if isinstance(found, Examples):
        if feature is None:
            return []
        found = found.of(feature)
    return [window.ids for window in found.top[:count]]

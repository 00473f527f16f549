"""Dreams of tokens that a model shall predict, without writing them: `token_logits`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dreamy_lens._host import silenced
from dreamy_lens.errors import SettingsError, TokenError, quoted
from dreamy_lens.features.constructors import logit_difference
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.results.study import ChartSeries, StudyChart, StudyClaim, StudyResult
from dreamy_lens.search.constraints import forbid_text, listed_constraints
from dreamy_lens.studies.claims import span_text, verdict
from dreamy_lens.studies.execution import StudyExecution, best_within
from dreamy_lens.studies.paper import TOKENS
from dreamy_lens.studies.settings import StudySettings, own_keywords, show_study_settings

if TYPE_CHECKING:
    from dreamy_lens.results.merged import Merged

STEPS = (4.6, 6.0, 9.0)
"""Cross-entropies at which values are shown, in nats per token."""


@dataclass(frozen=True)
class LogitStudy(StudySettings):
    """Settings of :func:`dreamy_lens.studies.token_logits`.

    Attributes:
        tokens: Target tokens, each a text of one token; None is those of the paper's Table 2 that are tokens of the
            model, and others, drawn at random from the words of its vocabulary, in place of those that are not.
        seeds: Number of seeds of each token; their joint frontier counts.
    """

    tokens: Any = None
    seeds: int = 2

    quick: ClassVar[Mapping[str, Any]] = {"seconds": 30.0}
    least: ClassVar[Mapping[str, int]] = {"seeds": 1}


@silenced
def study_token_logits(
    model: Any = None,
    *,
    out: Any = None,
    quick: bool = False,
    ray: Any = None,
    progress: bool | None = None,
    **settings: Any,
) -> StudyResult:
    """Dream of tokens that a model shall predict (Section 3.1, Table 2).

    The value is the target's logit minus the highest other logit (Eq. 3): it is above 0 if the model predicts the
    target. Prompts that have the target's letters in any case are forbidden.

    Args:
        model: TransformerBridge, Hugging Face id, or folder of a model; None is the embedded model.
        out: Folder of the study. If it holds an unfinished study, that continues; more seeds may be added.
        quick: Whether to make the quick version, with runs of 30 seconds.
        ray: Ray cluster that makes the runs, as :func:`dreamy_lens.sweep` takes it.
        progress: Whether to show progress; None shows it in terminals and notebooks.
        **settings: Fields of :class:`~dreamy_lens.studies.logit_study.LogitStudy`.

    Returns:
        A :class:`~dreamy_lens.results.StudyResult`: `.table` has a row for each token, and `.tables["prompts"]` one for
        each corner of the frontiers' hulls.

    Raises:
        RunFolderError: `out` holds something else or a study with other settings, or no run is finished.
        SettingsError: A setting does not exist, or has a value that it cannot have.
        TokenError: A target is not exactly one token of the model.

    >>> import dreamy_lens as dl
    >>> small = dict(search=dl.RandomSearch(iterations=1, children=8), length=6, progress=False)
    >>> study = dl.studies.token_logits(tokens=[" the"], seeds=1, **small)
    >>> study.table["token"].tolist(), "the" in study.table["text"][0].lower()
    ([' the'], False)
    """
    chosen = LogitStudy.chosen(quick, settings, own_keywords(study_token_logits))
    with StudyExecution("token_logits", "Tokens to predict", chosen, model, out, ray, progress) as work:
        found: dict[str, Merged] = {}
        for number, token in enumerate(_targets(chosen.tokens, work.hooked, work.notes)):
            rules = [*listed_constraints(chosen.constraints), forbid_text(token)]
            part = f"runs-{number:03d}"
            found[token] = work.sweep([logit_difference(token)], part, seeds=chosen.seeds, constraints=rules).merged()
        return _result(work, chosen, found)


show_study_settings(study_token_logits, LogitStudy)


def _targets(given: Any, model: HookedModel, notes: list[str]) -> list[str]:
    """Return the target tokens, each once, and check them.

    Raises:
        SettingsError: There are none, or one is no text.
        TokenError: A target that was given is not one token.
    """
    if given is not None:
        targets = list(dict.fromkeys([given] if isinstance(given, str) else list(given)))
        if not targets or any(not isinstance(t, str) or not t.strip() for t in targets):
            raise SettingsError(f"tokens is {quoted(given)}; it is a list of texts of one token, such as [' dog'].")
        for target in targets:
            model.vocabulary.token_id(target)
        return targets
    known = []
    for target in TOKENS:
        try:
            model.vocabulary.token_id(target)
            known.append(target)
        except TokenError:
            pass
    if len(known) == len(TOKENS):
        return known
    vocabulary = model.vocabulary
    allowed = map(vocabulary.piece, np.flatnonzero(vocabulary.allowed).tolist())
    pieces = [p for p in allowed if p.strip() and p not in known]
    words = [p for p in dict.fromkeys(pieces) if p.startswith(" ") and p[1:].isalpha() and len(p) > 3] or pieces
    drawn = np.random.default_rng(0).permutation(len(words))[: len(TOKENS) - len(known)]
    others = [words[i] for i in drawn.tolist()]
    missing = ", ".join(repr(t) for t in TOKENS if t not in known)
    notes.append(f"The model has no token {missing}, so {', '.join(map(repr, others))} was drawn from its vocabulary.")
    return [*known, *others]


def _result(work: StudyExecution, chosen: LogitStudy, found: Mapping[str, Merged]) -> StudyResult:
    import pandas as pd

    rows, corners = [], []
    for token, merged in found.items():
        shown = best_within(merged.frontier, chosen.limit)
        row: dict[str, Any] = {"token": token}
        for step in STEPS:
            best = best_within(merged.frontier, step)
            row[f"value_to_{step:g}"] = math.nan if best is None else best.value
        strongest = merged.frontier[-1]
        row |= {"best_value": strongest.value, "best_cross_entropy": strongest.cross_entropy}
        first = next((p for p in merged.frontier if p.value > 0), None)
        row["predicted_from"] = math.nan if first is None else first.cross_entropy
        rows.append({**row, "text": (shown or strongest).text})
        corners += [
            {"token": token, "value": p.value, "cross_entropy": p.cross_entropy, "perplexity": p.perplexity}
            | {"seed": p.provenance.seed, "text": p.text}
            for p in merged.frontier.hull()
        ]
    frame = pd.DataFrame(rows)
    within = {token: best_within(m.frontier, chosen.limit) for token, m in found.items()}
    values = [math.nan if p is None else p.value for p in within.values()]
    predicted = sum(v > 0 for v in values)
    limit = f"{chosen.limit:g}"
    claims = [
        StudyClaim(
            "fluent prompts make the model predict tokens",
            f"For each token, a prompt without its letters and with a cross-entropy of at most {limit} makes it the "
            "model's prediction.",
            "dog, AI and grand with Pythia-12B, cross-entropy at most 6: logits 3.59, 3.09 and 4.23 above the next",
            f"{predicted} of {len(values)} tokens; values {span_text(values)}",
            verdict(predicted == len(values)),
            "all tokens",
        ),
        StudyClaim(
            "prompts without a limit",
            "For each token, some prompt makes it the model's prediction.",
            "the highest values are 4.62, 4.54 and 4.87",
            f"{int((frame['best_value'] > 0).sum())} of {len(frame)} tokens; values {span_text(frame['best_value'])}",
            verdict(bool((frame["best_value"] > 0).all())),
            "all tokens",
        ),
    ]
    series = tuple(
        ChartSeries(token, tuple(m.frontier.cross_entropies.tolist()), tuple(m.frontier.values.tolist()), "steps",
                    colour=k % 6)
        for k, (token, m) in enumerate(found.items())
    )  # fmt: skip
    chart = StudyChart("Frontiers of the tokens", "cross-entropy, nats per token", "logit above the next", series)
    return work.result({"tokens": frame, "prompts": pd.DataFrame(corners)}, claims, [chart])

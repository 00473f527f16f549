"""Make new runs that have not started yet: a single run, several side by side, or a run that starts from a prompt.

All settings are checked before a search starts. :func:`dreamy_lens.runs.progress.advance` and `resume()` start runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from dreamy_lens.errors import ConstraintError, quoted
from dreamy_lens.features.expressions import Feature
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.runs.dream import Dream
from dreamy_lens.runs.dreams import Dreams
from dreamy_lens.runs.session import Session
from dreamy_lens.runs.spec import RunSpec, with_start
from dreamy_lens.scoring.prompts import strip_bos
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.search.config import SearchConfig
from dreamy_lens.search.constraint_kinds import Constraint
from dreamy_lens.search.constraint_set import template_ids
from dreamy_lens.search.constraints import template
from dreamy_lens.search.optimizers import default_search


def new_run(spec: RunSpec) -> Dream:
    """Make a run with an empty history.

    Args:
        spec: Spec of the run.

    Raises:
        FeatureError: The feature does not fit the model.
        PromptError: A start, or the length, is longer than the model's context.
        ConstraintError: The constraints leave no prompt to search, or a start breaks one of them.
    """
    session = Session.open(spec)
    return Dream(session.record(), session)


def side_by_side(
    features: Sequence[Feature], model: HookedModel, configs: Sequence[SearchConfig], **settings: Any
) -> Dreams:
    """Make a run of each feature with each configuration: feature by feature, and seed by seed within each.

    Args:
        features: Expressions to drive.
        model: Model that the features read.
        configs: Settings of the search, one for each seed.
        **settings: Keywords of :meth:`RunSpec.of`: `start`, `constraints`, `fluency_model` and `named`.

    Raises:
        DreamyLensError: :func:`new_run` raised it for one of the runs.
    """
    specs = [RunSpec.of(feature, model, config, **settings) for feature in features for config in configs]
    return Dreams([new_run(spec) for spec in specs])


def from_prompt(spec: RunSpec, ids: Sequence[int]) -> Dream:
    """Make a run that starts from a prompt, with the spec of another run.

    Args:
        spec: Spec of the other run; its start is ignored.
        ids: Token ids of the prompt, `[n]`, without BOS and template.

    Raises:
        ConstraintError: The prompt breaks a constraint.
        PromptError: The prompt is too long.
    """
    config, start = with_start(spec.config, [np.asarray(ids, dtype=np.int64)])
    return new_run(dataclasses.replace(spec, config=config, start=start))


def spec_of_scorer(scorer: Scorer) -> RunSpec:
    """Return the spec of a run with the default settings that scores prompts like a given scorer.

    Args:
        scorer: Scorer whose feature, models, BOS and template the run uses; the template becomes a constraint.

    Raises:
        ConstraintError: The text of the template encodes to other tokens, so no constraint can express the template.
    """
    config = default_search()(prepend_bos=scorer.prepend_bos)
    fluency_model = None if scorer.fluency is scorer.model else scorer.fluency
    return RunSpec(scorer.bound.feature, scorer.model, config, _template_of(scorer), fluency_model)


def _template_of(scorer: Scorer) -> tuple[Constraint, ...]:
    if scorer.origin is not None:
        return (scorer.origin,)
    if not (scorer.prefix or scorer.suffix):
        return ()
    vocabulary, bos = scorer.vocabulary, scorer.model.bos(scorer.prepend_bos)
    text = f"{vocabulary.text(scorer.prefix)}{{dream}}{vocabulary.text(scorer.suffix)}"
    # Some tokenizers split the first word of a text in another way than a word that follows the BOS.
    for constraint in (template(text), template(vocabulary.text(bos) + text)):
        before, after = template_ids([constraint], vocabulary)
        if (tuple(strip_bos(before, bos)), tuple(after)) == (scorer.prefix, scorer.suffix):
            return (constraint,)
    raise ConstraintError(
        f"No dream can start here: the text of the template, {quoted(text)}, encodes to other tokens than the template "
        "has. Explore the prompt inside a template whose text encodes to its tokens."
    )

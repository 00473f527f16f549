"""Make new runs, none of which has started yet: one of its own, several side by side, one like another from a prompt.

Everything is checked before anything is searched. :func:`dreamy_lens.runs.progress.advance` and `resume()` start runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from dreamy_lens.errors import ConstraintError
from dreamy_lens.features.expressions import Feature
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.runs.dream import Dream
from dreamy_lens.runs.dreams import Dreams
from dreamy_lens.runs.session import Session
from dreamy_lens.runs.spec import RunSpec
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.search.config import EPOConfig
from dreamy_lens.search.constraint_set import ConstraintSet
from dreamy_lens.search.constraints import Template, template


def new_run(spec: RunSpec) -> Dream:
    """Make a run that has found nothing yet.

    Args:
        spec: what the run is asked for.

    Raises:
        FeatureError: the feature does not fit the model.
        PromptError: a start, or the length, is more than the model can read.
        ConstraintError: constraints leave nothing to search, or a start breaks one.
    """
    session = Session.open(spec)
    return Dream(session.record(), session)


def side_by_side(
    features: Sequence[Feature], model: HookedModel, configs: Sequence[EPOConfig], **settings: Any
) -> Dreams:
    """Make a run of each feature with each configuration: feature by feature, and seed by seed within each.

    Args:
        features: expressions to drive.
        model: model that the features read.
        configs: settings of the search, one for each seed.
        **settings: as for :meth:`RunSpec.of`: `start`, `constraints`, `fluency_model` and `named`.

    Raises:
        DreamyLensError: whatever :func:`new_run` raises.
    """
    specs = [RunSpec.of(feature, model, config, **settings) for feature in features for config in configs]
    return Dreams([new_run(spec) for spec in specs])


def from_prompt(spec: RunSpec, ids: Sequence[int]) -> Dream:
    """Make a run like another one that starts from a prompt.

    Args:
        spec: what the other run was asked for; its start does not count.
        ids: token ids of the prompt, `[n]`, without BOS and template.

    Raises:
        ConstraintError: the prompt breaks a constraint.
        PromptError: the prompt is too long.
    """
    config = dataclasses.replace(spec.config, length=len(ids))
    return new_run(dataclasses.replace(spec, config=config, start=np.asarray(ids, dtype=np.int64)[None]))


def spec_of_scorer(scorer: Scorer) -> RunSpec:
    """Give the spec of a run that scores prompts as a scorer does, with the default settings.

    Args:
        scorer: scorer, whose template becomes a constraint.

    Raises:
        ConstraintError: the text of the template's tokens encodes to other tokens, so that no constraint stands for it.
    """
    config = EPOConfig(prepend_bos=scorer.prepend_bos)
    fluency_model = None if scorer.fluency is scorer.model else scorer.fluency
    return RunSpec(scorer.bound.feature, scorer.model, config, _template_of(scorer), fluency_model)


def _template_of(scorer: Scorer) -> tuple[Template, ...]:
    if not (scorer.prefix or scorer.suffix):
        return ()
    vocabulary = scorer.vocabulary
    text = f"{vocabulary.text(scorer.prefix)}{{dream}}{vocabulary.text(scorer.suffix)}"
    constraint = template(text)
    around = ConstraintSet([constraint], vocabulary, 1)
    if (tuple(around.prefix), tuple(around.suffix)) != (scorer.prefix, scorer.suffix):
        raise ConstraintError(
            f"No dream can start here: the text of the template, {text!r}, encodes to other tokens than the template "
            "has. Explore the prompt inside a template whose tokens are those of its text."
        )
    return (constraint,)

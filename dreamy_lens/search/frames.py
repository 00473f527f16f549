"""Scorers inside the templates, chats and contexts that constraints put around prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from dreamy_lens.errors import ConstraintError, quoted
from dreamy_lens.features.binding import BoundFeature
from dreamy_lens.features.expressions import Feature
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.scoring.contexts import Combination, ContextScorer
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.search.constraint_kinds import Chat, Constraint, Contexts, Template, to_dict
from dreamy_lens.search.constraint_set import contexts_of, template_frames
from dreamy_lens.search.constraints import context_of
from dreamy_lens.search.constraints import contexts as make_contexts


def scorer_in_frames(
    constraints: Sequence[Constraint], feature: Feature | BoundFeature, model: HookedModel, **settings: Any
) -> Scorer:
    """Return the scorer of prompts in the template, the chat or the contexts of constraints.

    Args:
        constraints: Constraints, of which at most one is a template, a chat or several contexts.
        feature: Expression, or a bound feature.
        model: Model whose activations the feature reads.
        **settings: Settings of :class:`~dreamy_lens.scoring.scorer.Scorer`, except the template.

    Raises:
        ConstraintError: There are several templates, or a template has a token that the model has no row for.
    """
    frames = template_frames(constraints, model.vocabulary)
    several = contexts_of(constraints)
    if several is None:
        (prefix, suffix) = frames[0]
        return Scorer(feature, model, prefix=prefix, suffix=suffix, **settings)
    combination = Combination(several.combine, several.softness)
    scorer = ContextScorer(feature, model, frames, combination, several.gradients_in, **settings)
    scorer.origin = several
    return scorer


def scorer_around(
    contexts: Any,
    feature: Feature | BoundFeature,
    model: HookedModel,
    prefix: Sequence[int],
    suffix: Sequence[int],
    **settings: Any,
) -> Scorer:
    """Return the scorer of prompts in contexts that a user gives, or in a template of token ids.

    Args:
        contexts: Template, chat or several contexts; None uses `prefix` and `suffix`.
        feature: Expression, or a bound feature.
        model: Model whose activations the feature reads.
        prefix: Token ids of a template before the prompt.
        suffix: Token ids of a template after the prompt.
        **settings: Settings of :class:`~dreamy_lens.scoring.scorer.Scorer`, except the template.

    Raises:
        ConstraintError: `contexts` is none of these, or stands beside `prefix` or `suffix`.
    """
    if contexts is None:
        return Scorer(feature, model, prefix=prefix, suffix=suffix, **settings)
    return scorer_in_frames([_around(contexts, prefix, suffix)], feature, model, **settings)


def template_around(
    contexts: Any, model: HookedModel, prefix: Sequence[int], suffix: Sequence[int]
) -> tuple[Sequence[int], Sequence[int]]:
    """Return the token ids before and after a prompt in the one context that a user gives.

    Args:
        contexts: Template or chat; None uses `prefix` and `suffix`.
        model: Model whose tokens they are.
        prefix: Token ids of a template before the prompt.
        suffix: Token ids of a template after the prompt.

    Raises:
        ConstraintError: `contexts` is none of these, is several, or stands beside `prefix` or `suffix`.
    """
    if contexts is None:
        return prefix, suffix
    given = _around(contexts, prefix, suffix)
    if isinstance(given, Contexts):
        raise ConstraintError(f"A prompt is continued in one context, and contexts= has {len(given.frames)}; give one.")
    return template_frames([given], model.vocabulary)[0]


def _around(contexts: Any, prefix: Sequence[int], suffix: Sequence[int]) -> Template | Chat | Contexts:
    """Return what a user gives as `contexts=`, as a constraint."""
    if len(prefix) or len(suffix):
        raise ConstraintError("contexts= has the text around the prompt; leave out prefix= and suffix=.")
    given = contexts
    is_chat = isinstance(given, (list, tuple)) and bool(given) and all(isinstance(m, Mapping) for m in given)
    if isinstance(given, str) or is_chat:
        given = context_of(given)
    elif not isinstance(given, Constraint):
        given = context_of(given[0]) if isinstance(given, (list, tuple)) and len(given) == 1 else make_contexts(given)
    if not isinstance(given, (Template, Chat, Contexts)):
        raise ConstraintError(
            f"contexts= takes template(), chat() or contexts() of dl.constraints, or a list of texts; got "
            f"{quoted(contexts)}."
        )
    return given


def summary_of_contexts(several: Contexts | None) -> str:
    """Return a short text that tells sets of contexts apart, such as "mean in 8 contexts (1f0c8a9d)"; "" for none."""
    if several is None:
        return ""
    digest = hashlib.sha256(json.dumps(to_dict(several)).encode("utf-8", "replace")).hexdigest()[:8]
    return f"{several.combine} in {len(several.frames)} contexts ({digest})"
